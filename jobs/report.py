"""What is known of frames that are done, and what a finished job says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..restoration.streaming.footage import SurveyedFrame


@dataclass(frozen=True, kw_only=True)
class FinishedPart:
    """What is known of frames that are done."""

    cuts: tuple[int, ...] = ()
    """Frames that start a new shot."""
    blur: tuple[float | None, ...] = ()
    """Score of each frame, where it was measured."""
    untouched: int = 0
    """Frames that were left alone because they are sharp."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done."""

    num_frames: int
    """Frames of the output."""
    cuts: tuple[int, ...]
    """Frames that start a new shot."""
    blur: tuple[float | None, ...]
    """Score of each frame, None where it was not measured."""
    untouched: int
    """Frames that were left alone because they are sharp."""
    num_kept: int = field(default=0, compare=False)
    """Frames of the output that an earlier run had finished."""


def finished_part(start: int, frames: Sequence[SurveyedFrame]) -> FinishedPart:
    """Return what is to be kept of frames from `start` on."""
    return FinishedPart(
        cuts=tuple(index for index, frame in enumerate(frames, start) if frame.starts_shot),
        blur=tuple(frame.blur for frame in frames),
        untouched=sum(frame.share == 0 for frame in frames),
    )


def merged(parts: Sequence[FinishedPart]) -> FinishedPart:
    """Return what is known of parts in a row."""
    return FinishedPart(
        cuts=tuple(cut for part in parts for cut in part.cuts),
        blur=tuple(score for part in parts for score in part.blur),
        untouched=sum(part.untouched for part in parts),
    )


def make_report(parts: Sequence[FinishedPart], num_kept: int = 0) -> Report:
    """Return what was done, from all parts and the frames of those that were kept."""
    joined = merged(parts)
    return Report(
        num_frames=len(joined.blur),
        cuts=joined.cuts,
        blur=joined.blur,
        untouched=joined.untouched,
        num_kept=num_kept,
    )
