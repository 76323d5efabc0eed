from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from video_deblur.restoration.borrowing import filters, flows, passes, patch_fusion
from video_deblur.restoration.borrowing.candidates import Frame, Panel, Passed
from video_deblur.restoration.borrowing.comparison import Resemblance
from video_deblur.restoration.borrowing.passes import REACH, borrow, borrow_stream


def texture(seed=0, size=(200, 240)):
    """Detail of all scales, as photos have it: [H, W, 3] in 0..1."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((*size, 3), np.float32)
    for scale in (1, 2, 4, 8, 16):
        noise = rng.normal(size=(size[0] // scale + 2, size[1] // scale + 2, 3))
        grown = cv2.resize(noise.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
        picture += grown * scale**0.7
    picture = cv2.GaussianBlur(picture, (0, 0), 0.8)
    low, high = picture.min(), picture.max()
    return (picture - low) / (high - low)


def panned(picture, offsets, size=(128, 160)):
    """Film a picture from offsets (y, x): [T, H, W, 3]."""
    return np.stack([picture[y : y + size[0], x : x + size[1]] for y, x in offsets])


def smeared(frame, length, vertical=False):
    size = (1, length) if vertical else (length, 1)
    return cv2.blur(frame, size, borderType=cv2.BORDER_REFLECT)


def psnr(first, second):
    error = np.square(np.asarray(first) - np.asarray(second)).mean()
    return 10 * np.log10(1 / max(error, 1e-12))


OFFSETS = [(20 + 2 * i, 20 + 3 * i) for i in range(9)]


def test_a_blurred_frame_takes_detail_from_sharp_neighbours_that_moved():
    sharp = panned(texture(), OFFSETS)
    blurry = sharp.copy()
    blurry[4] = smeared(sharp[4], 9)
    restored = borrow(torch.from_numpy(blurry)).numpy()
    assert psnr(restored[4], sharp[4]) > psnr(blurry[4], sharp[4]) + 5


def test_frames_blurred_in_different_directions_complete_each_other():
    sharp = panned(texture(), OFFSETS[:2])
    blurry = np.stack([smeared(sharp[0], 7), smeared(sharp[1], 7, vertical=True)])
    restored = borrow(torch.from_numpy(blurry)).numpy()
    for index in range(2):
        gain = psnr(restored[index], sharp[index]) - psnr(blurry[index], sharp[index])
        assert gain > 1


def test_sharp_frames_stay_as_they_are():
    sharp = panned(texture(), OFFSETS)
    restored = borrow(torch.from_numpy(sharp)).numpy()
    assert min(map(psnr, restored, sharp)) > 50


@pytest.mark.parametrize("count", [1, 3])
def test_what_no_neighbour_can_help_stays_bit_equal(count):
    frame = smeared(panned(texture(), OFFSETS[:1])[0], 9)
    frames = torch.from_numpy(np.stack([frame] * count))
    frames = (frames * 65535).round() / 65535
    assert torch.equal(borrow(frames), frames)


def test_a_sharp_neighbour_that_shows_something_else_is_not_taken():
    blurry = smeared(panned(texture(0), OFFSETS[:1])[0], 9)
    other = panned(texture(1), OFFSETS[1:2])[0]
    restored = borrow(torch.from_numpy(np.stack([blurry, other]))).numpy()
    assert psnr(restored[0], blurry) > 45


def test_frames_out_of_reach_have_no_influence():
    sharp = panned(texture(), [(20, 20 + i) for i in range(REACH + 2)])
    # The first frame takes from the sharper one before the last in reach, and is evened out
    # with the second one, which takes from the last.
    lengths = [9] * (REACH - 1) + [5, 1, 1]
    frames = np.stack([smeared(frame, n) for frame, n in zip(sharp, lengths, strict=True)])
    changed = frames.copy()
    changed[REACH + 1] = texture(5)[:128, :160]
    first = borrow(torch.from_numpy(frames))[0]
    assert torch.equal(borrow(torch.from_numpy(changed))[0], first)
    changed[REACH] = changed[REACH + 1]
    assert not torch.equal(borrow(torch.from_numpy(changed))[0], first)


def test_frames_that_took_detail_differ_less_from_those_beside_them(monkeypatch):
    sharp = panned(texture(), OFFSETS)
    noise = np.random.default_rng(0).normal(scale=0.02, size=sharp.shape).astype(np.float32)
    blurry = np.stack([f if i % 3 == 1 else smeared(f, 9) for i, f in enumerate(sharp)])
    frames = torch.from_numpy((blurry + noise).clip(0, 1))

    def flicker(clip):
        return np.mean(
            [
                np.abs(later[:-2, :-3] - earlier[2:, 3:])[8:-8, 8:-8].mean()
                for earlier, later in pairwise(clip.numpy())
            ]
        )

    evened = borrow(frames)
    monkeypatch.setattr(Resemblance, "__call__", lambda self, match: 0 * self.frame.taken)
    plain = borrow(frames)
    assert flicker(evened) < 0.8 * flicker(plain)
    assert psnr(evened, sharp) > psnr(plain, sharp)


def test_frames_that_took_nothing_keep_their_noise():
    sharp = panned(texture(), OFFSETS)
    noise = np.random.default_rng(0).normal(scale=0.02, size=sharp.shape).astype(np.float32)
    frames = (sharp + noise).clip(0, 1)
    assert min(map(psnr, borrow(torch.from_numpy(frames)).numpy(), frames)) > 50


def test_the_stream_reads_no_further_than_it_must():
    frames = torch.from_numpy(panned(texture(), [(20, 20 + i) for i in range(REACH + 4)]))
    read = 0

    def source():
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    stream = borrow_stream(source())
    next(stream)
    assert read == REACH + 1
    assert len(list(stream)) == len(frames) - 1


@pytest.mark.parametrize("size", [(1, 1), (30, 200), (70, 71), (65, 300)])
def test_any_size_is_kept(size):
    sharp = np.stack([texture(0, (size[0] + 9, size[1] + 9))[: size[0], : size[1]]] * 3)
    sharp[1] = cv2.blur(sharp[1], (5, 5))
    restored = borrow(torch.from_numpy(sharp))
    assert restored.shape == sharp.shape
    assert torch.isfinite(restored).all()


@pytest.mark.parametrize("size", [(200, 240), (192, 96), (208, 97), (65, 300)])
def test_bands_of_rows_give_what_the_whole_frame_gives(size, monkeypatch):
    # Motion along rows and columns, so that bands read rows of neighbours beyond their own.
    sharp = panned(texture(size=(260, 400)), [(10 + 5 * i, 9 * i) for i in range(5)], size)
    blurry = np.stack([cv2.blur(frame, (1, 1 + 4 * (i % 3))) for i, frame in enumerate(sharp)])

    def both_passes(given, between=None):
        """Return the first pass, and the second one on `between` or on the first."""
        place = passes._Place(torch.device("cpu"))
        with flows.Flows() as pool:
            first = passes._slide(map(Passed, given), passes.BORROWING, place, pool, (0, None))
            borrowed = list(first)
            second = passes._slide(between or borrowed, passes.EVENING, place, pool, (0, None))
            return borrowed, list(second)

    frames = torch.from_numpy(blurry)
    whole = both_passes(frames)
    monkeypatch.setattr(filters, "BAND_PIXELS", 1)
    monkeypatch.setattr(patch_fusion, "BAND_VALUES", 1)
    monkeypatch.setattr(patch_fusion, "BATCH_VALUES", 1)
    monkeypatch.setattr(passes, "KEPT_VALUES", 0)
    # Each pass by itself: what rounding the first differs by may move the second's flow.
    banded = both_passes(frames, between=whole[0])
    before = [frames, [passed.pixels for passed in whole[0]]]
    for source, found, expected in zip(before, banded, whole, strict=True):
        moved = max((e.pixels - s).abs().max() for e, s in zip(expected, source, strict=True))
        assert moved > 0.01
        for part, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(part.pixels, reference.pixels, atol=2e-5, rtol=0)
            assert (part.taken is None) == (reference.taken is None)
            if part.taken is not None:
                torch.testing.assert_close(part.taken, reference.taken, atol=1e-4, rtol=0)


def test_frames_wait_in_16_bits_that_16_bit_video_survives():
    values = torch.arange(65536).reshape(256, 256, 1).expand(-1, -1, 3) / 65535
    assert torch.equal(Frame.of(Passed(values), "cpu").rows(0, 256)[0].permute(1, 2, 0), values)


@pytest.mark.parametrize("wanted", [(0, 3), (3, 6), (6, 9)])
def test_parts_of_a_clip_come_out_as_in_the_whole(wanted):
    sharp = panned(texture(), OFFSETS)
    blurry = np.stack([f if i % 3 == 1 else smeared(f, 9) for i, f in enumerate(sharp)])
    frames = torch.from_numpy(blurry)
    part = torch.stack(list(borrow_stream(frames, wanted=wanted)))
    assert torch.equal(part, borrow(frames)[slice(*wanted)])


def test_frames_that_are_only_borrowed_from_are_registered_to_no_other(monkeypatch):
    sharp = panned(texture(), OFFSETS)
    blurry = np.stack([f if i % 3 == 1 else smeared(f, 9) for i, f in enumerate(sharp)])
    computed = []
    start = flows.Flows.start

    def counted(self, *frames):
        computed.append(frames)
        start(self, *frames)

    monkeypatch.setattr(flows.Flows, "start", counted)
    list(borrow_stream(torch.from_numpy(blurry)))
    everything = len(computed)
    computed.clear()
    list(borrow_stream(torch.from_numpy(blurry), wanted=(0, 1)))
    assert len(computed) < everything / 2


def test_what_a_network_sharpened_still_takes_from_frames_that_were_sharp():
    sharp = panned(texture(), OFFSETS[:3])
    blurry = sharp.copy()
    blurry[1] = smeared(sharp[1], 9)
    # As sharp as its neighbours, and wrong.
    invented = blurry.copy()
    invented[1] += (texture(seed=9)[:128, :160] - 0.5) * 0.3
    plain = borrow(torch.from_numpy(invented.clip(0, 1)))
    panels = map(Panel, torch.from_numpy(blurry), torch.from_numpy(invented.clip(0, 1)))
    compared = torch.stack(list(borrow_stream(panels)))
    assert psnr(compared[1], sharp[1]) > psnr(plain[1], sharp[1]) + 0.5
