from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from video_deblur.restoration.adaptation import stretches
from video_deblur.restoration.adaptation.stretches import (
    learn_from_stretches,
    plan_stretches,
    stretches_of,
    taken_stretches,
)
from video_deblur.restoration.adaptation.tuning import Adapted

from .test_material import one_sharp_frame
from .test_tuning import RESTORATION, SHORT, spoilt_engine


@pytest.mark.parametrize("num_frames", [0, 1, 17, 24, 25, 71, 72])
def test_short_clips_are_learned_from_whole(num_frames):
    spans = plan_stretches(num_frames)
    assert [index for span in spans for index in range(*span)] == list(range(num_frames))
    assert all(stop - start <= 24 for start, stop in spans)


@pytest.mark.parametrize("num_frames", [73, 74, 1000, 100_001])
def test_long_clips_are_learned_from_in_three_places(num_frames):
    spans = plan_stretches(num_frames)
    assert [stop - start for start, stop in spans] == [24, 24, 24]
    assert 0 <= spans[0][0] < num_frames / 3 < spans[1][0] + 24 < spans[2][0] + 24 <= num_frames
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_clips_of_unknown_length_are_learned_from_at_their_start():
    assert plan_stretches(None) == [(0, 24), (24, 48), (48, 72)]


def test_stretches_of_a_clip_in_memory_are_its_frames():
    frames = torch.rand(30, 4, 5, 3)
    parts, num_frames = stretches_of(frames)
    assert num_frames == 30
    joined = np.concatenate([np.stack(part) for part in parts])
    assert joined.dtype == np.uint16
    assert np.abs(joined / 65535 - frames.numpy()).max() < 1e-5


def test_frames_that_come_one_by_one_are_asked_for_up_to_the_last():
    source = iter(np.arange(100).reshape(100, 1, 1, 1))
    parts = list(taken_stretches(source, [(2, 4), (7, 9)]))
    assert [[int(frame[0, 0, 0]) for frame in part] for part in parts] == [[2, 3], [7, 8]]
    assert int(next(source)[0, 0, 0]) == 9
    assert list(taken_stretches(iter(()), [(0, 4)])) == [[]]


def learn(frames: np.ndarray, engine=None, **values) -> Adapted:
    settings = dataclasses.replace(SHORT, updates=2, least_gain_db=-100, **values)
    parts = [list(frames)]
    return learn_from_stretches(
        engine or spoilt_engine(), parts, len(frames), RESTORATION, settings
    )


def as_bytes(frames: torch.Tensor) -> np.ndarray:
    return (frames * 255).round().byte().numpy()


def test_a_clip_with_a_sharp_frame_is_learned_from():
    frames, _ = one_sharp_frame()
    result = learn(as_bytes(frames))
    assert result.weights is not None
    assert result.gain_db is not None


def test_where_there_is_nothing_to_learn_nothing_is_tuned():
    frames, _ = one_sharp_frame()
    sharp = as_bytes(frames)
    alike, few, small = sharp[:1].repeat(7, 0), sharp[:4], sharp[:, :48, :48]
    for clip in (alike, few, small):
        result = learn(clip)
        assert result.weights is None
        assert result.gain_db is None


def test_large_frames_are_learned_from_in_part(monkeypatch):
    seen: list[tuple[int, ...]] = []

    def make_lesson(engine, frames, *rest):
        seen.append(tuple(frames.shape))
        raise KeyboardInterrupt

    monkeypatch.setattr(stretches, "make_lesson", make_lesson)
    with pytest.raises(KeyboardInterrupt):
        learn(np.zeros((6, 520, 700, 3), np.uint8))
    assert seen == [(6, 512, 512, 3)]


def test_a_stretch_is_learned_from_within_one_shot(monkeypatch):
    seen: list[float] = []

    def make_lesson(engine, frames, *rest):
        seen.extend(frames.mean((1, 2, 3)).tolist())
        raise KeyboardInterrupt

    monkeypatch.setattr(stretches, "make_lesson", make_lesson)
    frames, _ = one_sharp_frame(14)
    dark, light = frames[:6] * 0.2, 1 - frames[6:] * 0.2
    with pytest.raises(KeyboardInterrupt):
        learn(as_bytes(torch.cat([dark, light])))
    assert len(seen) == 8
    assert min(seen) > 0.5


def test_progress_rises_to_its_end():
    frames, _ = one_sharp_frame()
    seen: list[tuple[int, int]] = []
    settings = dataclasses.replace(SHORT, updates=3, least_gain_db=-100)
    learn_from_stretches(
        spoilt_engine(),
        [list(as_bytes(frames))],
        len(frames),
        RESTORATION,
        settings,
        lambda done, total: seen.append((done, total)),
    )
    done = [part for part, _ in seen]
    assert done == sorted(done)
    assert {total for _, total in seen} == {6 * 7 + 4 * 3}
    assert seen[-1] == (54, 54)


def test_progress_reaches_its_end_where_nothing_is_learned():
    frames = as_bytes(one_sharp_frame()[0])[:1].repeat(7, 0)
    seen: list[tuple[int, int]] = []
    learn_from_stretches(
        spoilt_engine(), [list(frames)], 7, RESTORATION, SHORT, lambda *part: seen.append(part)
    )
    assert seen[-1] == (6 * 7 + 4 * 12,) * 2
