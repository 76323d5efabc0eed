"""What the headers of an image file say: size, way up, profile, camera, number of pictures.

Nothing is decoded, so that thousands of files are looked through in a second or two. What a
header does not say is None, and decoding will tell.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import tiff as tiff_file
from .heif_boxes import heif_image, is_heif
from .tiff import Data, Tiff, exif_of_page, exif_orientation

PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
JPEG_START = b"\xff\xd8\xff"
INCH_M = 0.0254
_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_KEPT_OF_PNG = (b"tEXt", b"zTXt", b"iTXt")
_TIFF_CHANNELS = {0: {1: 3}, 1: {1: 3}, 2: {3: 3, 4: 4}}
"""Of grey and RGB: channels that are read of so many samples."""
_COLOUR_OF_PNG = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the headers of an image file say."""

    kind: str
    """What people call the format."""
    width: int
    """As stored: see `orientation`."""
    height: int
    orientation: int = 1
    """The number of EXIF: 1 upright, 6 to be turned right, and so on to 8."""
    num_pictures: int = 1
    """Frames of an animation, pages of a file; more than one make it a clip."""
    channels: int | None = None
    """Of the pixels as they are read: 3, or 4 with transparency."""
    depth: int | None = None
    """Bits of a channel: 8 or 16."""
    icc: bytes = b""
    """Colour profile."""
    exif: bytes = b""
    """Date, camera, place: an EXIF block."""
    density: tuple[int, int] | None = None
    """Pixels in a metre, across and down, as stored."""
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    """Of a PNG, what else is worth keeping: type and contents."""
    is_cmyk: bool = False
    is_lab: bool = False

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width of the upright picture."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


def image_facts(path: Path, *, in_haste: bool = False) -> ImageFacts | None:
    """Read the headers of an image file; None for a format that is not known here.

    Args:
        path: The file.
        in_haste: Leave out what a PNG says behind its picture, which is all over the disk.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or cut off, as far as the headers tell.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):
            # An empty file, or one that cannot be mapped.
            return facts_of(path, file.read(), in_haste=in_haste)
        with data:
            return facts_of(path, data, in_haste=in_haste)


def facts_of(path: Path, data: Data, *, in_haste: bool = False) -> ImageFacts | None:
    """Read the headers of the contents of a file; as `image_facts` else."""
    if not len(data):
        raise ValueError(f"{path}: is empty, expected an image")
    try:
        return _facts(data, in_haste)
    except (struct.error, IndexError) as error:
        raise ValueError(f"{path}: is damaged (its end is missing)") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _facts(data: Data, in_haste: bool) -> ImageFacts | None:
    start = bytes(data[:16])
    if start.startswith(PNG_START):
        return _png(data, in_haste)
    if start.startswith(JPEG_START):
        return _jpeg(data)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _webp(data)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    if is_heif(start):
        image = heif_image(data)
        return ImageFacts(
            kind=image.kind,
            width=image.width,
            height=image.height,
            orientation=image.orientation,
            icc=image.icc,
            exif=image.exif,
            num_pictures=image.num_pictures,
        )
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if start[:2] == b"BM" and len(data) > 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return ImageFacts(kind="BMP", width=width, height=abs(height), depth=8)
    return None


def png_parts(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and length of the contents of each chunk of a PNG file.

    Raises:
        ValueError: If the file ends before the last chunk does.
    """
    at, kind = len(PNG_START), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise ValueError("is damaged (its end is missing)")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ValueError("is damaged (its end is missing)")
        yield kind, at + 8, length
        at += 12 + length


