"""Find the picture in a HEIF file (HEIC, AVIF): where its parts lie, and their properties.

The file is a tree of boxes, as mp4 is. `meta` lists items: pictures, tiles of pictures, EXIF.
`iloc` says where each lies, `iprp` its size, rotation, colours and the setup of its decoder,
`iref` which belong together: a `grid` item is put together from the tiles it refers to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from .tiff import Data

_STILL_BRANDS = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"mif1",
    b"mif2",
    b"avif",
    b"jpeg",
    b"miaf",
}
_SEQUENCE_BRANDS = {b"avis", b"msf1", b"hevc", b"hevx"}
_DECODERS = {b"hvc1": (b"hvcC", "HEIC"), b"av01": (b"av1C", "AVIF")}
_ALPHA = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
    b"urn:mpeg:hevc:2015:auxid:1",
)
# Turned right by 90 degrees, and mirrored about the vertical axis, as numbers of EXIF 1 to 8.
_TURNED = {1: 6, 2: 7, 3: 8, 4: 5, 5: 2, 6: 3, 7: 4, 8: 1}
_MIRRORED = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 8, 8: 7}

HeifTags = tuple[int, int, int, bool]
"""Primaries, transfer and matrix by ITU-T H.273, and whether the range is full."""


@dataclass(frozen=True, kw_only=True)
class HeifPicture:
    """One coded picture or tile."""

    codec: str
    """libav's name of the decoder."""
    setup: bytes
    """What the decoder is given first."""
    extents: tuple[tuple[int, int], ...]
    """Start and length of the pieces of its data in the file."""


@dataclass(frozen=True, kw_only=True)
class HeifLayer:
    """A picture as one or many tiles, row by row."""

    tiles: tuple[HeifPicture, ...]
    columns: int
    width: int
    """Pixels of the whole."""
    height: int


@dataclass(frozen=True, kw_only=True)
class HeifImage:
    """The primary picture of a file."""

    kind: str
    colour: HeifLayer | None = None
    """None: coded in a way that is not known here; `missing` says which."""
    alpha: HeifLayer | None = None
    width: int = 0
    height: int = 0
    orientation: int = 1
    """A number of EXIF, by the file's own properties: those of EXIF do not count."""
    icc: bytes = b""
    exif: bytes = b""
    tags: HeifTags | None = None
    num_pictures: int = 1
    """More than one: a film inside the same kind of file."""
    missing: str = ""


def is_heif(start: bytes) -> bool:
    """Tell whether a file begins as HEIF pictures do, by its first 16 bytes."""
    return start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS | _SEQUENCE_BRANDS


def heif_image(data: Data) -> HeifImage:
    """Read the boxes of a file.

    Raises:
        ValueError: If they are damaged, or there is no picture.
    """
    try:
        return _image(data)
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("is damaged (its list of pictures cannot be read)") from error


