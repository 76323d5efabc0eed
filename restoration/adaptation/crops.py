"""Random crops of lessons, as batches of clips to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ...video.blur_score import SHARP_BELOW, measure_blur
from .kernels import RADIUS, blur_kernels, blurred
from .material import Lesson
from .settings import AdaptationSettings

_PLACES = 2
"""Of so many random places the one is taken where the target is trusted most."""
_NOISE = 0.005
"""Deviation of the noise of frames that are blurred again: as little as any camera has."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips `[B, ., T, H, W]`, float32."""

    blurry: Tensor
    """3 channels, -1..1."""
    target: Tensor
    """The same."""
    weights: Tensor
    """1 channel: how far each pixel of the target counts; 0 in columns held out."""


def draw_batch(
    lessons: Sequence[Lesson], settings: AdaptationSettings, generator: torch.Generator
) -> Batch:
    """Draw crops of lessons.

    Args:
        lessons: Each with sides of at least 32 pixels.
        settings: Sizes, and how many; smaller where the smallest lesson is.
        generator: On the CPU.
    """
    height, width = (
        min(settings.crop, *(lesson.blurry.shape[axis] // 32 * 32 for lesson in lessons))
        for axis in (1, 2)
    )
    num_frames = min(settings.frames, *(len(lesson.blurry) for lesson in lessons))
    drawn = [
        _Draw(generator, (num_frames, height, width)).crop(lessons, settings.reblurred_share)
        for _ in range(settings.clips)
    ]
    blurry, target, weights = (
        rearrange(torch.stack(parts), "b t h w c -> b c t h w").contiguous()
        for parts in zip(*drawn, strict=True)
    )
    return Batch(blurry * 2 - 1, target * 2 - 1, weights)


class _Draw:
    """The random decisions of one crop."""

    def __init__(self, generator: torch.Generator, size: tuple[int, int, int]) -> None:
        self._generator = generator
        self._size = size

    def crop(
        self, lessons: Sequence[Lesson], reblurred_share: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return blurry frames, target and weights, `[T, H, W, .]`."""
        lesson = lessons[self._below(len(lessons))]
        places = [self._place(lesson) for _ in range(_PLACES)]
        place = max(places, key=lambda place: _learned_from(lesson, place))
        blurry, target, weights = (
            part[place].float() for part in (lesson.blurry, lesson.target, lesson.weights)
        )
        # The axes of time, height and width.
        flips = [axis for axis in range(3) if self._below(2)]
        if self._uniform() < reblurred_share:
            # Only what is sharp shows what blurred frames should become.
            sharp = _sharp_frames(target)
            if any(sharp):
                blurry = self._blurred_again(lesson, target)
                weights[[not each for each in sharp]] = 0
        return blurry.flip(flips), target.flip(flips), weights.flip(flips)

    def _blurred_again(self, lesson: Lesson, target: Tensor) -> Tensor:
        """Blur the target by kernels that were found somewhere else in the clip."""
        elsewhere = self._place(lesson)
        kernels = blur_kernels(
            lesson.target[elsewhere].float(), lesson.blurry[elsewhere].float()
        )
        again = blurred(target, kernels)
        noise = torch.randn(again.shape, generator=self._generator).to(again)
        # Rounded, as frames come from files.
        return (again + _NOISE * noise).clamp(0, 1).mul(255).round().div(255)

    def _place(self, lesson: Lesson) -> tuple[slice, slice, slice]:
        starts = [
            self._below(whole - part + 1)
            for whole, part in zip(lesson.blurry.shape[:3], self._size, strict=True)
        ]
        first, second, third = (
            slice(start, start + part) for start, part in zip(starts, self._size, strict=True)
        )
        return first, second, third

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self._generator))

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self._generator))


def _learned_from(lesson: Lesson, place: tuple[slice, slice, slice]) -> float:
    """Return how far targets are trusted there, but for what is held out."""
    return float((lesson.trust[place] * (lesson.weights[place] > 0)).float().mean())


def _sharp_frames(target: Tensor) -> list[bool]:
    """Tell which frames of a crop `[T, H, W, 3]` are sharp; none where crops are small."""
    if min(target.shape[1:3]) <= 2 * RADIUS:
        return [False] * len(target)
    pictures = target.float().cpu().numpy()
    return [measure_blur(picture) < SHARP_BELOW for picture in pictures]