def _png(data: Data, in_haste: bool) -> ImageFacts:
    parts = {}
    texts = []
    for kind, start, length in png_parts(data):
        parts.setdefault(kind, (start, length))
        if kind in _KEPT_OF_PNG:
            texts.append((kind, bytes(data[start : start + length])))
        if kind == b"acTL" and b"IDAT" in parts:
            # Only before the picture it makes an animation.
            del parts[kind]
        if in_haste and kind == b"IDAT" and data[-12:] == _PNG_END:
            break
    if b"IHDR" not in parts or b"IDAT" not in parts:
        raise ValueError("is damaged (it holds no picture)")

    def contents(kind: bytes) -> bytes:
        start, length = parts.get(kind, (0, 0))
        return bytes(data[start : start + length])

    width, height, depth, color = struct.unpack(">IIBB", contents(b"IHDR")[:10])
    see_through = b"tRNS" in parts
    channels = 4 if color in (4, 6) or (color == 3 and see_through) else 3
    density = None
    if len(contents(b"pHYs")) == 9:
        across, down, unit = struct.unpack(">IIB", contents(b"pHYs"))
        density = (across, down) if unit == 1 else None
    exif = contents(b"eXIf")
    colours = [(kind, contents(kind)) for kind in _COLOUR_OF_PNG if kind in parts]
    return ImageFacts(
        kind="PNG",
        width=width,
        height=height,
        orientation=exif_orientation(exif),
        num_pictures=struct.unpack(">I", contents(b"acTL")[:4])[0] if b"acTL" in parts else 1,
        channels=None if see_through and color != 3 else channels,
        depth=16 if depth == 16 else 8,
        icc=_unpacked(contents(b"iCCP")),
        exif=exif,
        density=density,
        png_chunks=(*colours, *texts),
    )


def _unpacked(chunk: bytes) -> bytes:
    """Return the profile of an iCCP chunk: a name, the method 0, and the packed profile."""
    _, found, rest = chunk.partition(b"\0")
    if found:
        with contextlib.suppress(zlib.error):
            return zlib.decompress(rest[1:])
    return b""


def _jpeg(data: Data) -> ImageFacts:
    facts = ImageFacts(kind="JPEG", width=0, height=0, channels=3, depth=8)
    profile: dict[int, bytes] = {}
    at = 2
    while True:
        while data[at] != 0xFF or data[at + 1] == 0xFF:
            at += 1
        marker, length = struct.unpack_from(">xBH", data, at)
        body = bytes(data[at + 4 : at + 2 + length])
        if marker in _FRAME_HEADERS:
            height, width, components = struct.unpack_from(">HHB", body, 1)
            facts = replace(facts, width=width, height=height, is_cmyk=components == 4)
        elif marker == 0xE1 and body.startswith(b"Exif\0") and not facts.exif:
            facts = replace(facts, exif=body[6:], orientation=exif_orientation(body[6:]))
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile[body[12]] = body[14:]
        elif marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            facts = replace(facts, density=_per_metre(*struct.unpack_from(">BHH", body, 7)))
        at += 2 + length
        if marker == 0xDA:
            break
    if data.rfind(b"\xff\xd9", at) < 0:
        raise ValueError("is damaged (its end is missing)")
    icc = b"".join(profile[index] for index in sorted(profile))
    return replace(facts, icc=icc, density=facts.density or _exif_density(facts.exif))


def _per_metre(unit: int, across: float, down: float) -> tuple[int, int] | None:
    """Return a density in metres from that of JFIF (1 inch, 2 centimetre)."""
    scale = {1: 1 / INCH_M, 2: 100.0}.get(unit)
    if scale is None or not across or not down:
        return None
    return round(across * scale), round(down * scale)


def _exif_density(exif: bytes) -> tuple[int, int] | None:
    try:
        found = Tiff(exif)
        return _tiff_density(found, found.main()[0])
    except ValueError:
        return None


def _tiff_density(found: Tiff, entries: dict[int, tiff_file.Entry]) -> tuple[int, int] | None:
    across = found.ratio(entries.get(tiff_file.X_DENSITY))
    down = found.ratio(entries.get(tiff_file.Y_DENSITY))
    # The numbers of EXIF and TIFF are those of JFIF and one: 2 inch, 3 centimetre.
    return _per_metre(found.number(entries.get(tiff_file.DENSITY_UNIT), 2) - 1, across, down)


