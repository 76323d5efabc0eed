"""Restore clips of any length in bounded memory, segment by segment.

Segments and windows are those of `segments`: the grid of each shot. Noise belongs to frames.
So with one step the result equals restoring the clip at once, and every segment can be
restored on its own, by another machine or after a stop, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from ..borrowing.candidates import Panel
from ..denoising.windows import Span
from ..engine import Engine, joint_settings
from ..first_stage.stage import SeenFrames, check_network_input, panel_of
from ..frames import ArrayFrames, DeviceFrames, rounded, to_array
from ..phases import blend, fuse
from ..progress import ProgressCallback, Work
from ..settings import RestorationSettings
from .footage import SurveyedFrame
from .planning import Position, plan_stream
from .segments import Segment

_BLEND_ROWS = 256
"""Rows that are blended and rounded at once: bounds memory."""

FrameCallback = Callable[[float, int | None], None]
"""Called with (frames done, as a fraction where a segment is under way; frames in all or
None); may raise to cancel."""


FramesCallback = Callable[[np.ndarray, np.ndarray], None]
"""Called with a blurry frame and the same one restored; may raise to cancel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RestoredSegment:
    """What a segment hands out."""

    start: int
    """Index of its first frame."""
    frames: list[np.ndarray]
    """Restored, like the inputs."""
    sources: list[SurveyedFrame]
    """What was known of the same frames."""
    position: Position
    """Where to go on after it."""


def restore_stream(
    frames: Iterable[np.ndarray],
    engine: Engine,
    settings: RestorationSettings,
    callback: FrameCallback | None = None,
    num_frames: int | None = None,
    before_segment: Callable[[], None] | None = None,
    on_frame: FramesCallback | None = None,
) -> Iterator[np.ndarray]:
    """Restore frames as they come.

    Args:
        frames: `[H, W, C]` uint8 or uint16, C = 3 or 4, all of one size.
        engine: What restores.
        settings: What the user chose.
        callback: Progress; may raise to cancel.
        num_frames: Number of frames where it is known, for the callback.
        before_segment: Called before each segment, where ComfyUI loads the models.
        on_frame: Called with each frame that is restored.

    Yields:
        Restored frames, like the inputs, in order.
    """
    segments = restore_segments(
        frames,
        engine,
        settings,
        callback=callback,
        num_frames=num_frames,
        before_segment=before_segment,
        on_frame=on_frame,
    )
    for segment in segments:
        yield from segment.frames


def restore_segments(
    frames: Iterable[np.ndarray],
    engine: Engine,
    settings: RestorationSettings,
    *,
    position: Position | None = None,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
    num_frames: int | None = None,
    before_segment: Callable[[], None] | None = None,
    on_frame: FramesCallback | None = None,
) -> Iterator[RestoredSegment]:
    """Restore frames as they come, from the start or from where a run was stopped.

    Args:
        frames: From `position.read_from` on; as for `restore_stream`, and so is the rest.
        engine: What restores.
        settings: What the user chose.
        position: Of the last segment that is done.
        measure_blur: Whether to measure blur even if no frame is to be left alone.
        callback: Progress; may raise to cancel.
        num_frames: Number of frames of the whole clip where it is known.
        before_segment: Called before each segment.
        on_frame: See there.

    Yields:
        The segments that are left, in order.
    """
    position = position or Position()
    restorer: SegmentRestorer | None = None
    done = 0
    grid_of = partial(engine.joint_grid, settings)
    for planned in plan_stream(
        frames, settings, grid_of, position=position, measure_blur=measure_blur
    ):
        segment = planned.segment
        if restorer is None:
            height, width = planned.frames[0].pixels.shape[:2]
            restorer = SegmentRestorer(
                engine, settings, height, width, position.noise_state, on_frame
            )
        if before_segment is not None:
            before_segment()
        progress = _progress(callback, segment, num_frames)
        restored = restorer.restore(planned.frames, segment, planned.next_context, progress)
        yield RestoredSegment(
            start=segment.start,
            frames=restored,
            sources=planned.outgoing,
            position=Position(
                next_frame=segment.stop,
                context_start=planned.next_context,
                noise_state=restorer.noise_state,
            ),
        )
        done = segment.stop
    if callback is not None and restorer is not None:
        callback(done, done)


