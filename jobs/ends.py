"""What reads an input and writes its output, one class for each kind.

    with make_ends("in.mp4", "out.mp4", codec="h264") as ends:
        report = ends.write(restore_segments(ends.frames(), engine, settings))
    ends.check_complete(report)

The classes lie in `image_ends`, and where PyAV is needed in `video_ends` and `clip_ends`: a
folder of images becomes one of PNGs without it.

Frames are read and written in threads of their own (see `threads`). Whatever ends the block,
nothing incomplete has the name of the output.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..restoration.streaming.planning import Position
from ..restoration.streaming.stream import RestoredSegment
from ..video.frames import EncodedFrame, VideoFrame
from ..video.output_place import through_links
from ..video.source import Source, VideoError
from .part_store import PartStore
from .report import FinishedPart, Report, finished_part, make_report
from .threads import ReadAhead, WriteBehind

if TYPE_CHECKING:
    from ..video.encoder import PictureFormat

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
        report = make_report(store.parts, store.num_taken_up)
        store.remove()
        return report

    def check_encoder(self) -> None:
        """Raise ValueError for what the encoder refuses, before the work."""
        if self.pictures is not None:
            from ..video.encoder import PacketEncoder

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


def drained(items: list[Item]) -> Iterator[Item]:
    """Yield the items of a list, which keeps none that was yielded."""
    items.reverse()
    while items:
        yield items.pop()
