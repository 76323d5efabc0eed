"""The engine of networks that restore clips, with priors of a codec that it runs itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from video_deblur.models.cpgd import Cpgd
from video_deblur.restoration import clip as clip_engine
from video_deblur.restoration import load
from video_deblur.restoration.borrowing import passes
from video_deblur.restoration.clip import ClipRestorer, aligned
from video_deblur.restoration.clip_priors import as_pictures, priors_of_frames
from video_deblur.restoration.coring import LEVEL, cored
from video_deblur.restoration.denoising.layout import halve
from video_deblur.restoration.denoising.windows import split
from video_deblur.restoration.settings import RestorationSettings, preset_settings
from video_deblur.restoration.streaming import segments
from video_deblur.restoration.streaming.segments import Segment
from video_deblur.restoration.streaming.stream import restore_stream

from ..conftest import SMALL_CPGD_CONFIG

WHOLE = {"start": 0, "stop": 24, "context_start": 0, "context_stop": 24}


class Recorded(nn.Module):
    """Adds what it is told to, and remembers what it saw."""

    def __init__(self, add=lambda video, priors: 0.1):
        super().__init__()
        self.config, self.add, self.seen = SMALL_CPGD_CONFIG, add, []
        self.cpc = None

    def forward(self, video, priors):
        self.seen.append((video, priors))
        return video + self.add(video, priors)


@pytest.fixture(autouse=True)
def every_change_counts(monkeypatch):
    monkeypatch.setattr(clip_engine, "cored", lambda restored, frame: restored)


@pytest.fixture
def engine(randomise) -> ClipRestorer:
    network = Cpgd(SMALL_CPGD_CONFIG).eval().requires_grad_(False)
    return ClipRestorer(randomise(network, 0.1, add=True))


def settings(**values) -> RestorationSettings:
    return RestorationSettings(**{"borrow": False, "window": 8, "overlap": 2, **values})


def moving_frames(num_frames, height=48, width=64, speed=2):
    """A texture that moves to the right, uint8 `[T, H, W, 3]`."""
    generator = np.random.default_rng(3)
    start = speed * (num_frames - 1)
    cells = -(-height // 4), -(-(width + start) // 4), 3
    wide = generator.integers(0, 255, cells, np.uint8).repeat(4, 0).repeat(4, 1)[:height]
    return np.stack([wide[:, start - speed * i :][:, :width] for i in range(num_frames)])


def test_a_network_that_reads_no_priors_restores_without_a_codec(monkeypatch):
    def encode(frames):
        raise AssertionError("encoded")

    monkeypatch.setattr(clip_engine, "priors_of_frames", encode)
    network = Recorded()
    first = dataclasses.replace(SMALL_CPGD_CONFIG.cpfp, priors="none")
    network.config = dataclasses.replace(SMALL_CPGD_CONFIG, cpfp=first)
    frames = torch.rand(3, 30, 42, 3)
    restored = ClipRestorer(network).restore(frames, settings())
    torch.testing.assert_close(restored, (frames + 0.05).clamp(0, 1))
    ((_, priors),) = network.seen
    assert [list(part.shape) for part in priors] == [[1, c, 3, 8, 11] for c in (2, 1, 1)]
    assert all(part.eq(0).all() for part in priors)


def test_the_smallest_changes_are_left_out(monkeypatch):
    monkeypatch.setattr(clip_engine, "cored", cored)
    frames = torch.from_numpy(moving_frames(3)).float() / 255 * 0.5 + 0.2
    for levels, kept in ((0.2, 0.04), (10, 0.99)):
        network = Recorded(lambda video, priors, size=levels: 2 * size * LEVEL)
        restored = ClipRestorer(network).restore(frames, settings())
        share = ((restored - frames) / levels / LEVEL).mean()
        assert share == pytest.approx(kept, abs=0.01)


def test_priors_are_those_of_the_frames():
    priors = priors_of_frames(moving_frames(4))
    assert [tuple(part.shape) for part in priors] == [(1, c, 4, 12, 16) for c in (2, 1, 1)]
    assert not priors.valid[:, :, 0].any(), "there is nothing before the first frame"
    inner = priors.motion[0, :, 1:, 2:-2, 3:-3]
    # Two pixels to the right: what is here was two pixels to the left, half a position.
    assert inner[0].median() == pytest.approx(-0.5, abs=0.07)
    assert inner[1].median() == pytest.approx(0, abs=0.07)


def test_pictures_are_the_frames_rounded():
    frames = moving_frames(2)
    video = torch.from_numpy(frames).float().movedim(-1, 0) / 127.5 - 1
    assert np.array_equal(np.stack(list(as_pictures(video))), frames)


def test_the_network_sees_windows_with_their_own_priors():
    network = Recorded()
    frames = moving_frames(14, speed=1)
    restored = ClipRestorer(network).restore(torch.from_numpy(frames).float() / 255, settings())
    assert [seen.shape[2] for seen, _ in network.seen] == [8, 8]
    for start, (video, priors) in zip((0, 6), network.seen, strict=True):
        part = frames[start : start + 8]
        assert np.array_equal(np.stack(list(as_pictures(video[0]))), part)
        for ours, expected in zip(priors, priors_of_frames(part), strict=True):
            assert torch.equal(ours, expected)
    expected = (torch.from_numpy(frames).float() / 255 + 0.05).clamp(0, 1)
    torch.testing.assert_close(restored, expected)


def test_windows_are_crossfaded(make_frames):
    # Each window adds its own number.
    network = Recorded(lambda video, priors: 0.1 * len(network.seen))
    frames = 0.5 * make_frames(14, 16, 16)
    added = (ClipRestorer(network).restore(frames, settings()) - frames)[:, 0, 0, 0]
    torch.testing.assert_close(added[:6], torch.full((6,), 0.05))
    torch.testing.assert_close(added[8:], torch.full((6,), 0.1))
    torch.testing.assert_close(added[6:8], torch.tensor([0.0625, 0.0875]))


@pytest.mark.parametrize("num_frames", [1, 7, 23, 40])
@pytest.mark.parametrize("borrow", [False, True])
@pytest.mark.parametrize("most_frames", [100, 6])
def test_segments_equal_the_clip_at_once(engine, monkeypatch, num_frames, borrow, most_frames):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    monkeypatch.setattr(clip_engine, "_WINDOW_PIXELS", most_frames * 40 * 48)
    monkeypatch.setattr(passes, "_SMALLEST_SIDE", 16)
    frames = moving_frames(num_frames, 40, 48, speed=1)
    chosen = settings(borrow=borrow, scene_cuts=False)
    at_once = engine.restore(torch.from_numpy(frames).float() / 255, chosen).numpy() * 255
    streamed = np.stack(list(restore_stream(frames, engine, chosen)))
    assert np.abs(at_once - frames).max() > 5
    assert np.abs(streamed - at_once).max() <= 0.501


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [((1088, 1920), 24, 4), ((1440, 2560), 13, 4), ((2160, 3840), 6, 2), ((9000, 9000), 6, 2)],
)
def test_windows_of_large_frames_are_short(engine, size, window, overlap):
    chosen = preset_settings(engine.config, "fast", window=24, overlap=4)
    short = engine.fitted(chosen, *size)
    assert (short.window, short.overlap) == (window, overlap)
    assert dataclasses.replace(short, window=24, overlap=4) == chosen
    grid = engine.grid(engine.config, chosen, *size)
    assert (grid.window, grid.hop) == (window, window - overlap)
    assert engine.session(chosen, *size).count(Segment(**WHOLE), (0, 24)) == sum(
        1 + engine.layout(short, *size).count(stop - start, *size)
        for start, stop in split(24, window, overlap)
    )


def test_a_window_takes_little_more_memory_than_it_has_pixels(grown_memory_bytes):
    (grown,) = grown_memory_bytes(
        "kept = session._padded_video(frames, (0, 24))",
        setup="import torch\n"
        "from types import SimpleNamespace\n"
        "from video_deblur.restoration.clip import ClipSession\n"
        "session = ClipSession.__new__(ClipSession)\n"
        "session._size = session._padded = (720, 1280)\n"
        "session._engine = SimpleNamespace(device='cpu')\n"
        "frames = SimpleNamespace(colors=lambda start, stop: torch.rand(1, 720, 1280, 3))\n"
        "session._padded_video(frames, (0, 2))",
    )
    assert grown < 1.6 * 24 * 720 * 1280 * 12


@pytest.mark.parametrize("borrow", [False, True])
def test_windows_that_segments_share_are_computed_once(monkeypatch, borrow):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    network, calls = Recorded(), []
    chosen = settings(borrow=borrow, scene_cuts=False)
    frames = moving_frames(40, 24, 32, speed=1)
    engine = ClipRestorer(network)
    streamed = restore_stream(frames, engine, chosen, lambda *call: calls.append(call), 40)
    assert len(list(streamed)) == 40
    places = {video[0, 0, :, 0, :].numpy().tobytes() for video, _ in network.seen}
    # Of 8 frames, every 6.
    assert len(network.seen) == len(places) == 7
    done = [frame for frame, _ in calls]
    assert done == sorted(done)
    assert done[-1] == 40


@pytest.mark.parametrize("pixels", [8 * 24 * 32, 6 * 24 * 32])
def test_memory_counts_the_windows_that_are_kept(monkeypatch, pixels):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    monkeypatch.setattr(clip_engine, "_WINDOW_PIXELS", pixels)
    kept, once = [], clip_engine.ClipSession._window_once

    def counted(session, *arguments):
        video = once(session, *arguments)
        kept.append(len(session._kept))
        return video

    monkeypatch.setattr(clip_engine.ClipSession, "_window_once", counted)
    network = Recorded()
    network.bytes_per_pixel = 0
    engine, chosen = ClipRestorer(network), settings(borrow=True, scene_cuts=False)
    list(restore_stream(moving_frames(40, 24, 32, speed=1), engine, chosen))
    window = pixels // (24 * 32)
    assert engine.memory_bytes(chosen, 24, 32) == window * (28 + 12 * max(kept)) * 24 * 32
    assert max(kept) > 1
    # At once nothing is kept, and of a short clip windows are short.
    assert engine.memory_bytes(chosen, 24, 32, num_frames=40) == window * 28 * 24 * 32
    assert engine.memory_bytes(chosen, 24, 32, num_frames=1) == 28 * 24 * 32


def test_one_frame_is_restored_without_a_codec(monkeypatch, engine, make_frames):
    frame = make_frames(1, 40, 56)
    expected = engine.restore(frame, settings())

    def encode(frames):
        raise AssertionError("encoded")

    monkeypatch.setattr(clip_engine, "priors_of_frames", encode)
    assert torch.equal(engine.restore(frame, settings()), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 30), (90, 131)])
def test_frames_of_any_size_are_restored(engine, make_frames, height, width):
    frames = make_frames(3, height, width)
    restored = engine.restore(frames, settings(tile=64))
    assert restored.shape == frames.shape
    assert restored.isfinite().all()


def test_tiles_see_the_priors_of_their_place():
    network = Recorded()
    frames = torch.from_numpy(moving_frames(3, 96, 160)).float() / 255
    engine = ClipRestorer(network)
    engine.restore(frames, settings(tile=72))
    whole, tiles = priors_of_frames(moving_frames(3, 96, 160)), network.seen
    # As large as needed, at most 72.
    assert {tuple(video.shape[3:]) for video, _ in tiles} == {(56, 64)}
    video = frames.movedim(-1, 0)[None] * 2 - 1
    for seen, priors in tiles:
        places = [
            (top, left)
            for top in range(0, 96 - 55, 8)
            for left in range(0, 160 - 63, 8)
            if torch.equal(seen, video[..., top : top + 56, left : left + 64])
        ]
        assert len(places) == 1
        top, left = (place // 4 for place in places[0])
        for ours, theirs in zip(priors, whole, strict=True):
            assert torch.equal(ours, theirs[..., top : top + 14, left : left + 16])


@pytest.mark.parametrize("tile", [64, 100, 136, 272, 544, 1000])
def test_tiles_start_at_positions_of_the_priors_however_often_halved(engine, tile):
    layout = engine.layout(settings(tile=tile), 700, 1100)
    while layout is not None and layout.window == 8:
        for piece in aligned(layout).pieces(8, 700, 1100):
            for start, stop in (piece.rows, piece.columns):
                assert start % 4 == stop % 4 == 0
        layout = halve(layout, (8, 700, 1100), 1)


@pytest.mark.parametrize("tile", [0, 320, 2048])
def test_half_of_a_tile_larger_than_the_frame_is_half_of_the_frame(engine, tile):
    layout = dataclasses.replace(engine.layout(settings(tile=256), 240, 300), tile=tile)
    halved = halve(layout, (8, 240, 300), 1)
    assert halved is not None
    assert halved.tile == 150


def test_out_of_memory_takes_smaller_tiles(make_frames, caplog):
    def limited(video, priors):
        if video.shape[3] * video.shape[4] > 130 * 130:
            raise torch.OutOfMemoryError("out of memory")
        return 0.1

    frames = 0.5 * make_frames(2, 260, 270)
    restored = ClipRestorer(Recorded(limited)).restore(frames, settings(tile=256))
    torch.testing.assert_close(restored, frames + 0.05)
    assert "out of memory: going on with windows of 8 frames and tiles" in caplog.text


def test_frames_that_stay_as_they_are_are_not_computed(make_frames, monkeypatch):
    blur = iter([1.0] + [0.0] * 19)
    monkeypatch.setattr(
        "video_deblur.restoration.streaming.footage.measure_blur", lambda frame: next(blur)
    )
    frames, network = 0.5 * make_frames(20, 16, 24), Recorded()
    restored = ClipRestorer(network).restore(frames, settings(skip_sharp=True))
    assert len(network.seen) == 1, "windows without a frame to restore"
    assert torch.equal(restored[4:], frames[4:])
    torch.testing.assert_close(restored[0], frames[0] + 0.05)


def test_values_that_are_not_finite_end_the_run(make_frames):
    network = Recorded(lambda video, priors: float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        ClipRestorer(network).restore(make_frames(2, 16, 16), settings())


def test_what_overflows_in_half_precision_is_computed_in_float32(make_frames, caplog):
    def large(video, priors):
        # A product of matrices, which autocast narrows: 1e5 is past float16.
        x = video.flatten(3)
        return ((1e5 * x) @ torch.eye(x.shape[-1])).view_as(video) * 0

    frames = make_frames(10, 16, 16)
    engine = ClipRestorer(Recorded(large), "cpu", torch.float16)
    torch.testing.assert_close(engine.restore(frames, settings()), frames)
    assert [record.message for record in caplog.records] == [
        "the network gave values that are not finite in float16: such tiles are computed in "
        "float32"
    ]


def test_progress_rises_to_its_total(make_frames):
    calls = []
    engine = ClipRestorer(Recorded())
    engine.restore(make_frames(14, 16, 16), settings(), lambda *call: calls.append(call))
    # Two windows: priors and a tile of each.
    assert calls == [(done, 4) for done in range(5)]


def test_shots_do_not_see_each_other(engine):
    first, second = moving_frames(6) // 4, 190 + moving_frames(5) // 4
    clip, other = (np.concatenate([first, part]) for part in (second, second[:, ::-1]))
    plain, changed = (
        engine.restore(torch.from_numpy(frames).float() / 255, settings())
        for frames in (clip, other)
    )
    assert torch.equal(plain[:6], changed[:6])
    assert not torch.equal(plain[6:], changed[6:])


def test_the_codec_s_cuts_end_propagation_where_none_are_looked_for(engine):
    first, second = moving_frames(4) // 4, 190 + moving_frames(4) // 4
    clips = [np.concatenate([first, each]) for each in (second, second[:, ::-1])]
    plain, changed = (
        engine.restore(torch.from_numpy(clip).float() / 255, settings(scene_cuts=False))
        for clip in clips
    )
    # All in one window.
    assert torch.equal(plain[:4], changed[:4])
    assert not torch.equal(plain[4:], changed[4:])


def test_a_checkpoint_says_how_clips_are_cut(tmp_path, randomise):
    from video_deblur.models.checkpoint import save_checkpoint

    network = randomise(Cpgd(SMALL_CPGD_CONFIG), 0.1, add=True)
    path = tmp_path / "cpgd.safetensors"
    save_checkpoint(path, network.state_dict(), network.config, provenance={})
    engine = load.load_deblurrer(path, "cpu", "bfloat16")
    assert isinstance(engine, ClipRestorer)
    # Pixels are made in float32 weights, whatever is computed in.
    assert {p.dtype for p in engine.model.parameters()} == {torch.float32}
    chosen = preset_settings(engine.config, "fast")
    assert (chosen.window, chosen.overlap) == (8, 2)
    assert engine.layout(chosen, 200, 200).tile == 64
    assert clip_engine.ClipRestorer.noise_shape(engine.config, 8, 8) is None
