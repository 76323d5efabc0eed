"""Tune a copy of a network on lessons from a clip, for a bounded number of updates.

After DADeblur (arXiv 2407.09059) and SelfHVD: a network that restores a clip is tuned on what
was made of the same clip, and used if it does better where it was not tuned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from ..engine import Engine
from ..progress import ProgressCallback
from ..settings import RestorationSettings
from .crops import draw_batch
from .learners import Learner, make_learner, with_weights
from .losses import log_error, spectrum_l1
from .material import Lesson, restored_alone
from .settings import AdaptationSettings

_FLOOR = 2e-4
"""Of the error, in -1..1; where training of the networks ends."""
_FFT_WEIGHT = 0.1
_BETAS = (0.9, 0.99)
_AVERAGE = 0.98
"""Of the running mean of the weights, per update."""
_LARGEST_GRADIENT = 1.0
_BAD_UPDATES = 10
"""Losses in a row that are not finite, after which tuning is given up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapted:
    """What came of tuning."""

    weights: dict[str, Tensor] | None
    """Of the whole network, float16 on the CPU; None: it stays as it is."""
    gain_db: float | None
    """What the network alone gained in the columns held out, where targets are trusted. None:
    there was nothing to learn from, or its losses were not finite."""


def adapt(
    engine: Engine,
    lessons: Sequence[Lesson],
    restoration: RestorationSettings,
    settings: AdaptationSettings,
    callback: ProgressCallback | None = None,
) -> Adapted:
    """Tune a copy of the network of an engine, and judge it by the columns held out.

    Args:
        engine: Left as it is; see `learners.check_adaptable`.
        lessons: At least one; those of `material.make_lesson`.
        restoration: What the user chose; its seed decides all that is random.
        settings: How long to learn, and how.
        callback: Progress, by updates; may raise to cancel.
    """
    # ComfyUI runs nodes in inference mode, whose tensors take no part in gradients.
    with torch.inference_mode(False):
        lessons = [_outside_inference(lesson) for lesson in lessons]
        learner = make_learner(engine.model)
        with torch.enable_grad():
            sound = _tune(learner, lessons, engine.dtype, settings, restoration.seed, callback)
        if not sound:
            return Adapted(weights=None, gain_db=None)
        # Rounded as they are stored, so that a run and one from a file are the same.
        weights = {
            name: value.detach().to("cpu", torch.float16)
            for name, value in learner.network.state_dict().items()
        }
        gain = _gain_db(with_engine(engine, weights), lessons, restoration)
    kept = gain >= settings.least_gain_db
    return Adapted(weights=weights if kept else None, gain_db=gain)


def with_engine(engine: Engine, weights: dict[str, Tensor]) -> Engine:
    """Return an engine like another one, with other weights; the other stays as it is."""
    adapted = copy.copy(engine)
    adapted.model = with_weights(engine.model, weights)
    return adapted


def _tune(
    learner: Learner,
    lessons: Sequence[Lesson],
    dtype: torch.dtype,
    settings: AdaptationSettings,
    seed: int,
    callback: ProgressCallback | None,
) -> bool:
    """Tune in place; returns whether the losses stayed finite.

    Args:
        learner: Ends with the running mean of its weights.
        lessons: What is learned from.
        dtype: What the network computes in, where its gradients allow it.
        settings: How long, and how.
        seed: Of all random decisions.
        callback: See `adapt`.
    """
    parameters = learner.tuned
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=_BETAS, weight_decay=0.0
    )
    average = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(seed % 2**63)
    bad = 0
    for update in range(settings.updates):
        if callback is not None:
            callback(update, settings.updates)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(update / settings.updates)
        batch = draw_batch(lessons, settings, generator)
        # Gradients in float16 would need to be scaled; float32 is exact and always there.
        autocast = torch.autocast(
            batch.blurry.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16
        )
        with autocast:
            restored = learner.restored(batch.blurry, generator)
        loss = log_error(restored, batch.target, _FLOOR, batch.weights)
        loss = loss + _FFT_WEIGHT * spectrum_l1(
            restored * batch.weights, batch.target * batch.weights
        )
        optimizer.zero_grad()
        loss.mean().backward()
        size = nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
        bad = 0 if bool(size.isfinite()) else bad + 1
        if bad == _BAD_UPDATES:
            return False
        if not bad:
            optimizer.step()
            decay = min(_AVERAGE, (1 + update) / (10 + update))
            _move(average, parameters, 1 - decay)
    _move(parameters, average, 1.0)
    return True


@torch.no_grad()
def _move(targets: Iterable[Tensor], sources: Iterable[Tensor], amount: float) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.lerp_(source, amount)


def _rate(progress: float) -> float:
    """Rise over the first twentieth, then fall to zero."""
    return min(progress / 0.05 + 0.05, 1 - progress, 1.0)


def _gain_db(
    adapted: Engine, lessons: Sequence[Lesson], restoration: RestorationSettings
) -> float:
    """Return what a tuned network gains in the columns held out, as far as they are trusted.

    The mean over frames, in decibels, so that one that nothing can mend does not outweigh the
    others; a frame counts as much as it took.
    """
    gains, weights = [], []
    for lesson in lessons:
        after = restored_alone(adapted, lesson.blurry.float(), restoration)
        target, trust, first, second = (
            _as_frames(part[:, :, lesson.held_out])
            for part in (lesson.target, lesson.trust, lesson.restored, after)
        )
        before_error, error = (
            log_error(2 * each - 1, 2 * target - 1, _FLOOR, trust) for each in (first, second)
        )
        gains.append(10 * (before_error - error))
        weights.append(trust.mean((1, 2, 3, 4)))
    weight = torch.cat(weights)
    return float((torch.cat(gains) * weight).sum() / weight.sum().clamp_min(1e-9))


def _as_frames(frames: Tensor) -> Tensor:
    """Return `[T, H, W, C]` as float32 clips of a frame each, `[T, C, 1, H, W]`."""
    return rearrange(frames.float(), "t h w c -> t c 1 h w")


def _outside_inference(lesson: Lesson) -> Lesson:
    """Return a lesson whose tensors may take part in gradients."""
    if not lesson.blurry.is_inference():
        return lesson
    parts = (lesson.blurry, lesson.restored, lesson.target, lesson.trust, lesson.weights)
    return Lesson(*(part.clone() for part in parts))