@dataclass
class _Boxes:
    """What the `meta` box says."""

    data: Data
    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, tuple[int, list[tuple[int, int]]]] = field(default_factory=dict)
    """By item: how positions are meant, and start and length of each piece."""
    properties: list[tuple[bytes, int, int]] = field(default_factory=list)
    owned: dict[int, list[int]] = field(default_factory=dict)
    references: dict[bytes, dict[int, list[int]]] = field(default_factory=dict)
    inner: int = 0
    """Where the `idat` box has its contents."""

    def of(self, item: int, kind: bytes) -> bytes:
        """Return a property of an item; empty where it has none."""
        for name, contents in self.all_of(item):
            if name == kind:
                return contents
        return b""

    def all_of(self, item: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the properties of an item in the order in which they apply."""
        for index in self.owned.get(item, []):
            if 0 < index <= len(self.properties):
                name, start, stop = self.properties[index - 1]
                yield name, bytes(self.data[start:stop])

    def extents(self, item: int) -> tuple[tuple[int, int], ...]:
        """Return start and length in the file of each piece of an item."""
        method, pieces = self.places[item]
        if method not in (0, 1):
            raise ValueError("is put together from other pictures in a way that is not read")
        base = self.inner if method == 1 else 0
        found = tuple((base + start, length) for start, length in pieces)
        if any(start + length > len(self.data) for start, length in found):
            raise ValueError("is damaged (its end is missing)")
        return found

    def contents(self, item: int) -> bytes:
        return b"".join(bytes(self.data[s : s + n]) for s, n in self.extents(item))


def _image(data: Data) -> HeifImage:
    top = {kind: (start, stop) for kind, start, stop in _boxes(data, 0, len(data))}
    start = top[b"ftyp"][0]
    brand = bytes(data[start : start + 4])
    if brand in _SEQUENCE_BRANDS and b"moov" in top:
        return HeifImage(kind="image sequence", num_pictures=2)
    if b"meta" not in top:
        raise ValueError("is damaged (its list of pictures is missing)")
    meta = _meta(data, *top[b"meta"])
    item = meta.primary
    colour, missing = _layer(meta, item)
    alpha = next(
        (
            _layer(meta, other)[0]
            for other, targets in meta.references.get(b"auxl", {}).items()
            if item in targets and meta.of(other, b"auxC")[4:].split(b"\0")[0] in _ALPHA
        ),
        None,
    )
    icc, tags = b"", None
    for name, contents in meta.all_of(item):
        if name == b"colr" and contents[:4] in (b"prof", b"rICC"):
            icc = contents[4:]
        elif name == b"colr" and contents[:4] == b"nclx":
            first, second, third, full = struct.unpack(">HHHB", contents[4:11])
            tags = (first, second, third, bool(full & 0x80))
    width, height = struct.unpack(">II", meta.of(item, b"ispe")[4:12])
    is_av1 = colour is not None and colour.tiles[0].codec != "hevc"
    return HeifImage(
        kind="AVIF" if is_av1 or brand == b"avif" else "HEIC",
        colour=colour,
        alpha=alpha,
        width=width,
        height=height,
        orientation=_orientation(meta, item),
        icc=icc,
        exif=_exif(meta, item),
        tags=tags,
        missing=missing,
    )


def _layer(meta: _Boxes, item: int) -> tuple[HeifLayer | None, str]:
    """Return how a picture is put together, or what stands in the way."""
    width, height = struct.unpack(">II", meta.of(item, b"ispe")[4:12])
    kind = meta.kinds[item]
    if meta.of(item, b"clap"):
        return None, "a crop (clap)"
    if kind in _DECODERS:
        tile = _picture(meta, item)
        return HeifLayer(tiles=(tile,), columns=1, width=width, height=height), ""
    if kind != b"grid":
        return None, f"pictures of type {kind.decode('latin-1')}"
    tiles = meta.references.get(b"dimg", {}).get(item, [])
    unknown = {meta.kinds[tile] for tile in tiles} - _DECODERS.keys()
    if unknown:
        return None, f"tiles of type {unknown.pop().decode('latin-1')}"
    head = meta.contents(item)
    rows, columns = head[2] + 1, head[3] + 1
    width, height = struct.unpack_from(">II" if head[1] & 1 else ">HH", head, 4)
    if len(tiles) != rows * columns:
        raise ValueError(f"is damaged ({len(tiles)} of {rows * columns} tiles are there)")
    parts = tuple(_picture(meta, tile) for tile in tiles)
    return HeifLayer(tiles=parts, columns=columns, width=width, height=height), ""


def _picture(meta: _Boxes, item: int) -> HeifPicture:
    setup, name = _DECODERS[meta.kinds[item]]
    return HeifPicture(
        codec="hevc" if name == "HEIC" else "libdav1d",
        setup=meta.of(item, setup),
        extents=meta.extents(item),
    )


def _orientation(meta: _Boxes, item: int) -> int:
    """Put rotations and mirrors together, in the order in which the file applies them."""
    found = 1
    for name, contents in meta.all_of(item):
        if name == b"irot":
            # Counted to the left.
            for _ in range(-contents[0] % 4):
                found = _TURNED[found]
        elif name == b"imir":
            found = _MIRRORED[found]
            if not contents[0] & 1:
                # About the horizontal axis: the same, turned by half.
                found = _TURNED[_TURNED[found]]
    return found


def _exif(meta: _Boxes, item: int) -> bytes:
    for other, targets in meta.references.get(b"cdsc", {}).items():
        if item in targets and meta.kinds.get(other) == b"Exif":
            contents = meta.contents(other)
            return contents[4 + int.from_bytes(contents[:4], "big") :]
    return b""


def _meta(data: Data, start: int, stop: int) -> _Boxes:
    meta = _Boxes(data)
    inner = {kind: (first, last) for kind, first, last in _boxes(data, start + 4, stop)}
    first, _ = inner[b"pitm"]
    meta.primary = _number(data, first + 4, 4 if data[first] else 2)
    meta.inner = inner.get(b"idat", (0, 0))[0]
    first, last = inner[b"iinf"]
    for kind, entry, _ in _boxes(data, first + (8 if data[first] else 6), last):
        if kind == b"infe" and data[entry] >= 2:
            size = 2 if data[entry] == 2 else 4
            at = entry + 4 + size + 2
            meta.kinds[_number(data, entry + 4, size)] = bytes(data[at : at + 4])
    _read_places(meta, *inner[b"iloc"])
    _read_properties(meta, *inner[b"iprp"])
    if b"iref" in inner:
        _read_references(meta, *inner[b"iref"])
    return meta


def _read_places(meta: _Boxes, at: int, stop: int) -> None:
    data, version = meta.data, meta.data[at]
    sizes = [data[at + 4] >> 4, data[at + 4] & 15, data[at + 5] >> 4, data[at + 5] & 15]
    offset_size, length_size, base_size, index_size = sizes
    wide = 4 if version == 2 else 2
    count = _number(data, at + 6, wide)
    at += 6 + wide
    for _ in range(count):
        item = _number(data, at, wide)
        at += wide
        method = _number(data, at, 2) & 15 if version else 0
        at += (2 if version else 0) + 2
        base = _number(data, at, base_size)
        at += base_size
        pieces = []
        num_pieces = _number(data, at, 2)
        at += 2
        for _ in range(num_pieces):
            at += index_size if version else 0
            offset = _number(data, at, offset_size)
            length = _number(data, at + offset_size, length_size)
            pieces.append((base + offset, length))
            at += offset_size + length_size
            if at > stop:
                raise IndexError
        meta.places[item] = method, pieces


def _read_properties(meta: _Boxes, start: int, stop: int) -> None:
    data = meta.data
    for kind, first, last in _boxes(data, start, stop):
        if kind == b"ipco":
            meta.properties = list(_boxes(data, first, last))
        elif kind == b"ipma":
            wide, large = (4 if data[first] else 2), data[first + 3] & 1
            count, at = _number(data, first + 4, 4), first + 8
            for _ in range(count):
                item, number = _number(data, at, wide), data[at + wide]
                at += wide + 1
                step = 2 if large else 1
                mask = 0x7FFF if large else 0x7F
                meta.owned[item] = [
                    _number(data, at + step * index, step) & mask for index in range(number)
                ]
                at += step * number


def _read_references(meta: _Boxes, start: int, stop: int) -> None:
    data, wide = meta.data, (4 if meta.data[start] else 2)
    for kind, first, _ in _boxes(data, start + 4, stop):
        item, count = _number(data, first, wide), _number(data, first + wide, 2)
        at = first + wide + 2
        targets = [_number(data, at + wide * index, wide) for index in range(count)]
        meta.references.setdefault(kind, {})[item] = targets


def _boxes(data: Data, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and stop of the contents of each box between two positions."""
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            size, head = _number(data, start + 8, 8), 16
        size = size or stop - start
        if size < head or start + size > stop:
            raise ValueError("is damaged (its end is missing)")
        yield kind, start + head, start + size
        start += size


def _number(data: Data, start: int, size: int) -> int:
    piece = bytes(data[start : start + size])
    if len(piece) != size:
        raise IndexError
    return int.from_bytes(piece, "big")
