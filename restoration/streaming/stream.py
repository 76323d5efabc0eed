"""Restore clips of any length in bounded memory, segment by segment.

Segments and windows are those of `segments`: the grid of each shot. Noise belongs to frames.
So with one step the result equals restoring the clip at once, and every segment can be
restored on its own, by another machine or after a stop, with the same result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...video.pixels import to_float, to_uint8, to_uint16
from ..denoising.estimates import WindowCache
from ..denoising.noise import FrameNoise
from ..denoising.windows import Layout
from ..engine import Deblurrer, Work, blend
from ..settings import RestorationSettings
from .footage import SurveyedFrame
from .planning import Position, plan_stream
from .segments import Segment, segment_grid

_BLEND_ROWS = 256
"""Rows that are blended and rounded at once: bounds memory."""

FrameCallback = Callable[[float, int | None], None]
"""Called with (frames done, as a fraction where a segment is under way; frames in all or
None); may raise to cancel."""


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
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    callback: FrameCallback | None = None,
    num_frames: int | None = None,
    before_segment: Callable[[], None] | None = None,
) -> Iterator[np.ndarray]:
    """Restore frames as they come.

    Args:
        frames: `[H, W, C]` uint8 or uint16, C = 3 or 4, all of one size.
        deblurrer: The engine.
        settings: What the user chose.
        callback: Progress; may raise to cancel.
        num_frames: Number of frames where it is known, for the callback.
        before_segment: Called before each segment, where ComfyUI loads the models.

    Yields:
        Restored frames, like the inputs, in order.
    """
    segments = restore_segments(
        frames,
        deblurrer,
        settings,
        callback=callback,
        num_frames=num_frames,
        before_segment=before_segment,
    )
    for segment in segments:
        yield from segment.frames


def restore_segments(
    frames: Iterable[np.ndarray],
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    *,
    position: Position | None = None,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
    num_frames: int | None = None,
    before_segment: Callable[[], None] | None = None,
) -> Iterator[RestoredSegment]:
    """Restore frames as they come, from the start or from where a run was stopped.

    Args:
        frames: From `position.read_from` on; as for `restore_stream`, and so is the rest.
        deblurrer: The engine.
        settings: What the user chose.
        position: Of the last segment that is done.
        measure_blur: Whether to measure blur even if no frame is to be left alone.
        callback: Progress; may raise to cancel.
        num_frames: Number of frames of the whole clip where it is known.
        before_segment: Called before each segment.

    Yields:
        The segments that are left, in order.
    """
    position = position or Position()
    restorer: SegmentRestorer | None = None
    done = 0
    for planned in plan_stream(frames, settings, position=position, measure_blur=measure_blur):
        segment = planned.segment
        if restorer is None:
            height, width = planned.frames[0].pixels.shape[:2]
            restorer = SegmentRestorer(deblurrer, settings, height, width, position.noise_state)
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
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    *,
    shares: Sequence[float] | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Restore one segment of a plan on its own.

    Args:
        frames: From `context_start` to `context_stop`.
        segment: Of `plan_segments`.
        deblurrer: The engine.
        settings: What the user chose.
        shares: How much of the restoration each of `frames` gets, from `footage.survey` over
            the whole clip; None: all of it.
        callback: Progress; may raise to cancel.

    Returns:
        Frames `start` to `stop`.
    """
    height, width = frames[0].shape[:2]
    restorer = SegmentRestorer(deblurrer, settings, height, width)
    restorer.skip(segment.context_start)
    surveyed = [
        SurveyedFrame(pixels=pixels, starts_shot=False, blur=None, share=share)
        for pixels, share in zip(frames, shares or [1.0] * len(frames), strict=True)
    ]
    return restorer.restore(surveyed, segment, segment.stop, callback)


