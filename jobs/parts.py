"""Parts of a video as work for others: planned here, restored and encoded anywhere.

A part is what `run --resume` keeps at once: segments in a row, encoded by themselves. So a
video that was restored part by part, by any number of machines, is the one of a resumable run.
The frames of a folder are encoded as one PNG each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..images.folders import encode_png
from ..restoration.denoising.noise import FrameNoise
from ..restoration.engine import Engine, joint_grid
from ..restoration.load import engine_class
from ..restoration.settings import RestorationSettings
from ..restoration.streaming.footage import SurveyedFrame
from ..restoration.streaming.planning import PlannedSegment, Position, plan_stream
from ..restoration.streaming.segments import Segment
from ..restoration.streaming.stream import SegmentRestorer
from ..video.frames import EncodedFrame
from .ends import Ends, drained
from .part_store import PART_FRAMES
from .report import FinishedPart, finished_part, merged
from .threads import WriteBehind

if TYPE_CHECKING:
    from ..video.encoder import PacketEncoder, PictureFormat

SegmentCallback = Callable[[Segment, int, int], None]
"""Called with (segment, pieces of its work done, pieces in all); may raise to cancel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PartTask:
    """What is to be done with the frames of a part."""

    segments: tuple[tuple[Segment, int], ...]
    """Each with the frame at which the context of the next one starts."""
    shares: tuple[float, ...]
    """How much of the restoration each frame gets."""
    noise_state: bytes
    """Of the generator before it draws for the first frame."""
    times: tuple[tuple[int, int], ...]
    """Time stamp and duration of each frame that is handed out."""
    pictures: PictureFormat | None
    """How they are encoded; None: as PNG."""
    suffix: str
    """Of the file that the packets are for, with the dot."""

    @property
    def num_frames(self) -> int:
        """Frames that are handed out."""
        return len(self.times)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedPart:
    """A part that is about to be restored."""

    task: PartTask
    frames: list[np.ndarray]
    """`[H, W, C]` each, contexts included; whoever restores them empties the list."""
    position: Position
    """Where to go on after it."""
    finished: FinishedPart
    """What is to be kept of its frames."""


def plan_parts(
    ends: Ends,
    config: Any,
    settings: RestorationSettings,
    position: Position | None = None,
    measure_blur: bool = False,
    first_config: Any = None,
) -> Iterator[PlannedPart]:
    """Cut a clip into parts as it is read.

    Args:
        ends: Open; gives the frames, their times and how they are encoded.
        config: Of the checkpoint.
        settings: What the user chose.
        position: Where to begin: after a part.
        measure_blur: Whether to measure blur even if no frame is to be left alone.
        first_config: `FirstStage.planned_config`.

    Yields:
        The parts that are left, in order.
    """
    position = position or Position()
    noise = FrameNoise(settings.seed)
    if position.noise_state is not None:
        noise.restore(position.noise_state)
    pending: list[PlannedSegment] = []
    count = 0
    configs = [each for each in (config, first_config) if each is not None]
    networks = [(engine_class(each), each) for each in configs]
    grid_of = partial(joint_grid, networks, settings)
    for planned in plan_stream(
        ends.frames(position), settings, grid_of, position=position, measure_blur=measure_blur
    ):
        pending.append(planned)
        count += planned.segment.stop - planned.segment.start
        # Not kept alive while the part is restored.
        del planned
        if count >= PART_FRAMES:
            count = 0
            yield _closed(pending, ends, config, noise)
    if pending:
        yield _closed(pending, ends, config, noise)


def _closed(
    pending: list[PlannedSegment], ends: Ends, config: Any, noise: FrameNoise
) -> PlannedPart:
    """Make a part of segments in a row, and empty their list; the noise moves past them."""
    # As the state of an engine without noise, so that a part is known to follow another.
    state = b""
    height, width = pending[0].frames[0].pixels.shape[:2]
    noise_shape = engine_class(config).noise_shape(config, height, width)
    if noise_shape is not None:
        state = noise.state
        for each in pending:
            noise.skip(each.next_context - each.segment.context_start, *noise_shape)
    start, last = pending[0].segment.start, pending[-1]
    stop = last.segment.stop
    contexts = _union(pending)
    task = PartTask(
        segments=tuple((each.segment, each.next_context) for each in pending),
        shares=tuple(frame.share for frame in contexts),
        noise_state=state,
        times=tuple(ends.time_of(index) for index in range(start, stop)),
        pictures=ends.pictures,
        suffix=ends.output.suffix.lower(),
    )
    part = PlannedPart(
        task=task,
        frames=[frame.pixels for frame in contexts],
        position=Position(
            next_frame=stop, context_start=last.next_context, noise_state=noise.state
        ),
        finished=merged([finished_part(e.segment.start, e.outgoing) for e in pending]),
    )
    pending.clear()
    return part


