"""What reads an input and writes its output, one class for each kind: see also `image_ends`.

    with make_ends("in.mp4", "out.mp4", codec="h264") as ends:
        report = ends.write(restore_segments(ends.frames(), engine, settings))
    ends.check_complete(report)

Frames are read and written in threads of their own (see `threads`). Whatever ends the block,
nothing incomplete has the name of the output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from ..images.clips import ImageClip
from ..restoration.streaming.planning import Position
from ..restoration.streaming.stream import RestoredSegment
from ..video.codec_limits import not_kept
from ..video.codecs import codec_named
from ..video.encoder import EncodedFrame, PacketEncoder, PictureFormat
from ..video.fields import check_deinterlace
from ..video.frames import VideoFrame
from ..video.output_lock import output_lock
from ..video.output_place import made_folder, through_links
from ..video.reader import VideoReader
from ..video.source import Source, VideoError
from ..video.writer import VideoWriter
from .part_store import PartStore, file_identity
from .report import FinishedPart, Report, finished_part, make_report
from .threads import ReadAhead, WriteBehind

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Ends(ABC):
    """An input and its output, open within a `with` block."""

    pictures: PictureFormat | None = None
    """How frames are encoded; None: as PNG."""
    num_frames: int | None = None
    """Of the input, where it says so."""
    size: tuple[int, int] | None = None
    """Height and width of the frames, in pixels."""
    ended_early: VideoError | None = None
    """Why the input could not be read to its end."""
    on_read: Callable[[int, int | None], None] | None = None
    """Called with (frames that are read or were done before, frames in all or None) for each
    that is read; may raise to cancel."""
    check: Callable[[], None] | None = None
    """Called now and then while files are read and written; may raise to cancel."""

    def __init__(self, source: Source, output: str | Path) -> None:
        self.source = source
        self.output = through_links(Path(output))
        self._stack = contextlib.ExitStack()
        self._is_closing = False
        self._times: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> Ends:
        """Open the input, check the output, and keep other runs from it.

        Raises:
            FileNotFoundError, ValueError, OSError: If either cannot be used, or another run
                writes the same output.
        """
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def frames(self, position: Position | None = None) -> Iterator[np.ndarray]:
        """Yield the frames of the input, once, `[H, W, C]`.

        Args:
            position: Where to begin: at its `read_from`.

        Raises:
            ValueError: If a frame cannot be read. A video that only ends early is no error
                here: see `ended_early`.
        """
        position = position or Position()
        ahead = ReadAhead(
            self._read(position.read_from), lambda frame: frame.pixels.nbytes, check=self.check
        )
        self._stack.callback(ahead.close)
        # Before: the thread may be passing over hours of video, and `close` waits for it.
        self._stack.callback(self._begin_to_close)
        return self._noted(ahead, position)

    def time_of(self, index: int) -> tuple[int, int]:
        """Return time stamp and duration of a frame that was read, once."""
        return self._times.pop(index)

    def write(self, segments: Iterable[RestoredSegment]) -> Report:
        """Write the output in one piece; the segments lose their frames."""
        parts: list[FinishedPart] = []

        def write(item: tuple[int, np.ndarray, tuple[int, int]]) -> None:
            self._write_pixels(*item)

        with self._writing(), WriteBehind(write, check=self.check) as behind:
            for segment in segments:
                parts.append(finished_part(segment.start, segment.sources))
                for index, pixels in enumerate(drained(segment.frames), segment.start):
                    behind.put((index, pixels, self.time_of(index)), pixels.nbytes)
                    del pixels
                del segment
        return make_report(parts)

    def join(self, store: PartStore) -> Report:
        """Write the output from all of its parts, without encoding again."""
        with self._writing():
            for index, frame in enumerate(store.encoded_frames()):
                if self.check is not None:
                    self.check()
                self._write_encoded(index, frame)
        report = make_report(store.parts)
        store.remove()
        return report

    def check_encoder(self) -> None:
        """Raise ValueError for what the encoder refuses, before the work."""
        if self.pictures is not None:
            PacketEncoder(self.pictures, self.output.suffix.lower()).finish()

    def check_complete(self, report: Report) -> None:
        """Raise VideoError if the input ended early."""
        error = self._damage()
        if error is not None:
            raise VideoError(
                f"{str(error).rstrip('.')}. The {report.num_frames} frames before that are "
                f"restored in {self.output}."
            )

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return JSON values that tell the input and the format of the output from others."""

    @abstractmethod
    def input_files(self) -> list[Path]:
        """Return the files that the input consists of; also outside the block."""

    @abstractmethod
    def _open(self, stack: contextlib.ExitStack) -> None: ...

    @abstractmethod
    def _read(self, start: int) -> Iterator[VideoFrame]: ...

    @abstractmethod
    def _writing(self) -> contextlib.AbstractContextManager[object]:
        """Return the block in which the output is written, which appears at its end."""

    @abstractmethod
    def _write_pixels(self, index: int, pixels: np.ndarray, time: tuple[int, int]) -> None: ...

    @abstractmethod
    def _write_encoded(self, index: int, frame: EncodedFrame) -> None: ...

    def _damage(self) -> VideoError | None:
        return self.ended_early

    def _begin_to_close(self) -> None:
        self._is_closing = True

    def _raise_if_closing(self) -> None:
        if self._is_closing:
            raise VideoError("reading was given up")

    def _noted(self, frames: Iterable[VideoFrame], position: Position) -> Iterator[np.ndarray]:
        """Keep the time stamps of frames that are still to be written."""
        try:
            for index, frame in enumerate(frames, position.read_from):
                if index >= position.next_frame:
                    self._times[index] = (frame.pts, frame.duration)
                if self.on_read is not None:
                    self.on_read(max(index + 1, position.next_frame), self.num_frames)
                yield frame.pixels
        except VideoError as error:
            self.ended_early = error


