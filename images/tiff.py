"""Read the directories of TIFF files, and of EXIF blocks, which are small TIFF files.

A directory is a list of tagged values; a file has one for each page, an EXIF block one for the
picture, which points at others for camera and place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

Data = bytes | bytearray | mmap

WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION = 256, 257, 258, 262, 274
SAMPLES = 277
X_DENSITY, Y_DENSITY, DENSITY_UNIT = 282, 283, 296
ICC_PROFILE = 34675
_SUBFILE_TYPE = 254
_EXIF, _GPS = 34665, 34853
_KEPT_OF_A_PAGE = (270, 271, 272, 305, 306, 315, 33432)
"""Description, make, model, software, date, artist, copyright."""
_NOT_MOVABLE = (0x927C, 0xA005)
"""Notes of the maker hold positions in the file they were written to."""
_VALUE_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True))
_BIG_VALUE_BYTES = {16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_PAGES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One tagged value."""

    kind: int
    count: int
    start: int
    """Where the value lies in the file."""
    size: int
    """Bytes of the value."""


class Tiff:
    """Directories of a TIFF file or EXIF block."""

    def __init__(self, data: Data) -> None:
        """Look at the header.

        Raises:
            ValueError: If this is no TIFF file.
        """
        self._data = data
        order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
        version = struct.unpack(f"{order}H", data[2:4])[0] if order and len(data) > 8 else 0
        if order is None or version not in (42, 43):
            raise ValueError("is no TIFF file")
        self.order = order
        self._is_big = version == 43
        self._first_pointer = 8 if self._is_big else 4

    def number(self, entry: Entry | None, default: int = 0) -> int:
        """Return the first number of a value."""
        if entry is None or entry.kind not in _NUMBERS or not entry.count:
            return default
        return self._read(_NUMBERS[entry.kind], entry.start)

    def ratio(self, entry: Entry | None) -> float:
        """Return the first fraction of a value; 0 where there is none."""
        if entry is None or entry.kind != 5 or not entry.count:
            return 0.0
        over, under = self._read("I", entry.start), self._read("I", entry.start + 4)
        return over / under if under else 0.0

    def value(self, entry: Entry) -> bytes:
        """Return the bytes of a value."""
        return bytes(self._data[entry.start : entry.start + entry.size])

    def position(self, pointer: int) -> int:
        """Return a position that is written at `pointer`."""
        return self._read("Q" if self._is_big else "I", pointer)

    def orientation(self, entries: dict[int, Entry]) -> int:
        """Return which way up a page is, 1 to 8; 1 where it does not say."""
        found = self.number(entries.get(ORIENTATION), 1)
        return found if 1 <= found <= 8 else 1

    def point_to(self, data: bytearray, start: int) -> None:
        """Make the directory at `start` the first one, in the contents of the file."""
        form = self.order + ("Q" if self._is_big else "I")
        struct.pack_into(form, data, self._first_pointer, start)

    def directory(self, start: int) -> tuple[dict[int, Entry], int]:
        """Return the values of a directory by tag, and where the next one's position is.

        Raises:
            ValueError: If it is damaged or cut off.
        """
        big = self._is_big
        count = self._read("Q" if big else "H", start)
        first, step = start + (8 if big else 2), 20 if big else 12
        if first + count * step > len(self._data):
            raise ValueError("is damaged (its end is missing)")
        known = {**_VALUE_BYTES, **(_BIG_VALUE_BYTES if big else {})}
        inline = 8 if big else 4
        entries: dict[int, Entry] = {}
        for at in range(first, first + count * step, step):
            tag, kind = self._read("H", at), self._read("H", at + 2)
            number = self._read("Q" if big else "I", at + 4)
            place = at + (12 if big else 8)
            size = known.get(kind, 0) * number
            value = place if size <= inline else self.position(place)
            if size and value + size <= len(self._data):
                entries.setdefault(tag, Entry(kind, number, value, size))
        return entries, first + count * step

    def pages(self) -> Iterator[tuple[int, dict[int, Entry]]]:
        """Yield position and values of each page; smaller copies of others are left out."""
        start, seen = self.position(self._first_pointer), set[int]()
        while start and start not in seen and len(seen) < _MOST_PAGES:
            seen.add(start)
            entries, following = self.directory(start)
            if not self.number(entries.get(_SUBFILE_TYPE)) & 1:
                yield start, entries
            start = self.position(following)

    def main(self) -> tuple[dict[int, Entry], int]:
        """Return the first directory, as `directory` does."""
        return self.directory(self.position(self._first_pointer))

    def _read(self, form: str, at: int) -> int:
        try:
            return struct.unpack_from(self.order + form, self._data, at)[0]
        except (struct.error, OverflowError) as error:
            raise ValueError("is damaged (its end is missing)") from error


