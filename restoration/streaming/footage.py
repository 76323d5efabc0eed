"""What is known of each frame before it is restored: shots, blur, and how much to do.

A stage between reading and restoring that looks a few frames ahead and a few back, and
nowhere else: whether a clip is read from its start or from the middle, a frame gets the same
answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ...video.blur_score import SHARP_BELOW, measure_blur
from ...video.scene_cuts import FRAMES_BEFORE, mark_cuts
from ..settings import RestorationSettings

_FADE_FRAMES = 3
"""Frames over which restored frames fade into sharp ones that are left alone."""

FRAMES_BACK = FRAMES_BEFORE + _FADE_FRAMES
"""Frames that must be read before the first whose answers count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SurveyedFrame:
    """A frame and its answers."""

    pixels: np.ndarray
    """As it came."""
    starts_shot: bool
    """Whether a scene cut lies before it."""
    blur: float | None
    """`measure_blur`, where it was asked for."""
    share: float
    """How much of the restoration it gets: 1, or less near sharp frames, 0 on them."""


def survey(
    frames: Iterable[np.ndarray], settings: RestorationSettings, *, measure: bool = False
) -> Iterator[SurveyedFrame]:
    """Find cuts and sharp frames as the settings ask for.

    Args:
        frames: `[H, W, 3 or more]`, uint8, uint16, or float32 in 0..1.
        settings: `scene_cuts` and `skip_sharp` count.
        measure: Whether to measure blur even if no frame is to be left alone.

    Yields:
        The frames in order, up to four late.
    """
    marked = mark_cuts(frames) if settings.scene_cuts else ((frame, False) for frame in frames)
    if not settings.skip_sharp:
        for pixels, cut in marked:
            blur = measure_blur(pixels) if measure else None
            yield SurveyedFrame(pixels=pixels, starts_shot=cut, blur=blur, share=1.0)
        return
    yield from _with_shares(marked)


def survey_clip(
    frames: Iterable[np.ndarray], settings: RestorationSettings
) -> tuple[tuple[int, ...], list[float]]:
    """Return the cuts of a clip of frames `[H, W, C]`, and the share of each frame."""
    # Only the answers are kept: frames may be copies from another device.
    answers = [(frame.starts_shot, frame.share) for frame in survey(frames, settings)]
    cuts = tuple(index for index, (starts_shot, _) in enumerate(answers) if starts_shot)
    return cuts, [share for _, share in answers]


def _with_shares(marked: Iterable[tuple[np.ndarray, bool]]) -> Iterator[SurveyedFrame]:
    """Add blur and share; needs as many frames ahead as a fade has."""
    pixels: list[np.ndarray] = []
    cuts: list[bool] = []
    blurs: list[float] = []
    position = 0

    def surveyed() -> SurveyedFrame:
        nonlocal position
        share = _share(cuts, [blur >= SHARP_BELOW for blur in blurs], position)
        cut, blur = cuts[position], blurs[position]
        if position == _FADE_FRAMES:
            del cuts[0], blurs[0]
        else:
            position += 1
        return SurveyedFrame(pixels=pixels.pop(0), starts_shot=cut, blur=blur, share=share)

    for frame, cut in marked:
        pixels.append(frame)
        cuts.append(cut)
        blurs.append(measure_blur(frame))
        if len(pixels) > _FADE_FRAMES:
            yield surveyed()
    while pixels:
        yield surveyed()


def _share(cuts: list[bool], blurry: list[bool], position: int) -> float:
    """Return 1 on a blurry frame, falling to 0 with the distance to the nearest of the shot."""
    for distance in range(_FADE_FRAMES + 1):
        before, after = position - distance, position + distance
        crossed_back = any(cuts[max(0, before) + 1 : position + 1])
        crossed_ahead = any(cuts[position + 1 : after + 1])
        if before >= 0 and blurry[before] and not crossed_back:
            return 1 - distance / (_FADE_FRAMES + 1)
        if after < len(blurry) and blurry[after] and not crossed_ahead:
            return 1 - distance / (_FADE_FRAMES + 1)
    return 0.0
