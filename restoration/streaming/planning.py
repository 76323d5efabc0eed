"""Cut frames into segments as they come, in bounded memory.

The segments are those of `segments.plan_segments`, which needs to know all cuts beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..settings import RestorationSettings
from .footage import FRAMES_BACK, SurveyedFrame, survey
from .segments import Segment, SegmentGrid


@dataclass(frozen=True, kw_only=True)
class Position:
    """Between two segments: all that is needed to go on from there."""

    next_frame: int = 0
    """First frame that is to be handed out."""
    context_start: int = 0
    """First frame that is needed for it."""
    noise_state: bytes | None = None
    """State of the noise generator before it draws for `context_start`; None at the start."""

    @property
    def read_from(self) -> int:
        """First frame to read: scene cuts and blur are judged by what is around a frame."""
        return max(0, self.context_start - FRAMES_BACK)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedSegment:
    """A segment that is about to be restored."""

    segment: Segment
    next_context: int
    """Where the context of the next one starts."""
    frames: list[SurveyedFrame]
    """Its context."""

    @property
    def outgoing(self) -> list[SurveyedFrame]:
        """Those of its frames that it hands out."""
        origin = self.segment.context_start
        return self.frames[self.segment.start - origin : self.segment.stop - origin]


def plan_stream(
    frames: Iterable[np.ndarray],
    settings: RestorationSettings,
    grid_of: Callable[[int, int], SegmentGrid],
    *,
    position: Position | None = None,
    measure_blur: bool = False,
) -> Iterator[PlannedSegment]:
    """Cut frames into segments as they come; the same segments as `plan_segments`.

    Args:
        frames: From `position.read_from` on, `[H, W, C]` each, of one size.
        settings: What the user chose.
        grid_of: From height and width to how the engine cuts shots of such frames.
        position: Where to begin.
        measure_blur: Whether to measure blur even if no frame is to be left alone.

    Yields:
        The segments that are left, in order. Frames are let go once they are not needed.
    """
    position = position or Position()
    surveyed = survey(frames, settings, measure=measure_blur)
    source = _Shots(surveyed, position.context_start - position.read_from)
    if source.ended:
        return
    grid = grid_of(*source.size)
    start, context_start = position.next_frame, position.context_start
    buffer: list[SurveyedFrame] = []
    while buffer or not source.ended:
        source.fill(buffer, grid.lookahead)
        segment = grid.segment(context_start, start, len(buffer))
        is_last = len(buffer) < grid.lookahead
        following = segment.stop if is_last else grid.next_context(segment)
        context = buffer[: segment.context_stop - context_start]
        yield PlannedSegment(segment=segment, next_context=following, frames=context)
        del context
        del buffer[: following - context_start]
        start, context_start = segment.stop, following


class _Shots:
    """Hand out surveyed frames shot by shot.

    Args:
        frames: In order.
        back: Frames at the start that were only there for their successors.
    """

    def __init__(self, frames: Iterator[SurveyedFrame], back: int) -> None:
        self._frames = frames
        self._next: SurveyedFrame | None = None
        for _ in range(back + 1):
            self._next = next(frames, None)

    @property
    def ended(self) -> bool:
        """Whether no frame is left that was not handed out."""
        return self._next is None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the next frame, in pixels."""
        assert self._next is not None
        height, width = self._next.pixels.shape[:2]
        return height, width

    def fill(self, buffer: list[SurveyedFrame], count: int) -> None:
        """Append frames of the buffer's shot until it holds `count` or the shot ends."""
        while len(buffer) < count and self._next is not None:
            if buffer and self._next.starts_shot:
                return
            buffer.append(self._next)
            self._next = next(self._frames, None)
