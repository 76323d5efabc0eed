"""What a stream says about the motion of its pictures: vectors, and what they may refer to.

libav lists vectors of H.264 and MPEG-4 part 2, with the direction of each and not the picture
that it refers to. Which ones it can be follows from the order of decoding.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from .h264_headers import is_reference, length_size, num_references
from .motion_vectors import listed_vectors

EXPORT = {"flags2": "+export_mvs"}
"""Options of a decoder that lists vectors."""
_UNKNOWN = 4
"""How many pictures may be referred to where the stream does not say; encoders keep 1 to 5."""
_KEPT = 128
"""Packets that are remembered; threads decode as many ahead of what is shown, and fewer."""


@dataclass(frozen=True, eq=False)
class CodedPicture:
    """The vectors of one picture, as coded: not turned upright."""

    pts: int
    """When it is shown, in units of the stream's time base."""
    vectors: np.ndarray | None
    """As libav lists them; None for a picture without any."""
    earlier: tuple[int, ...]
    """When pictures that it may refer to are shown, those before it, nearest first."""
    later: tuple[int, ...]
    """The same of those after it."""


def lists_vectors(context: Any, from_dts: bool) -> bool:
    """Tell whether a decoder's vectors can be used.

    Args:
        context: The decoder of a stream.
        from_dts: Whether the container stores the order of decoding alone.
    """
    reorders = bool(context.has_b_frames)
    if context.name == "mpeg4":
        # Of B-frames libav lists zeros: the vectors of direct blocks are not kept.
        return not reorders
    is_intra = "intra" in str(context.profile or "").lower()
    return context.name == "h264" and not is_intra and not (from_dts and reorders)


class DecodingOrder:
    """Remembers the packets of a stream, to tell what a picture may refer to."""

    def __init__(self, context: Any) -> None:
        """Read the header of the stream of a decoder."""
        self._is_h264 = context.name == "h264"
        header = context.extradata
        self._length_size = length_size(header) if self._is_h264 else 0
        self._most = (num_references(header) or _UNKNOWN) if self._is_h264 else 1
        self._sent: deque[tuple[int | None, bool]] = deque(maxlen=_KEPT)

    def note(self, packet: Any) -> None:
        """Note a packet that goes to the decoder."""
        referred = not self._is_h264 or is_reference(bytes(packet), self._length_size)
        self._sent.append((packet.pts, referred))

    def coded(self, frame: av.VideoFrame, pts: int | None) -> CodedPicture | None:
        """Return what the stream says of a decoded picture; None where it cannot be told.

        Args:
            frame: As it comes from the decoder.
            pts: When it is shown, as its packet said.
        """
        times = [time for time, _ in self._sent]
        if pts is None or pts not in times or frame.is_corrupt or frame.interlaced_frame:
            return None
        before = list(self._sent)[: times.index(pts)]
        referred = [time for time, used in before if used and time is not None]
        nearest = sorted(referred[-self._most :], key=lambda time: abs(time - pts))
        return CodedPicture(
            pts,
            listed_vectors(frame),
            tuple(time for time in nearest if time < pts),
            tuple(time for time in nearest if time > pts),
        )
