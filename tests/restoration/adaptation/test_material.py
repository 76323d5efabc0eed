"""Lessons: targets come from sharper neighbours, and count where they were trusted."""

from __future__ import annotations

import pytest
import torch
from video_deblur.models.cpgd import Cpgd
from video_deblur.restoration.adaptation.kernels import blurred
from video_deblur.restoration.adaptation.material import make_lesson
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.settings import RestorationSettings

from ...conftest import SMALL_CPGD_CONFIG
from .test_kernels import motion, texture

SETTINGS = RestorationSettings(window=8, overlap=2)


@pytest.fixture
def engine() -> ClipRestorer:
    """Untrained: it returns its input."""
    return ClipRestorer(Cpgd(SMALL_CPGD_CONFIG).eval().requires_grad_(False))


def one_sharp_frame(num_frames: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """A scene that stands still, all frames but the middle one blurred; and how it is."""
    sharp = texture(1, side=96).expand(num_frames, -1, -1, -1)
    # In the middle, so that nothing moves.
    kernels = torch.stack([motion(0, 6).roll(-3, 1)] * num_frames)
    frames = blurred(sharp, kernels)
    frames[num_frames // 2] = sharp[0]
    return frames, sharp


def test_targets_take_what_a_sharp_neighbour_shows(engine):
    frames, sharp = one_sharp_frame()
    lesson = make_lesson(engine, frames, SETTINGS)
    assert torch.allclose(lesson.restored.float(), frames, atol=2e-3)
    before, after = (
        (clip[2].float() - sharp[2])[8:-8, 8:-8].square().mean()
        for clip in (lesson.restored, lesson.target)
    )
    assert float(after) < 0.5 * float(before)
    assert float(lesson.weights[2].float().mean()) > 0.5
    assert lesson.is_useful


def test_where_nothing_was_taken_targets_count_little(engine):
    frames, _ = one_sharp_frame()
    lesson = make_lesson(engine, frames[:1].expand(6, -1, -1, -1), SETTINGS)
    assert float(lesson.weights.float().max()) == pytest.approx(0.1, abs=1e-3)
    assert not lesson.is_useful


def test_progress_counts_every_frame_twice_and_may_cancel(engine):
    frames, _ = one_sharp_frame()
    seen: list[tuple[int, int]] = []
    make_lesson(engine, frames, SETTINGS, lambda done, total: seen.append((done, total)))
    done = [part for part, _ in seen]
    assert done == sorted(done)
    assert done[-1] == 13
    assert {total for _, total in seen} == {14}

    def cancel(done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_lesson(engine, frames, SETTINGS, cancel)
