"""Which frames of a clip a network learns from: a few stretches, bounded in time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Tensor

from ..denoising.windows import Span, shots
from ..engine import Engine
from ..frames import ArrayFrames
from ..progress import ProgressCallback
from ..settings import RestorationSettings
from ..streaming.footage import survey_clip
from .learners import check_adaptable
from .material import FEWEST_FRAMES, LESSON_BYTES, Lesson, make_lesson, pieces_per_frame
from .settings import AdaptationSettings
from .tuning import Adapted, adapt

_STRETCHES = 3
_FRAMES = 24
"""Of a stretch."""
SIDE = 512
"""Of what is learned from of each frame, in pixels: see `lessons_bytes`."""
_SMALLEST_SIDE = 64
"""Below it frames lend each other nothing."""
_PIECES_PER_UPDATE = 4
"""Of progress, where a frame of a stretch counts each time that it is restored or fused: on a
CPU an update of a small network takes as long as six such frames of 256x256."""


def plan_stretches(num_frames: int | None) -> list[Span]:
    """Return the stretches of a clip, in order: all of a short one, parts of a long one.

    Args:
        num_frames: Of the clip; None: unknown, then its start.
    """
    most = _STRETCHES * _FRAMES
    if num_frames is None or num_frames <= most:
        whole = most if num_frames is None else num_frames
        parts = max(1, -(-whole // _FRAMES))
        bounds = [whole * part // parts for part in range(parts + 1)]
        return list(pairwise(bounds))
    # In the middle of equal parts.
    starts = [
        num_frames * (2 * part + 1) // (2 * _STRETCHES) - _FRAMES // 2
        for part in range(_STRETCHES)
    ]
    return [(start, start + _FRAMES) for start in starts]


def learn_from_stretches(
    engine: Engine,
    stretches: Iterable[Sequence[np.ndarray]],
    num_frames: int,
    restoration: RestorationSettings,
    settings: AdaptationSettings,
    callback: ProgressCallback | None = None,
) -> Adapted:
    """Tune a copy of an engine's network on stretches of a clip.

    Args:
        engine: Left as it is.
        stretches: Of `plan_stretches`; frames `[H, W, C]`, uint8 or uint16, read one stretch
            after the other.
        num_frames: Of all stretches, for the progress.
        restoration: What the user chose.
        settings: How long to learn, and how.
        callback: Progress; may raise to cancel.

    Raises:
        ValueError: If the network cannot learn from a clip.
    """
    check_adaptable(engine.config, restoration)
    generator = torch.Generator().manual_seed(restoration.seed % 2**63)
    per_frame, done = pieces_per_frame(engine, restoration), 0
    total = per_frame * num_frames + _PIECES_PER_UPDATE * settings.updates
    report = callback or (lambda part, parts: None)
    lessons: list[Lesson] = []
    for stretch in stretches:
        shot = _longest_shot(stretch, restoration) if stretch else stretch
        if len(shot) >= FEWEST_FRAMES and min(shot[0].shape[:2]) >= _SMALLEST_SIDE:
            area = _area(shot[0].shape, generator)
            frames = ArrayFrames([pixels[area] for pixels in shot], engine.device)
            colors = frames.colors(0, len(shot))
            lesson = make_lesson(engine, colors, restoration, _shifted(report, done, 1, total))
            if lesson.is_useful:
                lessons.append(lesson)
        done += per_frame * len(stretch)
    if not lessons:
        report(total, total)
        return Adapted(weights=None, gain_db=None)
    adapted = adapt(
        engine,
        lessons,
        restoration,
        settings,
        _shifted(report, done, _PIECES_PER_UPDATE, total),
    )
    report(total, total)
    return adapted


def lessons_bytes(height: int, width: int) -> int:
    """Return the memory of all that a clip of that size is learned from, in bytes at most."""
    pixels = min(height, SIDE) * min(width, SIDE)
    return LESSON_BYTES * _STRETCHES * _FRAMES * pixels


def stretches_of(frames: Tensor) -> tuple[list[list[np.ndarray]], int]:
    """Return the stretches of a clip in memory, and how many frames they have together.

    Args:
        frames: `[T, H, W, C]`, float32 in 0..1.
    """
    spans = plan_stretches(len(frames))
    # In 16 bits, as frames of deep files are.
    parts = [
        list((frames[slice(*span)].clamp(0, 1) * 65535).round().cpu().numpy().astype(np.uint16))
        for span in spans
    ]
    return parts, sum(map(len, parts))


def taken_stretches(
    frames: Iterable[np.ndarray], spans: Sequence[Span]
) -> Iterator[list[np.ndarray]]:
    """Yield stretches of frames that come one by one; no frame after the last is asked for."""
    source, position = iter(frames), 0
    for start, stop in spans:
        for _ in islice(source, start - position):
            pass
        yield list(islice(source, stop - start))
        position = stop


def _longest_shot(
    stretch: Sequence[np.ndarray], restoration: RestorationSettings
) -> Sequence[np.ndarray]:
    cuts, _ = survey_clip(stretch, restoration)
    first, last = max(shots(len(stretch), cuts), key=lambda span: span[1] - span[0])
    return stretch[first:last]


def _area(shape: tuple[int, ...], generator: torch.Generator) -> tuple[slice, slice]:
    """Return the rows and columns of frames to learn from."""
    top, left = (
        int(torch.randint(max(side - SIDE, 0) + 1, (), generator=generator))
        for side in shape[:2]
    )
    return slice(top, top + SIDE), slice(left, left + SIDE)


def _shifted(
    report: Callable[[int, int], None], done: int, step: int, total: int
) -> ProgressCallback:
    return lambda part, parts: report(done + step * part, total)