def restore_part(
    frames: list[np.ndarray],
    task: PartTask,
    engine: Engine,
    settings: RestorationSettings,
) -> list[EncodedFrame]:
    """Restore and encode a part on its own.

    Args:
        frames: Of `PlannedPart`; emptied.
        task: Of the same.
        engine: What restores.
        settings: What the user chose.

    Returns:
        Its frames, the first one a key frame.
    """
    height, width = frames[0].shape[:2]
    restorer = SegmentRestorer(engine, settings, height, width, task.noise_state)
    with PartEncoder.of(task) as encoder:
        for pixels in restored_frames(frames, task, restorer):
            encoder.put(pixels)
        return encoder.finish()


def restored_frames(
    frames: list[np.ndarray],
    task: PartTask,
    restorer: SegmentRestorer,
    callback: SegmentCallback | None = None,
    before_segment: Callable[[], None] | None = None,
) -> Iterator[np.ndarray]:
    """Restore the frames of a part, segment by segment.

    Args:
        frames: Of `PlannedPart`; emptied as the work goes on.
        task: Of the same.
        restorer: Fresh, or after the part before.
        callback: Progress; may raise to cancel.
        before_segment: Called before each segment.
    """
    shares = list(task.shares)
    for segment, next_context in task.segments:
        if before_segment is not None:
            before_segment()
        count = segment.context_stop - segment.context_start
        context = [
            SurveyedFrame(pixels=pixels, starts_shot=False, blur=None, share=share)
            for pixels, share in zip(frames[:count], shares[:count], strict=True)
        ]
        restored = restorer.restore(
            context, segment, next_context, _of_segment(callback, segment)
        )
        del context
        # The context of the next segment starts there.
        del frames[: next_context - segment.context_start]
        del shares[: next_context - segment.context_start]
        yield from drained(restored)
    frames.clear()


class PartEncoder:
    """Encode the frames of a part in a thread, while more are restored."""

    def __init__(
        self,
        pictures: PictureFormat | None,
        suffix: str,
        times: Iterable[tuple[int, int]],
        check: Callable[[], None] | None = None,
    ) -> None:
        """Start to wait for frames.

        Args:
            pictures: As in `PartTask`, and so are the next two.
            suffix: See there.
            times: See there.
            check: Called now and then while `put` and `finish` wait; may raise to cancel.
        """
        self._encoder = _make_encoder(pictures, suffix)
        self._times = iter(times)
        self._encoded: list[EncodedFrame] = []
        self._behind = WriteBehind(self._encode, check=check)

    @classmethod
    def of(cls, task: PartTask, check: Callable[[], None] | None = None) -> PartEncoder:
        """Return one for the frames of a part."""
        return cls(task.pictures, task.suffix, task.times, check)

    def __enter__(self) -> PartEncoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def put(self, pixels: np.ndarray) -> None:
        """Encode the next frame."""
        self._behind.put(pixels, pixels.nbytes)

    def end(self) -> None:
        """Say that no frame follows."""
        self._behind.put(None, 0)
        self._behind.end()

    @property
    def is_done(self) -> bool:
        """Whether `finish` need not wait, after `end`."""
        return self._behind.is_done

    def wait(self, timeout_s: float) -> None:
        """Wait so long, at most, for `is_done`."""
        self._behind.wait(timeout_s)

    def finish(self) -> list[EncodedFrame]:
        """Wait for all frames and return them encoded; raises what encoding raised."""
        if not self._behind.is_ended:
            self.end()
        self._behind.finish()
        return self._encoded

    def close(self) -> None:
        """Drop the part; what the encoder has begun it ends by itself, in memory."""
        self._behind.abandon()

    def _encode(self, pixels: np.ndarray | None) -> None:
        if pixels is None:
            self._encoded += self._encoder.finish()
        else:
            self._encoded += self._encoder.encode(pixels, *next(self._times))


def _make_encoder(pictures: PictureFormat | None, suffix: str) -> PacketEncoder | _PngEncoder:
    if pictures is None:
        return _PngEncoder()
    from ..video.encoder import PacketEncoder

    return PacketEncoder(pictures, suffix)


class _PngEncoder:
    """As `PacketEncoder`."""

    def encode(self, pixels: np.ndarray, pts: int, duration: int) -> list[EncodedFrame]:
        data = encode_png(pixels)
        return [EncodedFrame(data=data, pts=pts, duration=duration, is_keyframe=True)]

    def finish(self) -> list[EncodedFrame]:
        return []


def _of_segment(
    callback: SegmentCallback | None, segment: Segment
) -> Callable[[int, int], None] | None:
    if callback is None:
        return None
    return lambda part, parts: callback(segment, part, parts)


def _union(planned: Sequence[PlannedSegment]) -> list[SurveyedFrame]:
    """Return the frames of segments in a row, each once."""
    frames: list[SurveyedFrame] = []
    origin = planned[0].segment.context_start
    for each in planned:
        known = origin + len(frames) - each.segment.context_start
        frames += each.frames[known:]
    return frames
