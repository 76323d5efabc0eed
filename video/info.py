"""What is known of a video before its frames are read."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from .color_tags import ColorTags

if TYPE_CHECKING:
    # It needs PyAV, which clips of images do without.
    from .hdr import HdrMetadata

FieldOrder = Literal["top", "bottom"]
"""The field that is shown first: the one of the first line, or of the second."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What is known of a video before its frames are read."""

    width: int
    """Pixels, after rotation."""
    height: int
    """Pixels, after rotation."""
    average_rate: Fraction
    """Frames per second."""
    time_base: Fraction
    """Seconds per unit of `pts` and `duration` of a frame."""
    num_frames: int | None
    """From the container, or estimated from the duration; None when neither is known."""
    duration: Fraction | None
    """Seconds."""
    rotation: int
    """Degrees clockwise that were applied to make the pixels upright: 0, 90, 180, 270."""
    codec: str
    pix_fmt: str
    bit_depth: int
    has_alpha: bool
    color: ColorTags
    """Decided: what the file does not name is filled in as players do."""
    hdr: HdrMetadata | None = None
    """Mastering display and light level, where the file says them."""
    dynamic_hdr: tuple[str, ...] = ()
    """Kinds of metadata that change from frame to frame: HDR10+, Dolby Vision."""
    views: tuple[str, ...] = ()
    """What a flat screen cannot show: 360 degrees, a picture for each eye."""
    sample_aspect_ratio: Fraction
    """Width of a pixel over its height, after rotation; 1 for square pixels."""
    fields: FieldOrder | None = None
    """Of interlaced video, after rotation; None for progressive video."""
    audio_codecs: tuple[str, ...]
    """libav codec names, one per audio stream."""
