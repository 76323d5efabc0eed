"""Open a video source: a path, or a binary file object that several readers share."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    from av.container import InputContainer

Source = str | Path | BinaryIO

# Play lists make libav open other files and addresses; text art is not a video.
_NOT_VIDEO = {"concat", "hls", "dash", "tty", "sdp"}


class VideoError(ValueError):
    """A video that cannot be read, or that ends before its own header says."""


def source_name(source: Source) -> str:
    """Return what errors call this source."""
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "video in memory"


def open_input(source: Source) -> InputContainer:
    """Open a source with libav, its own read position included.

    Raises:
        FileNotFoundError: If the path does not exist.
        VideoError: If it is a folder, empty, or nothing libav can read.
    """
    # Here, as the errors of this file are those of folders of images, too.
    import av
    from av.error import FFmpegError

    name = source_name(source)
    target: Any
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{name}: no such file")
        if path.is_dir():
            raise VideoError(f"{name}: is a folder, expected a video file")
        size = path.stat().st_size
        # The prefix keeps libav from reading "take:2.mp4" as a protocol.
        target = f"file:{path}"
    else:
        target = _SharedView(source)
        size = target.size
    if size == 0:
        raise VideoError(f"{name}: is empty, expected a video file")
    try:
        container = av.open(target, mode="r", **_lenient())
    except PermissionError as error:
        raise PermissionError(f"{name}: cannot be read, permission denied") from error
    except FFmpegError as error:
        raise VideoError(
            f"{name}: cannot be opened as a video ({error.strerror}). It may be another kind "
            "of file, or a recording that was cut off before its index was written."
        ) from error
    if _NOT_VIDEO & set(container.format.name.split(",")):
        kind = container.format.name
        container.close()
        raise VideoError(f"{name}: is not a video but a text or play list ({kind})")
    return cast("InputContainer", container)


def _lenient() -> dict[str, Any]:
    """Options for titles that old cameras and editors wrote in the alphabet of their country.

    PyAV 19 and newer read them as they are, others refuse the whole file by default.
    """
    import av

    major = int(av.__version__.partition(".")[0])
    return {"metadata_errors": "replace"} if major < 19 else {}


def read_position(source: Source) -> Any:
    """Return a binary file with a position of its own, for bytes that libav does not show."""
    return io.FileIO(str(source)) if isinstance(source, str | Path) else _SharedView(source)


_OF_A_RECORDING = {b"mdat", b"moov", b"moof"}
"""Boxes of mp4 without whose end something is missing."""


def ends_inside_a_box(source: Source) -> bool:
    """Tell whether an mp4 or mov file stops before its last box does.

    The index may list every picture and still miss the sound that followed.
    """
    with read_position(source) as file:
        end = file.seek(0, os.SEEK_END)
        start, kind = 0, b""
        while start + 8 <= end:
            file.seek(start)
            header = file.read(16)
            size = int.from_bytes(header[:4], "big")
            if size == 1 and len(header) == 16:
                size = int.from_bytes(header[8:], "big")
            kind = header[4:8]
            if size < 8 or not kind.isalnum():
                # Up to the end of the file (0), or padding after the last box.
                return False
            start += size
        # Some programs append what is no box.
        return start > end and kind in _OF_A_RECORDING


class _SharedView(io.RawIOBase):
    """A read position of its own over a file object that others read as well."""

    _lock = threading.Lock()

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._position = 0
        with self._lock:
            self.size = source.seek(0, os.SEEK_END)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._lock:
            self._source.seek(self._position)
            data = self._source.read(size)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position