def webp_parts(data: Data, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and length of the contents of each chunk between two positions.

    Raises:
        ValueError: If the last one is cut off.
    """
    while start + 8 <= stop:
        kind, length = struct.unpack_from("<4sI", data, start)
        if start + 8 + length > stop:
            raise ValueError("is damaged (its end is missing)")
        yield kind, start + 8, length
        start += 8 + length + length % 2


def _webp(data: Data) -> ImageFacts:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise ValueError("is damaged (its end is missing)")
    width = height = frames = 0
    alpha = False
    icc = exif = b""
    for kind, start, length in webp_parts(data, 12, end):
        if kind == b"VP8X":
            alpha = bool(data[start] & 0x10)
            packed = bytes(data[start + 4 : start + 10])
            width, height = (1 + int.from_bytes(packed[at : at + 3], "little") for at in (0, 3))
        elif kind == b"VP8L" and not width:
            bits = struct.unpack_from("<I", data, start + 1)[0]
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            alpha = bool(bits >> 28 & 1)
        elif kind == b"VP8 " and not width:
            width, height = (n & 0x3FFF for n in struct.unpack_from("<HH", data, start + 6))
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"ICCP":
            icc = bytes(data[start : start + length])
        elif kind == b"EXIF":
            exif = bytes(data[start : start + length]).removeprefix(b"Exif\0\0")
    return ImageFacts(
        kind="WebP",
        width=width,
        height=height,
        orientation=exif_orientation(exif),
        num_pictures=max(1, frames),
        channels=4 if alpha else 3,
        depth=8,
        icc=icc,
        exif=exif,
        density=_exif_density(exif),
    )


def _tiff(data: Data) -> ImageFacts:
    found = Tiff(data)
    pages = list(found.pages())
    if not pages:
        raise ValueError("is damaged (it holds no picture)")
    entries = pages[0][1]
    icc = entries.get(tiff_file.ICC_PROFILE)
    photometric = found.number(entries.get(tiff_file.PHOTOMETRIC))
    channels, depth = _tiff_pixels(found, entries, photometric)
    return ImageFacts(
        kind="TIFF",
        width=found.number(entries.get(tiff_file.WIDTH)),
        height=found.number(entries.get(tiff_file.HEIGHT)),
        orientation=found.orientation(entries),
        num_pictures=len(pages),
        channels=channels,
        depth=depth,
        icc=found.value(icc) if icc is not None else b"",
        exif=exif_of_page(found, entries),
        density=_tiff_density(found, entries),
        is_cmyk=photometric == 5,
        is_lab=photometric in (8, 9, 10),
    )


def _tiff_pixels(
    found: Tiff, entries: dict[int, tiff_file.Entry], photometric: int
) -> tuple[int | None, int | None]:
    """Return channels and depth of the pixels of a page as they are read, where that is sure.

    Palettes, CMYK and the like are converted on the way, and rarer depths scaled.
    """
    if photometric not in _TIFF_CHANNELS:
        return None, None
    samples = found.number(entries.get(tiff_file.SAMPLES), 1)
    bits = found.number(entries.get(tiff_file.BITS), 1)
    return _TIFF_CHANNELS[photometric].get(samples), bits if bits in (8, 16) else None


def _gif(data: Data) -> ImageFacts:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _palette_bytes(flags)
    frames = 0
    while at < len(data) and data[at] in b"!,":
        if data[at] == ord(","):
            frames += 1
            at += 10 + _palette_bytes(data[at + 9]) + 1
        else:
            at += 2
        # Blocks, each with its length before it, up to an empty one.
        while data[at]:
            at += 1 + data[at]
        at += 1
    if not frames:
        raise ValueError("is damaged (it holds no picture)")
    return ImageFacts(kind="GIF", width=width, height=height, num_pictures=frames)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
