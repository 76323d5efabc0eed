"""Lessons: targets come from sharper neighbours, and count where they were trusted."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.divd import Divd
from video_deblur.restoration.adaptation import material
from video_deblur.restoration.adaptation.kernels import blurred
from video_deblur.restoration.adaptation.material import (
    make_lesson,
    pieces_per_frame,
    restored_alone,
)
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import RestorationSettings

from ...conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG
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


def test_where_nothing_was_taken_in_columns_held_out_there_is_nothing_to_judge_by(engine):
    frames, _ = one_sharp_frame()
    lesson = make_lesson(engine, frames, SETTINGS)
    lesson.trust[:, :, lesson.held_out] = 0
    assert float(lesson.trust.float().mean()) > 0.1
    assert not lesson.is_useful


def test_frames_that_came_sharp_count_whether_they_took_anything_or_not(engine):
    frames, _ = one_sharp_frame()
    lesson = make_lesson(engine, frames, SETTINGS)
    learned = lesson.weights[:, :, : lesson.held_out.start]
    assert float(learned[3].min()) == 1
    assert float(lesson.trust[3].float().mean()) < 0.1
    assert 0.1 - 1e-3 < float(learned[2].min()) < 1
    assert float(lesson.weights[:, :, lesson.held_out].max()) == 0


def test_where_nothing_was_taken_the_target_is_the_mean_of_mirror_images(randomise):
    network = randomise(Cpgd(SMALL_CPGD_CONFIG).eval(), 0.05, add=True)
    engine = ClipRestorer(network.requires_grad_(False))
    frames = texture(1, side=96).expand(6, -1, -1, -1)
    lesson = make_lesson(engine, frames, SETTINGS)
    several = dataclasses.replace(SETTINGS, self_ensemble=4)
    alone, mean = (restored_alone(engine, frames, each) for each in (SETTINGS, several))
    assert (alone - mean).abs().max() > 1e-2
    torch.testing.assert_close(lesson.restored.float(), alone, atol=1e-3, rtol=0)
    untaken = (lesson.trust == 0).expand_as(lesson.target)
    assert untaken.float().mean() > 0.9
    difference = (lesson.target.float() - mean).abs()
    assert float(difference[untaken].max()) < 1e-3


@pytest.mark.parametrize(("chosen", "made"), [(1, [1, 4]), (4, [4]), (8, [8])])
def test_mirror_images_that_the_user_asked_for_are_made_once(engine, chosen, made, monkeypatch):
    seen: list[int] = []
    restore = material.restored_alone

    def counted(engine, frames, settings, callback):
        seen.append(settings.self_ensemble)
        return restore(engine, frames, settings, callback)

    monkeypatch.setattr(material, "restored_alone", counted)
    settings = dataclasses.replace(SETTINGS, self_ensemble=chosen)
    frames, _ = one_sharp_frame(5)
    totals: set[int] = set()
    make_lesson(engine, frames, settings, lambda _, total: totals.add(total))
    assert seen == made
    pieces = 1 + (4 if len(made) == 2 else 0) + 1
    assert pieces_per_frame(engine, settings) == pieces
    assert totals == {pieces * 5}


def test_a_diffusion_model_restores_every_frame_once():
    engine = Deblurrer(Divd(SMALL_CONFIG).eval().requires_grad_(False))
    assert pieces_per_frame(engine, RestorationSettings()) == 2


def test_progress_counts_every_restored_and_every_fused_frame_and_may_cancel(engine):
    frames, _ = one_sharp_frame()
    seen: list[tuple[int, int]] = []
    make_lesson(engine, frames, SETTINGS, lambda done, total: seen.append((done, total)))
    done = [part for part, _ in seen]
    assert done == sorted(done)
    # Alone, in four orientations, fused.
    assert {total for _, total in seen} == {6 * 7}
    assert done[-1] == 41
    assert {7, 35} <= set(done)
    assert len(set(done)) > 15

    def cancel(done: int, total: int) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_lesson(engine, frames, SETTINGS, cancel)