class SegmentRestorer:
    """Restore the segments of a clip in order.

    Holds what a segment has of use for the next: the state of the noise, and with one step
    the encoded frames and the estimates of the windows that both share. That saves time and
    changes no bit, as groups of frames end where windows of the grid do.
    """

    def __init__(
        self,
        deblurrer: Deblurrer,
        settings: RestorationSettings,
        height: int,
        width: int,
        noise_state: bytes | None = None,
    ) -> None:
        self._deblurrer = deblurrer
        self._settings = settings
        self._size = (height, width)
        self._grid = segment_grid(settings, height, width)
        self._latent_size = deblurrer.latent_size(height, width)
        self._noise = FrameNoise(settings.seed)
        if noise_state is not None:
            self._noise.restore(noise_state)
        self._carried: _Carried | None = None

    @property
    def noise_state(self) -> bytes:
        """State of the noise before the next segment's context."""
        return self._noise.state

    def skip(self, num_frames: int) -> None:
        """Pass over frames at the start of the clip."""
        self._noise.skip(num_frames, *self._latent_shape())

    def restore(
        self,
        frames: Sequence[SurveyedFrame],
        segment: Segment,
        next_context: int,
        callback: Callable[[int, int], None] | None = None,
    ) -> list[np.ndarray]:
        """Restore a segment.

        Args:
            frames: Its context.
            segment: Where it lies.
            next_context: Where the context of the next one starts, which moves the noise.
            callback: Progress; may raise to cancel.

        Returns:
            The frames it hands out, like the inputs.
        """
        carried, self._carried = self._carried, None
        shares = [frame.share for frame in frames]
        kept = segment.start - segment.context_start
        outgoing = range(kept, segment.stop - segment.context_start)
        untouched = self._settings.strength == 0
        if untouched or not any(shares[index] for index in outgoing):
            self.skip(min(len(frames), next_context - segment.context_start))
            return [frames[index].pixels for index in outgoing]
        return self._restore(frames, segment, next_context, carried, callback)

    def _restore(
        self,
        frames: Sequence[SurveyedFrame],
        segment: Segment,
        next_context: int,
        carried: _Carried | None,
        callback: Callable[[int, int], None] | None,
    ) -> list[np.ndarray]:
        settings, engine = self._settings, self._deblurrer
        if carried is None or carried.start != segment.context_start:
            carried = None
        known = 0 if carried is None else len(carried.encoded[1])
        layout = engine.fitting(
            engine.layout(settings, *self._size), len(frames), *self._latent_size
        )
        encoding = [
            group
            for group in self._groups(len(frames), self._group_bounds(len(frames)))
            if group[0] >= known
        ]
        origin = segment.context_start
        first, last = (edge - origin for edge in self._grid.restored(segment))
        outgoing = slice(segment.start - origin, segment.stop - origin)
        decoding = [(first + a, first + b) for a, b in self._groups(last - first, ())]
        pieces = settings.passes * layout.count(len(frames), *self._latent_size)
        borrowing = settings.borrow * (segment.stop - segment.start)
        work = Work(callback, len(encoding) + pieces + len(decoding) + borrowing)
        latents = self._denoised(frames, encoding, layout, carried, segment, next_context, work)
        decoded = self._decoded(latents, frames, decoding, work)
        wanted = (outgoing.start - first, outgoing.stop - first)
        finished = engine.finish(decoded, settings, work, wanted)
        restored = [
            self._blended(pixels, frame)
            for pixels, frame in zip(finished, frames[outgoing], strict=True)
        ]
        work.finish()
        return restored

    def _denoised(
        self,
        frames: Sequence[SurveyedFrame],
        encoding: list[tuple[int, int]],
        layout: Layout,
        carried: _Carried | None,
        segment: Segment,
        next_context: int,
        work: Work,
    ) -> Tensor:
        """Return clean latents; keep what the next segment shares, let go of the rest."""
        settings = self._settings
        shared = next_context - segment.context_start
        noise = self._draw(len(frames), shared)
        encoded = self._encode(frames, encoding, carried, work)
        cache = WindowCache(carried and carried.estimates, shared)
        shares = [frame.share for frame in frames]
        latents = self._deblurrer.denoise(
            encoded, noise, settings, layout, work, needed=shares, cache=cache
        )
        if settings.steps == 1 and shared < len(frames):
            self._carried = _Carried(
                start=next_context,
                encoded=(encoded[0][:, :, shared:].clone(), encoded[1][shared:].clone()),
                estimates=cache.kept,
            )
        return latents

    def _encode(
        self,
        frames: Sequence[SurveyedFrame],
        groups: list[tuple[int, int]],
        carried: _Carried | None,
        work: Work,
    ) -> tuple[Tensor, Tensor]:
        parts = [] if carried is None else [carried.encoded]
        for first, last in groups:
            work.advance()
            parts.append(self._deblurrer.encode(_to_tensor(frames[first:last])))
        condition = torch.cat([part[0] for part in parts], dim=2)
        return condition, torch.cat([part[1] for part in parts])

    def _decoded(
        self,
        latents: Tensor,
        frames: Sequence[SurveyedFrame],
        groups: list[tuple[int, int]],
        work: Work,
    ) -> Iterator[Tensor]:
        for first, last in groups:
            work.advance()
            shares = [frame.share for frame in frames[first:last]]
            blurry = _to_tensor(frames[first:last])
            # Handed over one by one, so that whoever takes one decides how long it lives.
            decoded = deque(self._deblurrer.decode(latents[:, :, first:last], blurry, shares))
            del blurry
            while decoded:
                yield decoded.popleft()

    def _blended(self, restored: Tensor, frame: SurveyedFrame) -> np.ndarray:
        if frame.share == 0:
            return frame.pixels
        settings, pixels = self._settings, frame.pixels
        quantise = to_uint16 if pixels.dtype == np.uint16 else to_uint8
        result = np.empty_like(pixels)
        # Colours are matched over large parts of a frame.
        step = len(pixels) if settings.color_match else _BLEND_ROWS
        for first in range(0, len(pixels), step):
            rows = slice(first, first + step)
            mixed = blend(
                torch.from_numpy(to_float(pixels[rows]))[None],
                restored[None, rows],
                settings.strength,
                settings.color_match,
                [frame.share],
            )
            result[rows] = quantise(mixed[0].numpy())
        return result

    def _draw(self, num_frames: int, until_next: int) -> Tensor:
        """Draw the noise of a context; the generator stays where the next one starts."""
        first = self._noise.draw(min(num_frames, until_next), *self._latent_shape())
        state = self._noise.state
        rest = self._noise.draw(num_frames - first.shape[2], *self._latent_shape())
        self._noise.restore(state)
        return torch.cat([first, rest], dim=2)

    def _latent_shape(self) -> tuple[int, int, int]:
        channels = self._deblurrer.model.config.autoencoder.latent_channels
        return channels, *self._latent_size

    def _groups(self, num_frames: int, bounds: Sequence[int]) -> list[tuple[int, int]]:
        return self._deblurrer.groups(num_frames, *self._size, bounds)

    def _group_bounds(self, num_frames: int) -> list[int]:
        """Let groups end on the grid and after what segments share.

        Which frames are encoded together may change the last bits of each.
        """
        grid = self._grid
        return [*range(0, num_frames, grid.hop), grid.window + grid.context]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Carried:
    """What two segments share: the last windows of one, the first of the other."""

    start: int
    """First frame of these windows."""
    encoded: tuple[Tensor, Tensor]
    """Blur latents and tokens."""
    estimates: dict
    """`WindowCache.kept`."""


def _to_tensor(frames: Sequence[SurveyedFrame]) -> Tensor:
    return torch.from_numpy(np.stack([to_float(frame.pixels) for frame in frames]))


def _progress(
    callback: FrameCallback | None, segment: Segment, num_frames: int | None
) -> Callable[[int, int], None] | None:
    if callback is None:
        return None
    fresh = segment.stop - segment.start
    return lambda part, parts: callback(segment.start + fresh * part / parts, num_frames)
