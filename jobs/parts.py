"""Parts of a video as work for others: planned here, restored and encoded anywhere.

A part is what `run --resume` keeps at once: segments in a row, encoded by themselves. So a
video that was restored part by part, by any number of machines, is the one of a resumable run.
The frames of a folder are encoded as one PNG each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from ..models.config import DivdConfig
from ..restoration.denoising.noise import FrameNoise
from ..restoration.engine import Engine
from ..restoration.load import engine_class
from ..restoration.settings import RestorationSettings
from ..restoration.streaming.footage import SurveyedFrame
from ..restoration.streaming.planning import PlannedSegment, Position, plan_stream
from ..restoration.streaming.segments import Segment
from ..restoration.streaming.stream import SegmentRestorer
from ..video.encoder import EncodedFrame, PacketEncoder, PictureFormat
from ..video.frames import encode_png
from .files import finished_part, merged
from .part_store import PART_FRAMES, FinishedPart


class PartSource(Protocol):
    """Frames to cut into parts, and their time stamps: `files.TimedFrames`."""

    def __iter__(self) -> Iterator[np.ndarray]: ...
    def time_of(self, index: int) -> tuple[int, int]: ...


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
    frames: np.ndarray
    """`[T, H, W, C]`, contexts included."""
    position: Position
    """Where to go on after it."""
    finished: FinishedPart
    """What is to be kept of its frames."""


def plan_parts(
    frames: PartSource,
    config: DivdConfig,
    settings: RestorationSettings,
    pictures: PictureFormat | None,
    suffix: str,
    position: Position | None = None,
) -> Iterator[PlannedPart]:
    """Cut a video into parts as it is read.

    Args:
        frames: From `position.read_from` on.
        config: Of the checkpoint.
        settings: What the user chose.
        pictures: How they are to be encoded; None: as PNG.
        suffix: Of the output file, with the dot.
        position: Where to begin: after a part.

    Yields:
        The parts that are left, in order.
    """
    position = position or Position()
    noise = FrameNoise(settings.seed)
    if position.noise_state is not None:
        noise.restore(position.noise_state)
    engine = engine_class(config)
    pending: list[PlannedSegment] = []
    count = 0

    def closed() -> PlannedPart:
        state = noise.state
        size = pending[0].frames[0].pixels.shape[:2]
        noise_shape = engine.noise_shape(config, *size)
        if noise_shape is not None:
            for planned in pending:
                drawn = planned.next_context - planned.segment.context_start
                noise.skip(drawn, *noise_shape)
        start, last = pending[0].segment.start, pending[-1]
        stop = last.segment.stop
        contexts = _union(pending)
        task = PartTask(
            segments=tuple((each.segment, each.next_context) for each in pending),
            shares=tuple(frame.share for frame in contexts),
            noise_state=state,
            times=tuple(frames.time_of(index) for index in range(start, stop)),
            pictures=pictures,
            suffix=suffix,
        )
        return PlannedPart(
            task=task,
            frames=np.stack([frame.pixels for frame in contexts]),
            position=Position(
                next_frame=stop, context_start=last.next_context, noise_state=noise.state
            ),
            finished=merged([finished_part(e.segment.start, e.outgoing) for e in pending]),
        )

    grid_of = partial(engine.grid, config, settings)
    for planned in plan_stream(frames, settings, grid_of, position=position):
        pending.append(planned)
        count += planned.segment.stop - planned.segment.start
        if count >= PART_FRAMES:
            part = closed()
            pending.clear()
            count = 0
            yield part
            del part
    if pending:
        yield closed()


def restore_part(
    frames: np.ndarray, task: PartTask, engine: Engine, settings: RestorationSettings
) -> list[EncodedFrame]:
    """Restore and encode a part.

    Args:
        frames: Of `PlannedPart`.
        task: Of the same.
        engine: What restores.
        settings: What the user chose.

    Returns:
        Its frames, the first one a key frame.
    """
    height, width = frames.shape[1:3]
    restorer = SegmentRestorer(engine, settings, height, width, task.noise_state)
    encoder = PacketEncoder(task.pictures, task.suffix) if task.pictures else _PngEncoder()
    origin = task.segments[0][0].context_start
    surveyed = [
        SurveyedFrame(pixels=pixels, starts_shot=False, blur=None, share=share)
        for pixels, share in zip(frames, task.shares, strict=True)
    ]
    times = iter(task.times)
    encoded = []
    for segment, next_context in task.segments:
        context = surveyed[segment.context_start - origin : segment.context_stop - origin]
        for pixels in restorer.restore(context, segment, next_context):
            encoded += encoder.encode(pixels, *next(times))
    return encoded + encoder.finish()


class _PngEncoder:
    """As `PacketEncoder`."""

    def encode(self, pixels: np.ndarray, pts: int, duration: int) -> list[EncodedFrame]:
        data = encode_png(pixels)
        return [EncodedFrame(data=data, pts=pts, duration=duration, is_keyframe=True)]

    def finish(self) -> list[EncodedFrame]:
        return []


def _union(planned: Sequence[PlannedSegment]) -> list[SurveyedFrame]:
    """Return the frames of segments in a row, each once."""
    frames: list[SurveyedFrame] = []
    origin = planned[0].segment.context_start
    for each in planned:
        known = origin + len(frames) - each.segment.context_start
        frames += each.frames[known:]
    return frames
