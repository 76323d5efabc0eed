"""Restore files: a video, a folder of images, an image."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..restoration.engine import Engine
from ..restoration.settings import RestorationSettings
from ..restoration.streaming.footage import SurveyedFrame
from ..restoration.streaming.planning import Position
from ..restoration.streaming.stream import FrameCallback, RestoredSegment, restore_segments
from ..video.codecs import codec_named
from ..video.encoder import EncodedFrame, PacketEncoder
from ..video.frames import FrameFolder, FrameFolderWriter, read_image
from ..video.output_lock import output_lock
from ..video.reader import VideoReader
from ..video.source import Source, VideoError
from ..video.writer import VideoWriter
from .part_store import PART_FRAMES, FinishedPart, PartStore, file_identity

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """Keep finished parts, and go on from those of a run that was stopped."""

    folder: Path
    """Where they are kept; removed when the output is complete."""
    identity: dict[str, Any]
    """JSON values that say which networks restore: the rest is known here."""


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


def restore_file(
    source: Source,
    output: str | Path,
    deblurrer: Engine,
    settings: RestorationSettings,
    *,
    codec: str = "h264",
    crf: int | None = None,
    resumable: Resumable | None = None,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
    before_segment: Callable[[], None] | None = None,
) -> Report:
    """Restore a video file: time stamps and audio packets stay as they are.

    Args:
        source: Path or binary file object.
        output: Target, replaced when complete.
        deblurrer: The engine.
        settings: What the user chose.
        codec: One of `video.codecs.CODECS`.
        crf: Quality of h264 and h265; None: nearly lossless.
        resumable: Whether and where to keep finished parts.
        measure_blur: Whether to measure blur even if no frame is to be left alone.
        callback: Progress; may raise to cancel, which leaves nothing under `output`.
        before_segment: Called before each segment.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used, or another run writes
            the same output.
        VideoError: If the file ends early or changes its size. `output` then holds what came
            before, and the message says so.
    """
    output = Path(output)
    with VideoReader(source) as reader:
        writer = writer_for(reader, source, output, codec, crf)
        frames = TimedFrames(reader, writer.pictures.has_alpha)
        options = {
            "measure_blur": measure_blur,
            "callback": callback,
            "num_frames": reader.info.num_frames,
            "before_segment": before_segment,
        }
        with output_lock(output):
            writer.remove_leftovers()
            if resumable is None:
                segments = restore_segments(frames, deblurrer, settings, **options)
                report = _write_straight(segments, frames, writer)
            else:
                identity = _identity(resumable, source, settings, deblurrer, writer)
                with kept_parts(
                    PartStore(resumable.folder, identity, str(output)), output
                ) as store:
                    frames.begin(store.position)
                    segments = restore_segments(
                        frames, deblurrer, settings, position=store.position, **options
                    )
                    report = _write_in_parts(segments, frames, writer, store)
    check_complete(frames, writer, report)
    return report


def writer_for(
    reader: VideoReader, source: Source, output: Path, codec: str, crf: int | None
) -> VideoWriter:
    """Return the writer of a restored video, with all that the codec can keep.

    Raises:
        FileNotFoundError, ValueError: If the output or the options cannot be used.
    """
    alpha = reader.info.has_alpha and codec_named(codec).alpha
    if reader.info.has_alpha and not alpha:
        logger.warning(
            "%s: transparency is dropped, %s cannot store it (ffv1 and prores can)",
            reader.name,
            codec,
        )
    info = dataclasses.replace(reader.info, has_alpha=alpha)
    return VideoWriter.like(output, info, codec=codec, crf=crf, audio_from=source)


def check_complete(frames: TimedFrames, writer: VideoWriter, report: Report) -> None:
    """Raise VideoError if pictures or sound of the source ended early."""
    error = frames.ended_early or writer.sound_error
    if error is not None:
        raise VideoError(
            f"{str(error).rstrip('.')}. The {report.num_frames} frames before that are "
            f"restored in {writer.path}."
        )


def restore_folder(
    source: str | Path,
    output: str | Path,
    deblurrer: Engine,
    settings: RestorationSettings,
    *,
    resumable: Resumable | None = None,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
) -> Report:
    """Restore a folder of images into a folder of PNG files of the same names.

    Arguments as for `restore_file`.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used, or another run writes
            the same output.
    """
    output = Path(output)
    folder = FrameFolder(source)
    writer = FrameFolderWriter(output)
    options = {"measure_blur": measure_blur, "callback": callback, "num_frames": len(folder)}

    def pixels(start: int) -> Iterator[np.ndarray]:
        return (folder[index].pixels for index in range(start, len(folder)))

    with output_lock(output):
        if resumable is None:
            with writer:
                segments = restore_segments(pixels(0), deblurrer, settings, **options)
                parts = list(_write_images(segments, folder.names, writer))
            return make_report(parts, len(folder))
        identity = {
            "frames": [file_identity(folder.path / name) for name in folder.names],
            **_engine_identity(resumable, settings, deblurrer),
        }
        with kept_parts(PartStore(resumable.folder, identity, str(output)), output) as store:
            position = store.position
            start = 0 if position is None else position.read_from
            with writer.collected_in(store.folder / "frames", folder.names[: store.num_frames]):
                segments = restore_segments(
                    pixels(start), deblurrer, settings, position=position, **options
                )
                for segment in segments:
                    (part,) = _write_images(iter([segment]), folder.names, writer)
                    store.add([], segment.position, part)
            report = make_report(store.parts, len(folder))
            store.remove()
    return report


def restore_image(
    source: str | Path,
    output: str | Path,
    deblurrer: Engine,
    settings: RestorationSettings,
    *,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
) -> Report:
    """Restore one image into a PNG file.

    Arguments as for `restore_file`.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used.
    """
    output = Path(output)
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output}: an image is written as PNG, name the output .png")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"{output}: its folder does not exist, create it")
    pixels = read_image(Path(source))
    segments = restore_segments(
        [pixels],
        deblurrer,
        settings,
        measure_blur=measure_blur,
        callback=callback,
        num_frames=1,
    )
    # A folder of one frame: written whole beside the target, then moved onto it.
    hidden = tempfile.TemporaryDirectory(prefix=f".{output.stem}.", dir=output.parent)
    with output_lock(output), hidden as folder:
        with FrameFolderWriter(Path(folder) / "frames") as writer:
            parts = list(_write_images(segments, [output.name], writer))
        os.replace(Path(folder) / "frames" / f"{output.stem}.png", output)
    return make_report(parts, 1)


class TimedFrames:
    """The pixels of a file, and the time stamps of frames that are still to be written."""

    def __init__(self, reader: VideoReader, alpha: bool) -> None:
        self._reader = reader
        self._alpha = alpha
        self._index = self._wanted = 0
        self._times: dict[int, tuple[int, int]] = {}
        self.ended_early: VideoError | None = None
        """Why the file could not be read to its end."""

    def begin(self, position: Position | None) -> None:
        """Start where a stopped run has to: frames before are decoded and let go."""
        if position is not None:
            self._index = position.read_from
            self._wanted = position.next_frame
            self._reader.skip(self._index)

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            try:
                frame = next(self._reader)
            except StopIteration:
                return
            except VideoError as error:
                self.ended_early = error
                return
            if self._index >= self._wanted:
                self._times[self._index] = (frame.pts, frame.duration)
            self._index += 1
            yield frame.pixels if self._alpha else frame.pixels[..., :3]

    def time_of(self, index: int) -> tuple[int, int]:
        """Return time stamp and duration of a frame, once."""
        return self._times.pop(index)


def _write_straight(
    segments: Iterator[RestoredSegment], frames: TimedFrames, writer: VideoWriter
) -> Report:
    parts, count = [], 0
    with writer:
        for segment in segments:
            for index, pixels in enumerate(segment.frames, segment.start):
                writer.write(pixels, *frames.time_of(index))
            parts.append(finished_part(segment.start, segment.sources))
            count += len(segment.frames)
        if frames.ended_early is not None:
            writer.end_early()
    return make_report(parts, count)


def _write_in_parts(
    segments: Iterator[RestoredSegment],
    frames: TimedFrames,
    writer: VideoWriter,
    store: PartStore,
) -> Report:
    """Encode each part by itself, then join all without encoding again."""
    suffix = writer.path.suffix.lower()
    # At once: what the encoder refuses is refused before the work.
    encoder: PacketEncoder | None = PacketEncoder(writer.pictures, suffix)
    encoded: list[EncodedFrame] = []
    finished: list[FinishedPart] = []
    position = Position()

    def close_part() -> None:
        nonlocal encoder
        if encoder is not None and finished:
            encoded.extend(encoder.finish())
            store.add(encoded, position, merged(finished))
            encoder = None
            encoded.clear()
            finished.clear()

    for segment in segments:
        encoder = encoder or PacketEncoder(writer.pictures, suffix)
        for index, pixels in enumerate(segment.frames, segment.start):
            encoded += encoder.encode(pixels, *frames.time_of(index))
        finished.append(finished_part(segment.start, segment.sources))
        position = segment.position
        if position.next_frame - store.num_frames >= PART_FRAMES:
            close_part()
    close_part()
    return join_parts(store, frames, writer)


def join_parts(store: PartStore, frames: TimedFrames, writer: VideoWriter) -> Report:
    """Write the parts of a video, all of them finished, into one file."""
    with writer:
        for frame in store.encoded_frames():
            writer.write_encoded(frame)
        if frames.ended_early is not None:
            writer.end_early()
    report = make_report(store.parts, store.num_frames)
    store.remove()
    return report


def _write_images(
    segments: Iterator[RestoredSegment], names: Sequence[str], writer: FrameFolderWriter
) -> Iterator[FinishedPart]:
    for segment in segments:
        for index, pixels in enumerate(segment.frames, segment.start):
            writer.write(pixels, names[index])
        yield finished_part(segment.start, segment.sources)


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


def make_report(parts: Sequence[FinishedPart], num_frames: int) -> Report:
    """Return what was done, from all parts."""
    joined = merged(parts)
    return Report(
        num_frames=num_frames,
        cuts=joined.cuts,
        blur=joined.blur,
        untouched=joined.untouched,
    )


def _identity(
    resumable: Resumable,
    source: Source,
    settings: RestorationSettings,
    deblurrer: Engine,
    writer: VideoWriter,
) -> dict[str, Any]:
    return {
        "input": file_identity(source),
        "pictures": repr(writer.pictures),
        **_engine_identity(resumable, settings, deblurrer),
    }


def _engine_identity(
    resumable: Resumable, settings: RestorationSettings, deblurrer: Engine
) -> dict[str, Any]:
    return {
        **resumable.identity,
        "settings": dataclasses.asdict(settings),
        "device": deblurrer.device.type,
        "dtype": str(deblurrer.dtype),
    }


@contextlib.contextmanager
def kept_parts(store: PartStore, output: Path) -> Iterator[PartStore]:
    """Say what is kept when a full disk ends the work; an empty store is not worth keeping."""
    try:
        yield store
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        cause = error.strerror or str(error)
        if str(output) not in cause:
            cause = f"{output}: could not be written ({cause}), free some space"
        if store.num_kept:
            cause += (
                f"; {store.num_kept} finished frames are kept, run the same command again to "
                "go on"
            )
        raise OSError(error.errno, cause) from error
    finally:
        if not store.num_kept:
            store.remove()
