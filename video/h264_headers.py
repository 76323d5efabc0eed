"""What headers of H.264 say about references: how many there are, and which pictures are some.

Only what is needed of ITU-T H.264 section 7.3.2.1.1; libav reads it and does not tell.
"""

from __future__ import annotations

from collections.abc import Iterator

_PARAMETERS = 7
"""Type of the unit that holds a sequence's parameters."""
_SLICES = (1, 5)
"""Types of units that hold a part of a picture."""
_WITH_CHROMA_FORMAT = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
"""Profiles whose parameters begin with the kind of chroma."""


def num_references(extradata: bytes | None) -> int | None:
    """Return how many pictures may be referred to; None where the header does not say."""
    if not extradata:
        return None
    if extradata[0] == 1:
        # "avcC" of mp4: a count, and then the length and the unit.
        if len(extradata) < 9 or not extradata[5] & 31:
            return None
        unit = extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")]
    else:
        units = (each for each in _units(extradata, 0) if each[0] & 31 == _PARAMETERS)
        unit = next(units, b"")
    try:
        return _references_of(unit)
    except (IndexError, ValueError):
        return None


def length_size(extradata: bytes | None) -> int:
    """Return the bytes of each unit's length in packets; 0 where start codes part them."""
    if not extradata or extradata[0] != 1 or len(extradata) < 5:
        return 0
    return (extradata[4] & 3) + 1


def is_reference(packet: bytes, size: int) -> bool:
    """Tell whether others may refer to the picture of a packet; yes where it does not say.

    Args:
        packet: Its data.
        size: As of `length_size`.
    """
    for unit in _units(packet, size):
        if unit[0] & 31 in _SLICES:
            return bool(unit[0] & 0x60)
    return True


def _units(data: bytes, size: int) -> Iterator[bytes]:
    """Yield units; in a stream with start codes a unit may hold those after it as well."""
    place = 0
    if size:
        while place + size < len(data):
            length = int.from_bytes(data[place : place + size], "big")
            place += size
            if length:
                yield data[place : place + length]
            place += length
        return
    while (place := data.find(b"\0\0\1", place)) >= 0:
        place += 3
        if place < len(data):
            yield data[place:]


def _references_of(unit: bytes) -> int:
    if not unit or unit[0] & 31 != _PARAMETERS:
        raise ValueError("not the parameters of a sequence")
    # A byte 3 after two zeros only keeps them from looking like a start code.
    bits = _Bits(unit.replace(b"\0\0\3", b"\0\0"), 8)
    profile = bits.number(8)
    bits.number(16)
    bits.count()
    if profile in _WITH_CHROMA_FORMAT:
        chroma = bits.count()
        if chroma == 3:
            bits.number(1)
        bits.count()
        bits.count()
        bits.number(1)
        if bits.number(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.number(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.count()
    order = bits.count()
    if order == 0:
        bits.count()
    elif order == 1:
        bits.number(1)
        bits.count()
        bits.count()
        for _ in range(bits.count()):
            bits.count()
    return bits.count()


def _skip_scaling_list(bits: _Bits, length: int) -> None:
    last = following = 8
    for _ in range(length):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


class _Bits:
    """Reads numbers out of bytes, bit by bit."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place

    def number(self, length: int) -> int:
        value = 0
        for _ in range(length):
            byte, bit = divmod(self._place, 8)
            value = value << 1 | self._data[byte] >> 7 - bit & 1
            self._place += 1
        return value

    def count(self) -> int:
        """Read an Exp-Golomb number."""
        zeros = 0
        while not self.number(1):
            zeros += 1
        return (1 << zeros) - 1 + self.number(zeros)

    def signed(self) -> int:
        value = self.count()
        return (value + 1) // 2 if value % 2 else -(value // 2)
