"""A picture of a clip, as it is read and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    # It needs PyAV, which training on photos runs without.
    from .coded_pictures import CodedPicture


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One picture and its place in time."""

    pixels: np.ndarray
    """`[H, W, C]`, RGB or RGBA, uint8; uint16 (0 to 65535) from more than 8 bits."""
    pts: int
    """Start of display, in units of the clip's `time_base`."""
    duration: int
    """Time on display, same unit."""
    is_repeat: bool = False
    """Whether it stands for a frame that could not be decoded: a copy of its neighbour."""
    coded: CodedPicture | None = None
    """What the stream says of its motion, where a reader was asked for it and could tell."""


@dataclass(frozen=True, kw_only=True)
class EncodedFrame:
    """One encoded picture. There are no B-frames, so packets are frames in order."""

    data: bytes
    pts: int
    """Start of display, in units of the clip's time base."""
    duration: int
    """Time on display, same unit."""
    is_keyframe: bool
