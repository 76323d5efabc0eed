"""What a screen with high dynamic range is told: mastering display and content light level.

Read from decoded pictures, whether the stream or the container says it. H.265 stores it in the
stream; for FFV1 and ProRes the container does.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream

from ..video import matroska as mkv
from .orientation import side_data

Point = tuple[Fraction, Fraction]

_COLOUR, _MAX_CLL, _MAX_FALL, _MASTERING = 0x55B0, 0x55BC, 0x55BD, 0x55D0
_PRIMARIES = range(0x55D1, 0x55D9)
_LUMINANCE_MAX, _LUMINANCE_MIN = 0x55D9, 0x55DA
_MATROSKA_CODECS = {"ffv1": "V_FFV1", "prores_ks": "V_PRORES"}
_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
}


@dataclass(frozen=True, kw_only=True)
class HdrMetadata:
    """Static metadata of SMPTE ST 2086 and CTA-861.3; None for what is not known."""

    primaries: tuple[Point, Point, Point] | None = None
    """Chromaticities (x, y) of red, green and blue of the mastering display."""
    white: Point | None = None
    """Known if the primaries are."""
    luminance: Point | None = None
    """Lowest and highest of the mastering display, candelas per square metre."""
    light_level: tuple[int, int] | None = None
    """Brightest pixel and brightest frame average, candelas per square metre."""

    def x265_params(self) -> str:
        """Return parameters of libx265, which begin with a colon; "" for none."""
        params = ""
        if self.primaries and self.white and self.luminance:
            red, green, blue, white = (
                ",".join(str(round(50000 * value)) for value in point)
                for point in (*self.primaries, self.white)
            )
            low, high = (round(10000 * value) for value in self.luminance)
            params += f":master-display=G({green})B({blue})R({red})WP({white})L({high},{low})"
        if self.light_level:
            params += ":max-cll={},{}".format(*self.light_level)
        return params


def hdr_metadata(frame: av.VideoFrame) -> HdrMetadata | None:
    """Return what a decoded picture says, or None."""
    found = side_data(frame)
    mastering, level = (
        None if data is None else bytes(data)
        for data in map(found.get, ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"))
    )
    fields: dict[str, Any] = {}
    if mastering is not None:
        # AVMasteringDisplayMetadata: ten rationals, then whether colours and luminance are set.
        numbers = struct.unpack("=22i", mastering[:88])
        values = [
            Fraction(a, b or 1) for a, b in zip(numbers[0:20:2], numbers[1:20:2], strict=True)
        ]
        points = list(zip(values[0:8:2], values[1:8:2], strict=True))
        if numbers[20]:
            fields |= {"primaries": tuple(points[:3]), "white": points[3]}
        if numbers[21]:
            fields["luminance"] = (values[8], values[9])
    if level is not None and any(level[:8]):
        # Zeros mean unknown; libx265 writes them beside a mastering display.
        fields["light_level"] = struct.unpack("=2I", level[:8])
    return HdrMetadata(**fields) if fields else None


def dynamic_hdr(frame: av.VideoFrame) -> tuple[str, ...]:
    """Name the kinds of metadata of a picture that change from frame to frame."""
    found = side_data(frame)
    return tuple(sorted({kind for name, kind in _DYNAMIC.items() if name in found}))


def add_to_container(stream: VideoStream, hdr: HdrMetadata) -> None:
    """Have the container of an output stream say it; before any other setting of the stream.

    PyAV sets no such field, but a filter that does nothing copies all parameters of an input
    stream to an output stream: here, of a Matroska file made for the purpose.
    """
    codec = stream.codec_context.name
    with av.open(io.BytesIO(_template(_MATROSKA_CODECS[codec], hdr))) as container:
        BitStreamFilterContext("null", container.streams.video[0], stream)


def _template(codec: str, hdr: HdrMetadata) -> bytes:
    """Return a Matroska file of one empty packet with this metadata."""

    def number(identity: int, value: Fraction) -> bytes:
        return mkv.element(identity, struct.pack(">d", value))

    mastering = b""
    if hdr.primaries and hdr.white:
        flat = [value for point in (*hdr.primaries, hdr.white) for value in point]
        mastering += b"".join(map(number, _PRIMARIES, flat))
    if hdr.luminance:
        mastering += number(_LUMINANCE_MIN, hdr.luminance[0])
        mastering += number(_LUMINANCE_MAX, hdr.luminance[1])
    colour = mkv.element(_MASTERING, mastering)
    if hdr.light_level:
        colour += mkv.element(_MAX_CLL, hdr.light_level[0])
        colour += mkv.element(_MAX_FALL, hdr.light_level[1])
    return mkv.empty_clip(codec, mkv.element(_COLOUR, colour))
