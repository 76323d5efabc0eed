"""Convert decoded pictures to RGB arrays and back.

Arrays are `[H, W, C]` RGB or RGBA, uint8, or uint16 over the full 0 to 65535 when the source
has more than 8 bits. Only the YUV matrix and range are converted; gamma and primaries stay
as they are, so that writing with the same tags gives the same colours in every player.

libswscale does the arithmetic through a filter graph and not through `VideoFrame.reformat`,
which ignores some ranges and numbers matrices differently from one PyAV to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av import VideoFormat
from av.filter import Graph

_RANGE_FULL = 2
_SPACE_RGB = 0
_UNSPECIFIED = 2

_MATRICES = {
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
"""`AVColorSpace` numbers (ITU-T H.273) to the names of the scale filter."""

# Without these flags chroma is rounded and interpolated coarsely: visible after two passes.
_SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """Colour description of a stream, as the numbers of ITU-T H.273."""

    space: int = _UNSPECIFIED
    """YUV matrix: 1 BT.709, 5 and 6 BT.601, 9 BT.2020, 0 RGB, 2 unspecified."""
    range: int = 0
    """1 limited (16 to 235), 2 full, 0 unspecified."""
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED

    def matrix(self, width: int, height: int) -> str:
        """Name the YUV matrix in force; by the picture size where the stream names none.

        Players take BT.601 up to 576 lines and less than 1280 columns, BT.709 above.
        """
        by_size = "bt709" if width >= 1280 or height > 576 else "bt601"
        return _MATRICES.get(self.space, by_size)

    def yuv_range(self, pix_fmt: str) -> str:
        """Name the sample range in force: "pc" (full) or "tv" (limited)."""
        if self.range:
            return "pc" if self.range == _RANGE_FULL else "tv"
        return "pc" if pix_fmt.startswith(("yuvj", "gray", "ya")) else "tv"

    def without_rgb(self) -> ColorTags:
        """Return tags for a YUV copy: an RGB source has no matrix to pass on."""
        if self.space != _SPACE_RGB:
            return self
        return ColorTags(space=1, range=1, primaries=self.primaries, transfer=self.transfer)


REC709 = ColorTags(space=1, range=1, primaries=1, transfer=1)
"""What new video is tagged with when there is no source to follow."""


def bit_depth(pix_fmt: str) -> int:
    """Return the bits of the deepest component of a libav pixel format."""
    return max(component.bits for component in av.VideoFormat(pix_fmt).components)


def has_alpha(pix_fmt: str) -> bool:
    """Tell whether a libav pixel format carries transparency."""
    return any(component.is_alpha for component in av.VideoFormat(pix_fmt).components)


def array_format(depth: int, alpha: bool) -> str:
    """Name the libav format of an `[H, W, C]` array with this bit depth."""
    if depth > 8:
        return "rgba64le" if alpha else "rgb48le"
    return "rgba" if alpha else "rgb24"


class PixelConverter:
    """Convert pictures of one size and format to another pixel format."""

    def __init__(
        self, width: int, height: int, source: str, target: str, tags: ColorTags
    ) -> None:
        """Build the conversion.

        Args:
            width: Picture width, pixels.
            height: Picture height, pixels.
            source: libav pixel format that comes in.
            target: libav pixel format that goes out; one of the two is RGB.
            tags: Colour description of the YUV side.
        """
        stages = [(target, _scale_options(width, height, source, target, tags))]
        if _biased(source, target, tags):
            deep = "yuv444p12le"
            full = "in_range=pc:out_range=pc"
            stages = [
                (deep, _scale_options(width, height, source, deep, tags)),
                (target, f"flags={_SCALE_FLAGS}:{full}"),
            ]
        self._graph = Graph()
        nodes: list[Any] = [
            self._graph.add_buffer(
                width=width,
                height=height,
                format=VideoFormat(source),
                time_base=Fraction(1, 1000),
            )
        ]
        for pix_fmt, options in stages:
            nodes.append(self._graph.add("scale", options))
            nodes.append(self._graph.add("format", f"pix_fmts={pix_fmt}"))
        nodes.append(self._graph.add("buffersink"))
        for before, after in pairwise(nodes):
            before.link_to(after)
        self._graph.configure()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the converted picture; time stamps are not carried."""
        frame.pts = None
        self._graph.push(frame)
        converted = self._graph.pull()
        assert isinstance(converted, av.VideoFrame)
        return converted


def _biased(source: str, target: str, tags: ColorTags) -> bool:
    """Tell whether libswscale's direct way to `target` shifts the chroma.

    libswscale 9 stores full-range chroma half a level too low (measured; 8 was right).
    Through 12 bits the shift is 0.04 of a level, at the price of some dither.
    """
    if av.library_versions["libswscale"][0] < 9:
        return False
    formats = av.VideoFormat(source), av.VideoFormat(target)
    to_yuv = formats[0].is_rgb and not formats[1].is_rgb
    return to_yuv and bit_depth(target) == 8 and tags.yuv_range(target) == "pc"


def _scale_options(width: int, height: int, source: str, target: str, tags: ColorTags) -> str:
    options = [f"flags={_SCALE_FLAGS}"]
    for side, name in (("in", source), ("out", target)):
        if av.VideoFormat(name).is_rgb:
            options.append(f"{side}_range=pc")
        else:
            options.append(f"{side}_color_matrix={tags.matrix(width, height)}")
            options.append(f"{side}_range={tags.yuv_range(name)}")
    return ":".join(options)


def decoded_pixels(frame: av.VideoFrame, pix_fmt: str, converter: PixelConverter) -> np.ndarray:
    """Return `[H, W, C]` RGB of a decoded picture of this pixel format."""
    pixels = converter(frame).to_ndarray()
    if pixels.dtype == np.uint16 and not av.VideoFormat(pix_fmt).is_rgb:
        # libswscale puts the white of YUV at 255 * 256, not at 65535.
        wide = pixels.astype(np.uint32)
        return np.minimum((wide * 257 + 128) >> 8, 65535).astype(np.uint16)
    return pixels


def picture(pixels: np.ndarray, pix_fmt: str, alpha: bool) -> av.VideoFrame:
    """Wrap `[H, W, C]` pixels for conversion to this pixel format.

    uint16 pixels become 8-bit where the format keeps no more.
    """
    if pixels.dtype == np.uint16 and bit_depth(pix_fmt) == 8:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype == np.uint16 and not av.VideoFormat(pix_fmt).is_rgb:
        pixels = ((pixels.astype(np.uint32) * 256 + 128) // 257).astype(np.uint16)
    layout = array_format(8 * pixels.dtype.itemsize, alpha)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), layout)
