"""What a photo says beside its pixels, as chunks of the PNG file that it becomes."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction

from ..video.color_tags import ColorTags
from .facts import PNG_START, ImageFacts
from .tiff import upright_exif

Chunks = list[tuple[bytes, bytes]]
"""Type and contents of each."""

_END_OF_HEADER = len(PNG_START) + 25
_DESCRIBES_COLOUR = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")


def with_chunks(png: bytes, chunks: Chunks) -> bytes:
    """Return a PNG file with chunks before its picture."""
    packed = b"".join(_chunk(kind, contents) for kind, contents in chunks)
    return png[:_END_OF_HEADER] + packed + png[_END_OF_HEADER:]


def carried_chunks(facts: ImageFacts | None) -> Chunks:
    """Return what goes with the restored picture of a photo, which is stored upright.

    The colour profile, date, camera and place, pixels per metre, and the texts of a PNG.
    """
    if facts is None:
        return []
    chunks: Chunks = []
    described = [chunk for chunk in facts.png_chunks if chunk[0] in _DESCRIBES_COLOUR]
    if _is_rgb(facts.icc):
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(facts.icc)))
        described = [chunk for chunk in described if chunk[0] != b"sRGB"]
    chunks += described
    if facts.density is not None:
        turned = facts.orientation >= 5
        across, down = facts.density[::-1] if turned else facts.density
        chunks.append((b"pHYs", struct.pack(">IIB", across, down, 1)))
    exif = upright_exif(facts.exif)
    if exif:
        chunks.append((b"eXIf", exif))
    return chunks + [c for c in facts.png_chunks if c[0] not in _DESCRIBES_COLOUR]


def colour_loss(facts: ImageFacts | None) -> str:
    """Return what becomes of colours that a PNG of RGB pixels cannot describe; empty for none.

    A profile of grey or CMYK pixels does not fit the result.
    """
    if facts is None or _is_rgb(facts.icc):
        return ""
    if facts.icc:
        space = facts.icc[16:20].decode("latin-1").strip() or "unknown"
        return (
            f"its colour profile is for {space} pixels and is left out, as the result is RGB; "
            "colours may differ a little"
        )
    return "CMYK becomes RGB; colours may differ a little" if facts.is_cmyk else ""


def is_plain_profile(icc: bytes) -> bool:
    """Tell whether a colour profile is that of sRGB, by its name, or none."""
    return not icc or b"sRGB" in icc or "sRGB".encode("utf-16-be") in icc


def _is_rgb(icc: bytes) -> bool:
    return icc[16:20] == b"RGB "


def video_frame_chunks(color: ColorTags, sample_aspect_ratio: Fraction) -> Chunks:
    """Return what the frames of a video say as pictures: colours, and the shape of pixels.

    Colours only where they are not those of nearly all pictures.
    """
    chunks: Chunks = []
    if color.primaries not in (1, 2, 5, 6) or color.transfer in (16, 18):
        # RGB over the full range, whatever the video's YUV was.
        chunks.append((b"cICP", bytes([color.primaries, color.transfer, 0, 1])))
    if sample_aspect_ratio != 1:
        ratio = sample_aspect_ratio
        chunks.append((b"pHYs", struct.pack(">IIB", ratio.denominator, ratio.numerator, 0)))
    return chunks


def _chunk(kind: bytes, contents: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + contents))
    return struct.pack(">I4s", len(contents), kind) + contents + checksum
