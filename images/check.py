"""Find damaged image files before they are needed.

PNG carries a checksum in every part, so it is checked at the speed of the disk, undecoded.
JPEG has none, and its readers fill in what they cannot make sense of: it is decoded by
libav, told to stop at the first invalid code, and once more by the reader that will be used,
which wants the end that libav forgives. What stays unnoticed is damage that still decodes, to
a picture with a wrong patch: single bytes, or zeros in place of some. Other formats are
decoded by their reader.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from .facts import PNG_START, facts_of
from .reading import read_image

_JPEG_START = b"\xff\xd8"


def check_image(path: Path) -> tuple[int, int]:
    """Make sure that an image file is whole; return its height and width as it is shown.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, incomplete or no image.
    """
    data = path.read_bytes()
    try:
        if data.startswith(PNG_START):
            _check_png(data)
            facts = facts_of(path, data)
            if facts is not None and facts.num_pictures == 1:
                return facts.shown_size
        if data.startswith(_JPEG_START):
            _decode_strictly(data)
        height, width = read_image(path).shape[:2]
    except _DamagedError as error:
        raise ValueError(f"{path}: is damaged ({error}); replace or remove it") from error
    except ValueError as error:
        raise ValueError(f"{error}; replace or remove it") from error
    return height, width


class _DamagedError(Exception):
    pass


def _check_png(data: bytes) -> None:
    """Walk through the chunks: length, type, contents, checksum of type and contents."""
    view, start = memoryview(data), len(PNG_START)
    kinds: list[bytes] = []
    while not kinds or kinds[-1] != b"IEND":
        if start + 12 > len(data):
            raise _DamagedError("its end is missing")
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            raise _DamagedError("its end is missing")
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise _DamagedError(f"a checksum is wrong, {start} bytes from its start")
        kinds.append(kind)
        start = end + 4
    if kinds[0] != b"IHDR" or b"IDAT" not in kinds:
        raise _DamagedError("it holds no picture")


def _decode_strictly(data: bytes) -> None:
    try:
        import av
        from av.error import InvalidDataError
    except ImportError:
        # Training on photos needs PyAV for this alone; the reader's decoding has to do.
        return
    codec = av.CodecContext.create("mjpeg", "r")
    codec.options = {"err_detect": "explode"}
    codec.thread_count = 1
    try:
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    except InvalidDataError as error:
        raise _DamagedError("it holds invalid codes") from error
    if not frames:
        raise _DamagedError("it holds no picture")
