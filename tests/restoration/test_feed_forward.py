"""The engine of feed-forward networks, with a network that shows what it was given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.restoration import feed_forward
from video_deblur.restoration.borrowing import passes
from video_deblur.restoration.feed_forward import FeedForward
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import segments
from video_deblur.restoration.streaming.stream import restore_stream

SMALL = DblrNetConfig(channels=8, num_units=2, head_channels=16)


class Neighbours:
    """Returns the sum of the frames it was given."""

    config = SimpleNamespace(num_frames=5)
    reach = 0

    def restore_frame(self, around):
        assert around.shape[0] == 5
        return around.sum(0)


@pytest.fixture
def engine(randomise) -> FeedForward:
    network = DblrNet(SMALL).eval().requires_grad_(False)
    return FeedForward(randomise(network, 0.15))


def settings(**values) -> RestorationSettings:
    return RestorationSettings(**{"borrow": False, **values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Of 0, 1, 2, 3: 2 1 0 1 2, 1 0 1 2 3, 0 1 2 3 2, 1 2 3 2 1.
        ([0.0, 0.01, 0.02, 0.03], [0.06, 0.07, 0.08, 0.09]),
        ([0.01], [0.05]),
        ([0.0, 0.01], [0.02, 0.03]),  # 0 1 0 1 0, 1 0 1 0 1
        ([0.0, 0.01, 0.02], [0.06, 0.05, 0.04]),  # 2 1 0 1 2, 1 0 1 2 1, 0 1 2 1 0
    ],
)
def test_frames_are_mirrored_at_the_ends(values, expected):
    frames = torch.tensor(values)[:, None, None, None].expand(-1, 2, 2, 3)
    restored = FeedForward(Neighbours()).restore(frames, settings())
    torch.testing.assert_close(restored[:, 0, 0, 0], torch.tensor(expected))


@pytest.mark.parametrize("num_frames", [1, 2, 4, 5, 9])
def test_windows_together_equal_one_by_one(engine, make_frames, monkeypatch, num_frames):
    frames = make_frames(num_frames, 30, 40)
    forward, rows = engine.model.restore_frames, []
    monkeypatch.setattr(
        engine.model, "restore_frames", lambda x: rows.append(len(x) - 4) or forward(x)
    )
    together = engine.restore(frames, settings())
    assert rows == ([num_frames] if num_frames > 1 else [1])
    monkeypatch.setattr(feed_forward, "_PIXELS_AT_ONCE", 1)
    alone = engine.restore(frames, settings())
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together, frames, atol=1e-2)


def test_windows_are_as_many_as_fit(engine):
    assert feed_forward.windows_at_once(engine.model, 10) == 16
    assert feed_forward.windows_at_once(engine.model, 512 * 256) == 2
    assert feed_forward.windows_at_once(engine.model, 10**7) == 1
    assert feed_forward.windows_at_once(Neighbours(), 10) == 1
    # 40x50 pixels with all of the frame in reach; 720p in tiles of 512, one at a time.
    small, large = (40, 50), (720, 1280)
    assert feed_forward.network_pixels(engine.model, settings(), *small) == 16 * 2000
    tile = 512 + 2 * engine.model.reach
    assert feed_forward.network_pixels(engine.model, settings(), *large) == tile**2


def test_shots_do_not_see_each_other(make_frames):
    first, second = make_frames(6, 16, 24) * 0.05, make_frames(5, 16, 24) * 0.05 + 0.15
    clip, other = torch.cat([first, second]), torch.cat([first, second.flip(2)])
    network = FeedForward(Neighbours())
    plain, changed = (network.restore(frames, settings()) for frames in (clip, other))
    assert torch.equal(plain[:6], changed[:6])


@pytest.mark.parametrize("num_frames", [1, 2, 9, 40])
@pytest.mark.parametrize("borrow", [False, True])
def test_segments_equal_the_clip_at_once(engine, monkeypatch, num_frames, borrow):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    monkeypatch.setattr(passes, "_SMALLEST_SIDE", 16)
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 40, 48, 3), np.uint8)
    chosen = settings(borrow=borrow, scene_cuts=False)
    at_once = engine.restore(torch.from_numpy(frames).float() / 255, chosen).numpy() * 255
    streamed = np.stack(list(restore_stream(frames, engine, chosen)))
    assert np.abs(at_once - frames).max() > 5
    assert np.abs(streamed - at_once).max() <= 0.501


def test_steps_that_are_not_taken_make_no_segment_longer(engine):
    plans = [engine.joint_grid(settings(steps=steps), 64, 64) for steps in (1, 2, 50)]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0].length == segments._MOST_FRAMES


def test_tiles_equal_the_whole_frame(engine, make_frames):
    frames = make_frames(2, 150, 170)
    whole = engine.restore(frames, settings())
    assert torch.equal(engine.restore(frames, settings(tile=64)), whole)


def limited_to(pixels, network, monkeypatch):
    """Have a network run out of memory beyond so many pixels; return what it was given."""
    forward, seen = network.restore_frames, []

    def limited(frames):
        windows, (height, width) = len(frames) - 4, frames.shape[2:]
        seen.append((windows, height, width))
        if windows * height * width > pixels:
            raise torch.OutOfMemoryError("out of memory")
        return forward(frames)

    monkeypatch.setattr(network, "restore_frames", limited)
    return seen


def test_out_of_memory_goes_on_frame_by_frame(engine, make_frames, monkeypatch, caplog):
    frames = make_frames(12, 150, 170)
    whole = engine.restore(frames, settings())
    seen = limited_to(150 * 170, engine.model, monkeypatch)
    torch.testing.assert_close(engine.restore(frames, settings()), whole)
    assert seen == [(10, 150, 170)] + [(1, 150, 170)] * 12
    assert not caplog.records


@pytest.mark.parametrize("tile", [0, 1024])
def test_out_of_memory_takes_smaller_tiles(engine, make_frames, monkeypatch, tile):
    frames = make_frames(2, 150, 170)
    whole = engine.restore(frames, settings())
    seen = limited_to(110 * 110, engine.model, monkeypatch)
    torch.testing.assert_close(engine.restore(frames, settings(tile=tile)), whole)
    assert seen[:2] == [(2, 150, 170), (1, 150, 170)]
    assert seen.count((1, 150, 170)) == 1, "the second frame begins where it fits"


def test_frames_that_stay_as_they_are_are_not_computed(engine, make_frames, monkeypatch):
    blur = iter([1.0] + [0.0] * 9)
    monkeypatch.setattr(
        "video_deblur.restoration.streaming.footage.measure_blur", lambda frame: next(blur)
    )
    frames, seen = make_frames(10, 20, 24), []
    forward = engine.model.restore_frames
    monkeypatch.setattr(
        engine.model, "restore_frames", lambda x: seen.append(len(x) - 4) or forward(x)
    )
    restored = engine.restore(frames, settings(skip_sharp=True))
    assert seen == [4]
    assert torch.equal(restored[4:], frames[4:])


def test_values_that_are_not_finite_end_the_run(engine, make_frames, monkeypatch):
    monkeypatch.setattr(engine.model, "restore_frames", lambda x: x[2:-2] * float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.restore(make_frames(2, 16, 16), settings())


def test_progress_rises_to_its_total(engine, make_frames):
    calls = []
    engine.restore(make_frames(5, 16, 16), settings(), lambda *call: calls.append(call))
    assert calls == [(done, 5) for done in range(6)]


class Whole:
    """Adds to each pixel the mean of all that it was given."""

    config = SimpleNamespace(num_frames=1)
    reach = None

    def __init__(self):
        self.sizes = []

    def restore_frame(self, around):
        self.sizes.append(tuple(around.shape[2:]))
        return around[0] * 0.5 + around[0].mean() * 0.5


def test_tiles_of_a_network_that_sees_the_whole_frame_are_blended():
    ramp = torch.linspace(0.1, 0.9, 200)[None, None, :, None].expand(1, 72, 200, 3)
    network = Whole()
    restored = FeedForward(network).restore(ramp, settings(tile=128))[0, 0, :, 0]
    assert network.sizes == [(72, 120), (72, 120)]
    left, right = (0.5 * ramp[0, 0, part, 0].mean() for part in (slice(120), slice(80, 200)))
    added = restored - 0.5 * ramp[0, 0, :, 0]
    torch.testing.assert_close(added[:80], left.expand(80))
    torch.testing.assert_close(added[120:], right.expand(80))
    steps = added.diff()
    assert steps.min() > -1e-6
    assert steps.max() < (right - left) / 20, "no seam"


def test_small_frames_are_seen_whole_by_a_network_that_needs_it(make_frames):
    network, frames = Whole(), make_frames(1, 150, 170)
    restored = FeedForward(network).restore(frames, settings())
    assert network.sizes == [(150, 170)]
    torch.testing.assert_close(restored, frames * 0.5 + frames.mean() * 0.5)


def test_smaller_tiles_are_told_of_once(engine, make_frames, monkeypatch, caplog):
    limited_to(110 * 110, engine.model, monkeypatch)
    list(restore_stream([*np.zeros((3, 150, 170, 3), np.uint8)], engine, settings()))
    assert [record.message for record in caplog.records] == [
        "out of memory: going on with tiles of 85 pixels"
    ]


def test_what_overflows_in_half_precision_is_computed_in_float32(make_frames, caplog):
    class Large(nn.Module):
        config = SimpleNamespace(num_frames=1)
        reach = 0

        def restore_frame(self, around):
            # A product of matrices, which autocast narrows: 1e5 is past float16.
            large = around[0].flatten(1) * 1e5
            return (large @ torch.eye(large.shape[1])).view_as(around[0]) / 1e5

    frames = make_frames(3, 16, 16)
    engine = FeedForward(Large(), "cpu", torch.float16)
    torch.testing.assert_close(engine.restore(frames, settings()), frames)
    assert [record.message for record in caplog.records] == [
        "the network gave values that are not finite in float16: such tiles are computed in "
        "float32"
    ]
