"""Segments against the clip at once."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
import torch
from video_deblur.restoration.borrowing import passes
from video_deblur.restoration.denoising.noise import FrameNoise
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import footage, segments
from video_deblur.restoration.streaming.segments import plan_segments, segment_grid
from video_deblur.restoration.streaming.stream import (
    restore_segment,
    restore_segments,
    restore_stream,
)
from video_deblur.video.scene_cuts import find_cuts


def moving(num_frames: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (16, 24 + num_frames, 3), np.uint8)
    return np.stack([wide[:, index : index + 24] for index in range(num_frames)])


def at_once(deblurrer: Deblurrer, frames: np.ndarray, settings: RestorationSettings):
    restored = deblurrer.restore(torch.from_numpy(frames).float() / 255, settings)
    return restored.numpy() * 255


@pytest.fixture
def deblurrer(small_model) -> Deblurrer:
    return Deblurrer(small_model)


@pytest.fixture
def _short_segments(monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize("num_frames", [1, 7, 8, 16, 17, 23, 24, 25, 31, 32, 33, 50])
def test_with_one_step_segments_equal_the_clip_at_once(num_frames, deblurrer):
    settings = RestorationSettings(window=8, overlap=4, steps=1)
    frames = moving(num_frames)
    restored = np.stack(list(restore_stream(frames, deblurrer, settings)))
    assert restored.shape == frames.shape
    # Half a level of rounding, and float arithmetic.
    assert np.abs(restored - at_once(deblurrer, frames, settings)).max() <= 0.501


@pytest.mark.usefixtures("_short_segments")
def test_frames_borrow_across_segments(deblurrer, monkeypatch):
    monkeypatch.setattr(passes, "_SMALLEST_SIDE", 16)
    settings = RestorationSettings(window=8, overlap=4)
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (40, 200, 3), np.uint8), (0, 0), 1.0)
    frames = np.stack([wide[:, 2 * index : 2 * index + 48] for index in range(72)])
    for index in set(range(72)) - set(range(0, 72, 5)):
        frames[index] = cv2.blur(frames[index], (5, 1))
    parts = list(restore_segments(frames, deblurrer, settings))
    restored = np.concatenate([np.stack(part.frames) for part in parts])
    assert np.abs(restored - at_once(deblurrer, frames, settings)).max() <= 0.501
    alone = dataclasses.replace(settings, borrow=False)
    plain = at_once(deblurrer, frames, alone)
    borders = [part.start for part in parts[1:]]
    assert len(borders) >= 2
    for border in borders:
        difference = np.abs(restored[border - 4 : border + 4] - plain[border - 4 : border + 4])
        assert (difference.max(axis=(1, 2, 3)) > 5).sum() >= 4


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize(("window", "overlap"), [(6, 2), (5, 0), (7, 3)])
def test_any_window_and_overlap_stay_on_the_grid(window, overlap, deblurrer):
    settings = RestorationSettings(window=window, overlap=overlap, steps=1)
    frames = moving(41)
    restored = np.stack(list(restore_stream(frames, deblurrer, settings)))
    assert np.abs(restored - at_once(deblurrer, frames, settings)).max() <= 0.501


@pytest.mark.usefixtures("_short_segments")
def test_with_more_steps_segments_are_close_to_the_clip_at_once(deblurrer):
    settings = RestorationSettings(window=8, overlap=4, steps=4)
    frames = moving(50)
    restored = np.stack(list(restore_stream(frames, deblurrer, settings)))
    error = restored - at_once(deblurrer, frames, settings)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 50


@pytest.mark.usefixtures("_short_segments")
def test_frames_are_read_only_as_far_as_a_segment_needs(deblurrer):
    settings = RestorationSettings(window=8, overlap=4)
    read = itertools.count()

    def source():
        for frame in moving(200):
            next(read)
            yield frame

    restored = restore_stream(source(), deblurrer, settings)
    next(restored)
    assert next(read) <= segment_grid(settings, 16, 24).lookahead + 2


def test_progress_ends_at_the_number_of_frames(deblurrer):
    settings = RestorationSettings(window=8, overlap=4)
    seen = []
    frames = moving(12)
    list(restore_stream(frames, deblurrer, settings, lambda *a: seen.append(a), 12))
    assert seen[-1] == (12, 12)
    assert all(later[0] >= earlier[0] for earlier, later in itertools.pairwise(seen))


def test_deep_and_transparent_frames_stay_so(deblurrer):
    settings = RestorationSettings(window=8, overlap=4)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 65535, (3, 16, 24, 4), np.uint16)
    restored = np.stack(list(restore_stream(frames, deblurrer, settings)))
    assert restored.dtype == np.uint16
    assert np.array_equal(restored[..., 3], frames[..., 3])


def scenes(*lengths: int) -> np.ndarray:
    """Shots of moving stripes, each of its own brightness."""
    columns = np.arange(24)
    shots = []
    for index, length in enumerate(lengths):
        level = (40, 200, 120)[index % 3]
        times = np.arange(length)[:, None]
        stripes = level + 30 * np.sin((columns + times) / 2.0)
        shots.append(np.broadcast_to(stripes[:, None, :, None], (length, 16, 24, 3)))
    return np.concatenate(shots).astype(np.uint8)


def restored(frames, deblurrer, settings) -> np.ndarray:
    return np.stack(list(restore_stream(frames, deblurrer, settings)))


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize("lengths", [(1, 9, 1), (21, 1, 2, 7)])
@pytest.mark.parametrize("steps", [1, 2])
def test_shots_are_restored_as_clips_of_their_own(lengths, steps, deblurrer, monkeypatch):
    # The same noise for every frame, so that shots and clips see the same.
    noise = torch.randn(1, 4, 1, 4, 6)
    monkeypatch.setattr(
        FrameNoise, "draw", lambda self, num_frames, *size: noise.repeat(1, 1, num_frames, 1, 1)
    )
    settings = RestorationSettings(window=8, overlap=4, steps=steps)
    frames = scenes(*lengths)
    parts = np.split(frames, np.cumsum(lengths)[:-1])
    apart = np.concatenate([restored(part, deblurrer, settings) for part in parts])
    assert np.array_equal(restored(frames, deblurrer, settings), apart)
    across = restored(frames, deblurrer, dataclasses.replace(settings, scene_cuts=False))
    assert not np.array_equal(across, apart)
    clip = at_once(deblurrer, frames, settings)
    if steps == 1:
        assert np.abs(apart - clip).max() <= 0.501


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize(
    "values",
    [
        {"window": 8, "overlap": 4},
        {"window": 7, "overlap": 3, "skip_sharp": True},
        {"window": 4, "overlap": 2, "steps": 2},
    ],
)
def test_going_on_from_any_segment_gives_the_same_bits(values, deblurrer, monkeypatch):
    monkeypatch.setattr(footage, "measure_blur", lambda frame: float(frame[0, 0, 0] % 3 == 0))
    settings = RestorationSettings(**values)
    frames = scenes(40, 1, 16)
    done = list(restore_segments(frames, deblurrer, settings))
    assert len(done) >= 4
    # In the middle of a shot, and where the last one begins.
    for index in (0, len(done) - 2):
        position = done[index].position
        rest = restore_segments(
            frames[position.read_from :], deblurrer, settings, position=position
        )
        for later, expected in zip(rest, done[index + 1 :], strict=True):
            assert later.start == expected.start
            assert np.array_equal(np.stack(later.frames), np.stack(expected.frames))
            assert later.position == expected.position


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize("steps", [1, 2])
def test_planned_segments_restored_apart_equal_the_stream(steps, deblurrer):
    settings = RestorationSettings(window=4, overlap=2, steps=steps)
    frames = scenes(21, 1, 9)
    grid = segment_grid(settings, 16, 24)
    plan = plan_segments(len(frames), grid, find_cuts(frames))
    joined = []
    for segment in reversed(plan):
        context = list(frames[segment.context_start : segment.context_stop])
        joined = [*restore_segment(context, segment, deblurrer, settings), *joined]
    assert np.array_equal(np.stack(joined), restored(frames, deblurrer, settings))


@pytest.mark.usefixtures("_short_segments")
def test_no_window_is_computed_twice_and_none_for_sharp_frames(deblurrer, monkeypatch):
    settings = RestorationSettings(window=8, overlap=4, skip_sharp=True)
    seen = []
    predict = deblurrer.predict
    monkeypatch.setattr(deblurrer, "predict", lambda *a: seen.append(1) or predict(*a))
    monkeypatch.setattr(footage, "measure_blur", lambda frame: 1.0)
    frames = moving(100)
    list(restore_stream(frames, deblurrer, settings))
    assert len(seen) == 24
    seen.clear()
    blurry = iter([0.0] * 50 + [1.0] + [0.0] * 49)
    monkeypatch.setattr(footage, "measure_blur", lambda frame: next(blurry))
    result = restored(frames, deblurrer, settings)
    # Frames 47 to 53 get a share; the windows that touch them start at 40, 44, 48 and 52.
    assert len(seen) == 4
    changed = np.abs(result.astype(int) - frames).max(axis=(1, 2, 3)) > 0
    assert np.flatnonzero(changed).tolist() == list(range(47, 54))


def test_strength_zero_returns_the_frames(deblurrer):
    settings = RestorationSettings(window=8, overlap=4, strength=0)
    frames = moving(12)
    assert np.array_equal(restored(frames, deblurrer, settings), frames)


def test_no_frames_give_no_frames(deblurrer):
    assert list(restore_stream([], deblurrer, RestorationSettings())) == []
