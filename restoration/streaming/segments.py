"""Plan a clip as segments that can be restored apart, in any order, on any machine.

A segment hands out some frames and needs some more around them. Its windows are those of the
whole shot, so that restoring every segment on its own and joining them gives what one machine
gives that goes through the clip, which takes the same segments in order.

    plan = plan_segments(num_frames, engine.grid(engine.config, settings, height, width), cuts)
    for segment in plan:                               # anywhere, in any order
        frames = clip[segment.context_start : segment.context_stop]
        restored = restore_segment(frames, segment, engine, settings)

`restore_segment` is in `stream`; `video.scene_cuts.find_cuts` gives the cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..denoising.windows import shots
from ..settings import RestorationSettings

_SEGMENT_PIXELS = 96 * 1280 * 720
"""Pixels of a segment: frames as 8 bits in and out, latents and noise take about 25 bytes
for each."""
_MOST_FRAMES = 64
_MOST_FRAMES_MANY_STEPS = 192
"""Frames of a segment, however small: what is lost when a run is killed. With more steps than
one, segments share frames that each restores: longer ones waste less."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Frames that are restored together, as half-open ranges of the clip."""

    start: int
    """First frame that is handed out."""
    stop: int
    """One past the last frame that is handed out."""
    context_start: int
    """First frame that is needed; on the grid of windows of its shot."""
    context_stop: int
    """One past the last frame that is needed."""


@dataclass(frozen=True, kw_only=True)
class SegmentGrid:
    """How shots of one frame size are cut into segments. Lengths are in frames."""

    window: int
    """Frames restored together."""
    hop: int
    """From the start of a window to the next one's."""
    length: int
    """Frames of a segment, context included: whole hops and one window."""
    context: int
    """How far before the last window of its predecessor a segment starts."""
    reach: int
    """Frames on both sides of those handed out that must be restored as well."""

    @property
    def lookahead(self) -> int:
        """Frames at hand, from a segment's first one, that settle whether it is the last.

        A shot's last window ends at its end, off the grid. Another hop keeps it away from
        the frames that a segment before the last hands out.
        """
        return self.length + self.hop + 1

    def segment(self, context_start: int, start: int, available: int) -> Segment:
        """Return the segment that begins at `context_start`.

        Args:
            context_start: First frame that is needed.
            start: First frame that is to be handed out.
            available: Frames of the shot from `context_start` on; at least `lookahead`, or
                all there are.
        """
        if available < self.lookahead:
            stop = context_stop = context_start + available
        else:
            context_stop = context_start + self.length
            # A hop after the start of the last window the next one of the grid begins: frames
            # before that have all their windows here.
            stop = context_stop - self.window + self.hop - self.reach
        return Segment(
            start=start, stop=stop, context_start=context_start, context_stop=context_stop
        )

    def next_context(self, segment: Segment) -> int:
        """Return where the context of the next segment of a shot starts."""
        return segment.context_stop - self.window - self.context

    def restored(self, segment: Segment) -> tuple[int, int]:
        """Return the frames of a segment that are restored for those it hands out."""
        return (
            max(segment.context_start, segment.start - self.reach),
            min(segment.context_stop, segment.stop + self.reach),
        )


def widened(grid: SegmentGrid, near: int) -> SegmentGrid:
    """Return a grid whose segments hold `near` frames on both sides of all they restore.

    At the ends of a shot there are none. Windows begin where they did.
    """
    hop = grid.hop
    after, before = grid.window - hop, hop + grid.context - 2 * grid.reach
    window = grid.window + max(0, -(-(near - after) // hop)) * hop
    context = grid.context + max(0, -(-(near - before) // hop)) * hop
    length = max(grid.length + window - grid.window, window + 2 * hop + context)
    return SegmentGrid(window=window, hop=hop, length=length, context=context, reach=grid.reach)


def segment_grid(settings: RestorationSettings, height: int, width: int) -> SegmentGrid:
    """Return the grid of windows for frames of this size, within the memory budget."""
    hop = settings.window - settings.overlap
    around = reach(settings)
    # The first frame of a segment that has all its windows there is `overlap` after its start;
    # frames in reach of those that are handed out need all of theirs.
    context = max(0, -(-(settings.overlap - hop + 2 * around) // hop) * hop)
    if settings.steps > 1:
        # More steps carry information from window to window; a window more on the side keeps
        # the difference invisible.
        context += 2 * hop
    fewest = settings.window + 2 * hop + context
    hops = (max(frames_of_segment(settings, height, width), fewest) - settings.window) // hop
    return SegmentGrid(
        window=settings.window,
        hop=hop,
        length=settings.window + hops * hop,
        context=context,
        reach=around,
    )


def reach(settings: RestorationSettings) -> int:
    """Return how many frames to either side a frame takes detail from."""
    if not settings.borrow:
        return 0
    # Not at the top: ComfyUI loads this file at start-up and needs OpenCV later.
    from ..borrowing.passes import REACH

    return REACH


def frames_of_segment(settings: RestorationSettings, height: int, width: int) -> int:
    """Return how many frames of this size, in pixels, a segment should have."""
    most = _MOST_FRAMES if settings.steps == 1 else _MOST_FRAMES_MANY_STEPS
    return min(_SEGMENT_PIXELS // (height * width), most)


def plan_segments(
    num_frames: int, grid: SegmentGrid, cuts: Sequence[int] = ()
) -> list[Segment]:
    """Cut a clip into segments that are independent of each other.

    Args:
        num_frames: Of the clip.
        grid: Of the engine, for frames of this size.
        cuts: Frames that start a new shot, rising.

    Returns:
        Segments in order; what they hand out covers the clip without overlap, and the context
        of each lies within its shot.
    """
    plan = []
    for first, last in shots(num_frames, cuts) if num_frames else []:
        context_start = start = first
        while start < last:
            segment = grid.segment(context_start, start, last - context_start)
            plan.append(segment)
            context_start, start = grid.next_context(segment), segment.stop
    return plan
