"""Convert decoded pictures to RGB arrays and back.

Arrays are `[H, W, C]` RGB or RGBA, uint8, or uint16 over the full 0 to 65535 when the source
has more than 8 bits. Only the YUV matrix and range are converted; gamma and primaries stay
as they are, so that writing with the same tags gives the same colours in every player.

libswscale does the arithmetic through a filter graph and not through `VideoFrame.reformat`,
which ignores some ranges and numbers matrices differently from one PyAV to the next.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np
from av import VideoFormat
from av.filter import Graph

from .color_tags import ColorTags, is_rgb
from .info import FieldOrder

# Without these flags chroma is rounded and interpolated coarsely: visible after two passes.
_SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_FULL = "in_range=pc:out_range=pc"


def bit_depth(pix_fmt: str) -> int:
    """Return the bits of the deepest component of a libav pixel format."""
    return max(component.bits for component in av.VideoFormat(pix_fmt).components)


def has_alpha(pix_fmt: str) -> bool:
    """Tell whether a libav pixel format carries transparency."""
    return any(component.is_alpha for component in av.VideoFormat(pix_fmt).components)


def chroma_sampling(pix_fmt: str) -> tuple[int, int] | None:
    """Return how many pixels, across and down, share a colour; None for grey.

    1 and 1 for RGB and 4:4:4, 2 and 1 for 4:2:2, 2 and 2 for 4:2:0.
    """
    layout = av.VideoFormat(pix_fmt)
    if not is_rgb(pix_fmt) and sum(not each.is_alpha for each in layout.components) == 1:
        return None
    side = 16
    return side // layout.chroma_width(side), side // layout.chroma_height(side)


def array_format(depth: int, alpha: bool) -> str:
    """Name the libav format of an `[H, W, C]` array with this bit depth."""
    if depth > 8:
        return "rgba64le" if alpha else "rgb48le"
    return "rgba" if alpha else "rgb24"


class PixelConverter:
    """Convert pictures of one size and format to another pixel format."""

    def __init__(
        self,
        width: int,
        height: int,
        source: str,
        target: str,
        tags: ColorTags,
        *,
        fields: FieldOrder | None = None,
    ) -> None:
        """Build the conversion.

        Args:
            width: Picture width, pixels.
            height: Picture height, pixels.
            source: libav pixel format that comes in.
            target: libav pixel format that goes out; one of the two is RGB.
            tags: Decided colour description of the YUV side.
            fields: Of interlaced pictures: chroma is taken from lines of the same field, and
                the pictures that come out are flagged.
        """
        stages = _stages(source, target, tags)
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
            by_field = "1" if fields else "0"
            nodes.append(self._graph.add("scale", f"{options}:interl={by_field}"))
            nodes.append(self._graph.add("format", f"pix_fmts={pix_fmt}"))
        if fields:
            mode = {"top": "tff", "bottom": "bff"}[fields]
            nodes.append(self._graph.add("setfield", f"mode={mode}"))
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


def _stages(source: str, target: str, tags: ColorTags) -> list[tuple[str, str]]:
    """Return the pixel formats to go through, each with the options of its scale filter."""
    if _biased(source, target, tags):
        deep = "yuv444p12le"
        return [
            (deep, _scale_options(source, deep, tags)),
            (target, f"flags={_SCALE_FLAGS}:{_FULL}"),
        ]
    if source.startswith(("gray", "ya")) and tags.yuv_range == "tv":
        # libswscale takes grey for full range, whatever it is told: copy it as luma first.
        alpha = "a" if has_alpha(source) else ""
        luma = f"yuv{alpha}444p" + ("16le" if bit_depth(source) > 8 else "")
        return [
            (luma, f"flags={_SCALE_FLAGS}:{_FULL}"),
            (target, _scale_options(luma, target, tags)),
        ]
    return [(target, _scale_options(source, target, tags))]


def _biased(source: str, target: str, tags: ColorTags) -> bool:
    """Tell whether libswscale's direct way to `target` shifts the chroma.

    libswscale 9 stores full-range chroma half a level too low (measured; 8 was right).
    Through 12 bits the shift is 0.04 of a level, at the price of some dither.
    """
    if av.library_versions["libswscale"][0] < 9:
        return False
    to_yuv = is_rgb(source) and not is_rgb(target)
    return to_yuv and bit_depth(target) == 8 and tags.yuv_range == "pc"


def _scale_options(source: str, target: str, tags: ColorTags) -> str:
    options = [f"flags={_SCALE_FLAGS}"]
    for side, name in (("in", source), ("out", target)):
        if is_rgb(name):
            options.append(f"{side}_range=pc")
        else:
            options.append(f"{side}_color_matrix={tags.matrix}")
            options.append(f"{side}_range={tags.yuv_range}")
    return ":".join(options)


def decoded_pixels(frame: av.VideoFrame, pix_fmt: str, converter: PixelConverter) -> np.ndarray:
    """Return `[H, W, C]` RGB of a decoded picture of this pixel format."""
    pixels = converter(frame).to_ndarray()
    if pixels.dtype == np.uint16 and not is_rgb(pix_fmt):
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
    elif pixels.dtype == np.uint16 and not is_rgb(pix_fmt):
        pixels = ((pixels.astype(np.uint32) * 256 + 128) // 257).astype(np.uint16)
    layout = array_format(8 * pixels.dtype.itemsize, alpha)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), layout)