class VideoEnds(Ends):
    """A video file; time stamps, sound and subtitles stay as they are."""

    def __init__(
        self,
        source: Source,
        output: str | Path,
        codec: str = "h264",
        crf: int | None = None,
        audio: str = "copy",
        deinterlace: str = "off",
    ) -> None:
        """Name the files.

        Args:
            source: Path or binary file object.
            output: Target, replaced when complete.
            codec: One of `video.codecs.CODECS`.
            crf: Quality of h264 and h265; None: nearly lossless.
            audio: What to do with sound: see `VideoWriter`.
            deinterlace: What to do with interlaced video: see `VideoReader`.
        """
        super().__init__(source, output)
        self._codec, self._crf, self._audio = codec, crf, audio
        self._deinterlace = check_deinterlace(deinterlace)

    def identity(self) -> dict[str, Any]:
        identity = {"input": file_identity(self.source), "pictures": repr(self.pictures)}
        return {**identity, "deinterlace": self._deinterlace}

    def input_files(self) -> list[Path]:
        assert isinstance(self.source, str | Path)
        return [Path(self.source)]

    def _open(self, stack: contextlib.ExitStack) -> None:
        self._reader = stack.enter_context(self._open_reader())
        info = self._reader.info
        self.num_frames, self.size = info.num_frames, (info.height, info.width)
        stack.enter_context(made_folder(self.output.parent))
        self._writer = self._checked_writer()
        self.pictures = self._writer.pictures
        stack.enter_context(output_lock(self.output))
        self._writer.remove_leftovers()

    def _open_reader(self) -> VideoReader | ImageClip:
        return VideoReader(self.source, self._deinterlace)

    def _checked_writer(self) -> VideoWriter:
        """Return a writer that keeps all that the codec can keep."""
        info = self._reader.info
        alpha = info.has_alpha and codec_named(self._codec).alpha
        warn_of_frames(self._reader, self._deinterlace)
        for line in not_kept(info, self._codec):
            logger.warning("%s: %s", self._reader.name, line)
        return VideoWriter.like(
            self.output,
            dataclasses.replace(info, has_alpha=alpha),
            codec=self._codec,
            crf=self._crf,
            audio_from=self._sound_source(),
            audio=self._audio,
        )

    def _sound_source(self) -> Source | None:
        """Return the file whose sound is copied."""
        return self.source

    def _read(self, start: int) -> Iterator[VideoFrame]:
        if isinstance(self._reader, VideoReader):
            self._reader.check = self._raise_if_closing
        # Frames before are decoded and dropped: no other way leads to a frame in every file.
        self._reader.skip(start)
        for frame in self._reader:
            if not self._writer.pictures.has_alpha:
                frame = dataclasses.replace(frame, pixels=frame.pixels[..., :3])
            yield frame
            del frame

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._writer:
            yield
            if self.ended_early is not None:
                self._writer.end_early()

    def _write_pixels(self, index: int, pixels: np.ndarray, time: tuple[int, int]) -> None:
        self._writer.write(pixels, *time)

    def _write_encoded(self, index: int, frame: EncodedFrame) -> None:
        self._writer.write_encoded(frame)

    def _damage(self) -> VideoError | None:
        return self.ended_early or self._writer.sound_error


def warn_of_frames(reader: VideoReader | ImageClip, deinterlace: str) -> None:
    """Say so where a clip was to be deinterlaced, and does not say that it is interlaced."""
    is_interlaced = isinstance(reader, VideoReader) and reader.says_fields
    if deinterlace != "off" and not is_interlaced:
        logger.warning(
            "%s: does not say that it is interlaced, --deinterlace %s leaves its frames as "
            "they are",
            reader.name,
            deinterlace,
        )


def drained(items: list[Item]) -> Iterator[Item]:
    """Yield the items of a list, which keeps none that was yielded."""
    items.reverse()
    while items:
        yield items.pop()