def exif_orientation(exif: bytes) -> int:
    """Return which way up a picture is by its EXIF block, 1 to 8; 1 where it does not say."""
    try:
        tiff = Tiff(exif)
        return tiff.orientation(tiff.main()[0])
    except ValueError:
        return 1


def upright_exif(exif: bytes) -> bytes:
    """Return an EXIF block for the upright picture: turned no more, without the old preview.

    Nothing is moved, so that even the maker's own notes stay readable. Empty where the block
    is damaged.
    """
    data = bytearray(exif)
    try:
        tiff = Tiff(exif)
        entries, following = tiff.main()
        struct.pack_into(f"{tiff.order}I", data, following, 0)
    except (ValueError, struct.error):
        return b""
    turned = entries.get(ORIENTATION)
    if turned is not None and turned.kind == 3:
        struct.pack_into(f"{tiff.order}H", data, turned.start, 1)
    return bytes(data)


def exif_of_page(tiff: Tiff, entries: dict[int, Entry]) -> bytes:
    """Return what a page says of date, camera and place as an EXIF block; empty for nothing."""
    values = [(tag, entries[tag]) for tag in _KEPT_OF_A_PAGE if tag in entries]
    parts: dict[int, list[tuple[int, Entry]]] = {}
    for tag in (_EXIF, _GPS):
        if tag in entries:
            found = tiff.directory(tiff.number(entries[tag]))[0]
            parts[tag] = sorted(item for item in found.items() if item[0] not in _NOT_MOVABLE)
    if not values and not any(parts.values()):
        return b""
    start = 8 + 2 + 12 * (len(values) + len(parts)) + 4
    start += sum(entry.size + entry.size % 2 for _, entry in values if entry.size > 4)
    pointers, tail = [], b""
    for tag, part in parts.items():
        pointers.append((tag, 4, 1, struct.pack(f"{tiff.order}I", start + len(tail))))
        tail += _directory(tiff, [_raw(tiff, *item) for item in part], start + len(tail))
    head = {"<": b"II", ">": b"MM"}[tiff.order] + struct.pack(f"{tiff.order}HI", 42, 8)
    raw = [_raw(tiff, *item) for item in values]
    return head + _directory(tiff, raw + pointers, 8) + tail


def _raw(tiff: Tiff, tag: int, entry: Entry) -> tuple[int, int, int, bytes]:
    return tag, entry.kind, entry.count, tiff.value(entry)


def _directory(tiff: Tiff, values: list[tuple[int, int, int, bytes]], start: int) -> bytes:
    """Return the bytes of a directory that lies at `start`, longer values behind it."""
    table = struct.pack(f"{tiff.order}H", len(values))
    tail, after = b"", start + 2 + 12 * len(values) + 4
    for tag, kind, count, value in sorted(values):
        table += struct.pack(f"{tiff.order}HHI", tag, kind, count)
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack(f"{tiff.order}I", after + len(tail))
            tail += value + b"\0" * (len(value) % 2)
    return table + b"\0\0\0\0" + tail
