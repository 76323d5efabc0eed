"""The colour description of a stream, and what players take for what it does not name.

Numbers are those of ITU-T H.273, which libav and all containers use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_UNSPECIFIED = 2
_RESERVED = (0, 3)
_RANGE_LIMITED, _RANGE_FULL = 1, 2
_RGB = 0
_BT709, _BT601_625, _BT601_525, _BT2020 = 1, 5, 6, 9
_TRANSFER_BT709, _TRANSFER_SRGB, _TRANSFER_BT2020 = 1, 13, 14
_TRANSFER_PQ, _TRANSFER_HLG = 16, 18

_MATRICES = {
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
"""`AVColorSpace` numbers to the names of the scale filter."""


@dataclass(frozen=True, kw_only=True)
class ColorTags:
    """Colour description of a stream."""

    space: int = _UNSPECIFIED
    """YUV matrix: 1 BT.709, 5 and 6 BT.601, 9 BT.2020, 0 RGB, 2 unspecified."""
    range: int = 0
    """1 limited (16 to 235), 2 full, 0 unspecified."""
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED

    def decided(self, width: int, height: int, pix_fmt: str) -> ColorTags:
        """Fill in what is not named, as mpv and VLC do, so that it can be written down.

        Args:
            width: Pixels as coded, before rotation.
            height: Pixels as coded.
            pix_fmt: libav name of the pixel format as coded.

        Returns:
            Tags without an unspecified value. Up to 576 lines and less than 1280 columns YUV
            is BT.601, above BT.709; RGB is sRGB over the full range.
        """
        if is_rgb(pix_fmt):
            tags = replace(self, space=_RGB, range=_RANGE_FULL)
        else:
            space = self.space
            if space in (_RGB, _UNSPECIFIED, *_RESERVED):
                wide = self.primaries == _BT2020
                space = _BT2020 if wide else _matrix_by_size(width, height)
            tags = replace(self, space=space, range=self._decided_range(pix_fmt))
        if tags.primaries in (_UNSPECIFIED, *_RESERVED):
            tags = replace(tags, primaries=_usual_primaries(tags.space, width, height))
        if tags.transfer in (_UNSPECIFIED, *_RESERVED):
            usual = {_RGB: _TRANSFER_SRGB, _BT2020: _TRANSFER_BT2020}
            tags = replace(tags, transfer=usual.get(tags.space, _TRANSFER_BT709))
        return tags

    @property
    def matrix(self) -> str:
        """Name of the YUV matrix, of decided tags, for the scale filter.

        YCgCo, ICtCp and the like have no name there: reading and writing take BT.709, so that
        the stored values come out as they went in.
        """
        return _MATRICES.get(self.space, "bt709")

    @property
    def has_known_matrix(self) -> bool:
        """Whether the samples can be converted to RGB: not those of YCgCo and ICtCp."""
        return self.is_rgb or self.space in _MATRICES

    @property
    def yuv_range(self) -> str:
        """Name of the range of YUV samples, of decided tags: "pc" (full) or "tv" (limited)."""
        return "pc" if self.range == _RANGE_FULL else "tv"

    @property
    def is_rgb(self) -> bool:
        """Whether the samples are RGB: no matrix applies."""
        return self.space == _RGB

    @property
    def hdr(self) -> str | None:
        """Name of a transfer that only screens with high dynamic range show right, or None."""
        return {_TRANSFER_PQ: "PQ", _TRANSFER_HLG: "HLG"}.get(self.transfer)

    def _decided_range(self, pix_fmt: str) -> int:
        if pix_fmt.startswith("yuvj"):
            return _RANGE_FULL
        full = pix_fmt.startswith(("gray", "ya", "mono"))
        return self.range or (_RANGE_FULL if full else _RANGE_LIMITED)


REC709 = ColorTags(space=1, range=1, primaries=1, transfer=1)
"""What new video is tagged with when there is no source to follow."""


def is_rgb(pix_fmt: str) -> bool:
    """Tell whether a libav pixel format needs no YUV matrix; palettes and XYZ count as RGB."""
    # Here, as photos have tags as well, and need no PyAV.
    import av

    layout = av.VideoFormat(pix_fmt)
    return layout.is_rgb or layout.has_palette or pix_fmt.startswith("xyz")


def _matrix_by_size(width: int, height: int) -> int:
    if width >= 1280 or height > 576:
        return _BT709
    return _BT601_625 if height == 576 else _BT601_525


def _usual_primaries(space: int, width: int, height: int) -> int:
    """Return primaries by the matrix, where that is not clear by the size."""
    if space in (_BT2020, 10):
        return _BT2020
    if space not in (_BT601_625, _BT601_525) or width >= 1280:
        return _BT709
    return {576: _BT601_625, 480: _BT601_525, 486: _BT601_525, 488: _BT601_525}.get(
        height, _BT709
    )
