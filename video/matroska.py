"""Elements of Matroska files (EBML, RFC 8794), and the one that PyAV cannot write.

libavformat takes the shape of pixels from a field of its stream that PyAV does not show. The
writer keeps some room in the header, as spaces after the name of the track, and fills it when
the file is complete, so that nothing after it moves.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

SEGMENT, TRACKS, TRACK = 0x18538067, 0x1654AE6B, 0xAE
TRACK_NUMBER, NAME, VIDEO = 0xD7, 0x536E, 0xE0
PIXEL_WIDTH, PIXEL_HEIGHT = 0xB0, 0xBA
_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
_EBML, _DOC_TYPE, _TRACK_UID, _TRACK_TYPE, _CODEC = 0x1A45DFA3, 0x4282, 0x73C5, 0x83, 0x86
_CLUSTER, _TIMESTAMP, _BLOCK = 0x1F43B675, 0xE7, 0xA3
_VOID, _CRC = 0xEC, 0xBF
_UNIT_PIXELS, _UNIT_ASPECT = 0, 3

_ROOM = " " * 40


def element(identity: int, data: bytes | int | str) -> bytes:
    """Return an element; numbers are unsigned."""
    if isinstance(data, int):
        data = data.to_bytes(max(1, (data.bit_length() + 7) // 8), "big")
    elif isinstance(data, str):
        data = data.encode()
    return _identity(identity) + _length(len(data)) + data


def empty_clip(codec: str, picture: bytes) -> bytes:
    """Return a file with one packet of zeros, to be opened for its header.

    Args:
        codec: Matroska's name.
        picture: Elements of the picture beside its size.
    """
    header = element(_DOC_TYPE, "matroska")
    video = element(VIDEO, element(PIXEL_WIDTH, 16) + element(PIXEL_HEIGHT, 16) + picture)
    track = element(TRACK_NUMBER, 1) + element(_TRACK_UID, 1) + element(_TRACK_TYPE, 1)
    track += element(_CODEC, codec) + video
    cluster = element(_TIMESTAMP, 0) + element(_BLOCK, b"\x81\0\0\x80" + bytes(16))
    tracks = element(TRACKS, element(TRACK, track))
    return element(_EBML, header) + element(SEGMENT, tracks + element(_CLUSTER, cluster))


def reserve_display_size(stream: Any) -> None:
    """Keep room in the header for `write_display_size`; before the header is written."""
    stream.metadata["title"] = stream.metadata.get("title", "") + _ROOM


def write_display_size(file: BinaryIO, aspect: Fraction) -> None:
    """Write the shape of pixels into the track that has room for it.

    Args:
        file: A complete file, open to read and write.
        aspect: Width of a pixel over its height.
    """
    _, start, end = _find(file, _find(file, (0, 0, file.seek(0, 2)), SEGMENT), TRACKS)
    file.seek(start)
    tracks = file.read(end - start)
    entries = [_with_aspect(*each, aspect) for each in _children(tracks)]
    checked = b"".join(data for identity, data in entries if identity != _CRC)
    crc = element(_CRC, zlib.crc32(checked).to_bytes(4, "little"))
    has_crc = any(identity == _CRC for identity, _ in entries)
    changed = (crc if has_crc else b"") + checked
    assert len(changed) == len(tracks)
    file.seek(start)
    file.write(changed)


def _with_aspect(
    identity: int, whole: bytes, data: bytes, aspect: Fraction
) -> tuple[int, bytes]:
    """Return an element of the tracks, changed but as long, if it is the one with room."""
    parts = list(_children(data)) if identity == TRACK else []
    if not any(each[0] == NAME and each[2].endswith(_ROOM.encode()) for each in parts):
        return identity, whole
    changed = b""
    for kind, part, value in parts:
        if kind == NAME:
            name = value.decode().removesuffix(_ROOM)
            part = element(NAME, name) if name else b""
        elif kind == VIDEO:
            part = element(VIDEO, _shaped(value, aspect))
        changed += part
    room = len(data) - len(changed)
    # A void of its own length: one byte of identity, eight of length.
    changed += _identity(_VOID) + (room - 9 | 1 << 56).to_bytes(8, "big") + bytes(room - 9)
    return identity, whole[: len(whole) - len(data)] + changed


def _shaped(video: bytes, aspect: Fraction) -> bytes:
    """Return the elements of the picture with the size it is shown in."""
    kept, size = b"", {}
    for identity, whole, data in _children(video):
        size[identity] = int.from_bytes(data, "big")
        if identity not in (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT):
            kept += whole
    width, height, unit = size[PIXEL_WIDTH] * aspect, Fraction(size[PIXEL_HEIGHT]), _UNIT_PIXELS
    if width.denominator != 1:
        shape = width / height
        width, height, unit = (
            Fraction(shape.numerator),
            Fraction(shape.denominator),
            _UNIT_ASPECT,
        )
    shown = ((_DISPLAY_WIDTH, width), (_DISPLAY_HEIGHT, height), (_DISPLAY_UNIT, unit))
    return kept + b"".join(element(identity, int(value)) for identity, value in shown)


def is_whole(file: BinaryIO) -> bool:
    """Tell whether a file holds all that its elements say it does, to its last cluster's end.

    Args:
        file: Open to read. False if it says no sizes, as live recordings do not.
    """
    try:
        (segment,) = _ends(file, (0, file.seek(0, 2)), SEGMENT)
        clusters = _ends(file, segment, _CLUSTER)
        return bool(clusters) and bool(_ends(file, clusters[-1], _TIMESTAMP))
    except ValueError:
        return False


def _ends(file: BinaryIO, parent: tuple[int, int], wanted: int) -> list[tuple[int, int]]:
    """Return start and end of the data of all children of a kind.

    Raises:
        ValueError: If the parent is not filled by elements.
    """
    start, end = parent
    found = []
    while start < end:
        file.seek(start)
        head = file.read(12)
        # Zeros, as where a download did not come to.
        if len(head) < 2 or head[0] < 0x10:
            raise ValueError(f"no element begins at byte {start}")
        identity, size_at = _read_identity(head, 0)
        size, data_at = _read_length(head, size_at)
        if identity == wanted:
            found.append((start + data_at, start + data_at + size))
        start += data_at + size
    if start != end:
        raise ValueError(f"an element ends at byte {start}, and what it is in at {end}")
    return found


def _children(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield identity, whole element and its data."""
    start = 0
    while start < len(data):
        identity, size_at = _read_identity(data, start)
        size, data_at = _read_length(data, size_at)
        end = data_at + size
        yield identity, data[start:end], data[data_at:end]
        start = end


def _find(file: BinaryIO, parent: tuple[int, int, int], wanted: int) -> tuple[int, int, int]:
    """Return identity, start and end of the data of the first child of this kind."""
    _, start, parent_end = parent
    while start < parent_end:
        file.seek(start)
        head = file.read(12)
        identity, size_at = _read_identity(head, 0)
        size, data_at = _read_length(head, size_at)
        if identity == wanted:
            return identity, start + data_at, min(start + data_at + size, parent_end)
        start += data_at + size
    raise ValueError(f"the file has no element {wanted:X}")


def _identity(identity: int) -> bytes:
    return identity.to_bytes((identity.bit_length() + 7) // 8, "big")


def _length(size: int) -> bytes:
    num_bytes = next(n for n in range(1, 9) if size < (1 << 7 * n) - 1)
    return (size | 1 << 7 * num_bytes).to_bytes(num_bytes, "big")


def _read_identity(data: bytes, at: int) -> tuple[int, int]:
    end = at + 9 - data[at].bit_length()
    return int.from_bytes(data[at:end], "big"), end


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    num_bytes = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + num_bytes], "big")
    return value & ((1 << 7 * num_bytes) - 1), at + num_bytes
