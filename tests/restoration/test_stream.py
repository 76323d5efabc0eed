"""Segments against the clip at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from video_deblur.restoration import stream
from video_deblur.restoration.pipeline import Deblurrer
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.stream import restore_stream, segment_length


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
    monkeypatch.setattr(stream, "_SEGMENT_PIXELS", 1)


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
    assert next(read) <= segment_length(settings, 16, 24) + 5


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


def test_no_frames_give_no_frames(deblurrer):
    assert list(restore_stream([], deblurrer, RestorationSettings())) == []