def restore_segment(
    frames: Sequence[np.ndarray],
    segment: Segment,
    engine: Engine,
    settings: RestorationSettings,
    *,
    shares: Sequence[float] | None = None,
    callback: ProgressCallback | None = None,
) -> list[np.ndarray]:
    """Restore one segment of a plan on its own.

    Args:
        frames: From `context_start` to `context_stop`.
        segment: Of `plan_segments`.
        engine: What restores.
        settings: What the user chose.
        shares: How much of the restoration each of `frames` gets, from `footage.survey` over
            the whole clip; None: all of it.
        callback: Progress; may raise to cancel.

    Returns:
        Frames `start` to `stop`.
    """
    height, width = frames[0].shape[:2]
    restorer = SegmentRestorer(engine, settings, height, width)
    restorer.skip(segment.context_start)
    surveyed = [
        SurveyedFrame(pixels=pixels, starts_shot=False, blur=None, share=share)
        for pixels, share in zip(frames, shares or [1.0] * len(frames), strict=True)
    ]
    return restorer.restore(surveyed, segment, segment.stop, callback)


class SegmentRestorer:
    """Restore the segments of a clip in order: the engine's phases, then fuse and blend."""

    def __init__(
        self,
        engine: Engine,
        settings: RestorationSettings,
        height: int,
        width: int,
        noise_state: bytes | None = None,
        on_frame: FramesCallback | None = None,
    ) -> None:
        settings = joint_settings(engine.networks, settings, height, width)
        self._engine = engine
        self._on_frame = on_frame
        self._settings = settings
        self._grid = engine.joint_grid(settings, height, width)
        self._session = engine.session(settings, height, width, noise_state, grid=self._grid)
        check_network_input(settings, engine.first_stage)
        self._first = engine.first_stage and engine.first_stage.session(
            settings, height, width, self._grid
        )

    @property
    def noise_state(self) -> bytes:
        """State of the noise before the next segment's context."""
        return self._session.state

    def skip(self, num_frames: int) -> None:
        """Pass over frames at the start of the clip."""
        self._session.skip(num_frames)
        if self._first is not None:
            self._first.skip(num_frames)

    def count(self, segment: Segment) -> int:
        """Return the pieces of work of a segment that is restored."""
        borrowing = self._settings.borrow * (segment.stop - segment.start)
        count = self._session.count(segment, self._span(segment)) + borrowing
        if self._first is not None:
            count += self._first.count(segment, self._first_span(segment))
        return count

    @torch.no_grad()
    def restore(
        self,
        frames: Sequence[SurveyedFrame],
        segment: Segment,
        next_context: int,
        callback: ProgressCallback | None = None,
    ) -> list[np.ndarray]:
        """Restore a segment of a file.

        Args:
            frames: Its context.
            segment: Where it lies.
            next_context: Where the context of the next one starts, which moves the noise.
            callback: Progress; may raise to cancel.

        Returns:
            The frames it hands out, like the inputs.
        """
        on_device = ArrayFrames([frame.pixels for frame in frames], self._engine.device)
        shares = [frame.share for frame in frames]
        work = Work(callback, self.count(segment))
        origin, results = segment.context_start, {}
        pending: tuple[int, Tensor] | None = None

        def keep(index: int, rounded: Tensor) -> None:
            results[index] = to_array(rounded)
            if self._on_frame is not None:
                self._on_frame(frames[index - origin].pixels, results[index])

        for index, pixels in self.restored(on_device, shares, segment, next_context, work):
            rounded = self._rounded(pixels, frames[index - origin], on_device, index - origin)
            # One frame late: the device works on while the host waits for the one before.
            if pending is not None:
                keep(*pending)
            pending = (index, rounded)
        if pending is not None:
            keep(*pending)
        work.finish()
        return [
            _with_colors(frames[index - origin].pixels, results.get(index))
            for index in range(segment.start, segment.stop)
        ]

    def restored(
        self,
        frames: DeviceFrames,
        shares: Sequence[float],
        segment: Segment,
        next_context: int,
        work: Work,
    ) -> Iterator[tuple[int, Tensor]]:
        """Restore a segment up to blending.

        Args:
            frames: Of its context.
            shares: Of each.
            segment: Where it lies.
            next_context: Where the context of the next one starts.
            work: Counts pieces.

        Yields:
            Index in the clip and `[H, W, 3]`, on the device, of each frame that is handed out
            and does not stay as it is.
        """
        origin = segment.context_start
        outgoing = range(segment.start - origin, segment.stop - origin)
        if self._settings.strength == 0 or not any(shares[index] for index in outgoing):
            self.skip(min(len(frames), next_context - origin))
            return
        span = self._span(segment)
        panels = self._panels(frames, shares, segment, next_context, work)
        wanted = (outgoing.start - span[0], outgoing.stop - span[0])
        fused = fuse(
            panels,
            self._engine.device,
            work.advance,
            wanted,
            borrow=self._settings.borrow,
            refused=self._engine.first_stage and self._engine.first_stage.on_refused,
        )
        for index, pixels in zip(outgoing, fused, strict=True):
            if shares[index] > 0:
                yield origin + index, pixels

    def _panels(
        self,
        frames: DeviceFrames,
        shares: Sequence[float],
        segment: Segment,
        next_context: int,
        work: Work,
    ) -> Iterator[Panel]:
        """Restore frames of a segment with each network; arguments as for `restored`."""
        span, firsts = self._span(segment), repeat(None)
        seen = frames
        if self._first is not None:
            seen_by_first = self._first_span(segment)
            firsts = self._first.candidates(
                frames, shares, segment, seen_by_first, next_context, work
            )
            if self._settings.network_input == "first_stage":
                made = list(firsts)
                seen, firsts = SeenFrames(frames, made), made[slice(*span)]
        restored = self._session.restored(seen, shares, segment, span, next_context, work)
        return map(partial(panel_of, frames), range(*span), restored, firsts)

    def _first_span(self, segment: Segment) -> Span:
        """Return the frames of a segment's context that the first stage restores."""
        if self._settings.network_input == "first_stage":
            return 0, segment.context_stop - segment.context_start
        return self._span(segment)

    def _span(self, segment: Segment) -> Span:
        """Return the frames of a segment's context that are restored."""
        first, last = self._grid.restored(segment)
        return first - segment.context_start, last - segment.context_start

    def _rounded(
        self, restored: Tensor, frame: SurveyedFrame, frames: DeviceFrames, index: int
    ) -> Tensor:
        """Blend a frame and round it, on the device."""
        settings, dtype = self._settings, frame.pixels.dtype
        colors = frames.colors(index, index + 1)[0]
        # Colours are matched over large parts of a frame.
        step = len(colors) if settings.color_match else _BLEND_ROWS
        amount = settings.strength * frame.share
        parts = []
        for first in range(0, len(colors), step):
            rows = slice(first, first + step)
            mixed = blend(
                colors[None, rows], restored[None, rows], amount, settings.color_match
            )
            parts.append(rounded(mixed[0], dtype))
        return torch.cat(parts)


def _with_colors(pixels: np.ndarray, colors: np.ndarray | None) -> np.ndarray:
    """Return a frame with other colours and its own alpha; None: as it is."""
    if colors is None or pixels.shape[-1] == 3:
        return pixels if colors is None else colors
    return np.concatenate([colors, pixels[..., 3:]], axis=-1)


def _progress(
    callback: FrameCallback | None, segment: Segment, num_frames: int | None
) -> Callable[[int, int], None] | None:
    if callback is None:
        return None
    fresh = segment.stop - segment.start
    return lambda part, parts: callback(segment.start + fresh * part / parts, num_frames)
