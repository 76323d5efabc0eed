"""Motion vectors of frames that come without: x264 searches them, its decoder lists them.

Only luma is encoded, at half its size unless that is small: x264 then sees twice as far, finds
vectors for more blocks, and takes a quarter of the time. Frame by frame, without B-frames and
with one reference, so that every vector points to the frame before.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.error import FFmpegError

from .motion_vectors import CELL, BlockMotion, block_motion, listed_vectors

_SMALL = 128
"""Pixels of a frame's shorter side below which it is encoded at full size."""
_QUALITY = "14"
"""Constant quantiser. Blocks of a rougher picture find worse partners: at 28 frames warped by
the vectors lost 0.4 dB and more in a throwaway comparison."""
_X264 = ":".join(
    [
        # Cuts are found by `scene_cuts`: x264 takes fast motion for one.
        *("scenecut=0", "keyint=infinite", "bframes=0", "ref=1", "weightp=0"),
        *("mbtree=0", "rc-lookahead=0", "sync-lookahead=0", "threads=1", "no-chroma-me=1"),
        # With a finer search (subme 2 to 7) x264 codes more blocks without a vector.
        *("me=umh", "merange=64", "subme=1", "partitions=p8x8"),
    ]
)


class VectorEncoder:
    """Finds the motion of the blocks of one clip, frame after frame."""

    def __init__(self, height: int, width: int) -> None:
        """Open the encoder and its decoder.

        Args:
            height: Of the frames, pixels.
            width: Of the frames, pixels.

        Raises:
            ValueError: If x264 takes no frames of this size, or PyAV was built without it.
        """
        self._scale = 1 if min(height, width) < _SMALL else 2
        # x264 and its 4:2:0 want even sides, and a whole block of the codec is the least.
        step = 2 * self._scale
        self._right = max(-(-width // step) * step, 16) - width
        self._below = max(-(-height // step) * step, 16) - height
        self._width = (width + self._right) // self._scale
        self._height = (height + self._below) // self._scale
        self._count = 0
        self._encoder = self._open_encoder()
        self._decoder = _open_decoder()

    def add(self, luma: np.ndarray) -> BlockMotion | None:
        """Encode the next frame.

        Args:
            luma: uint8 `[H, W]`.

        Returns:
            Its motion from the frame before; None if it has none, as the first one.
        """
        frame = self._picture(self._shrunk(luma))
        decoded = [
            each
            for packet in self._encoder.encode(frame)
            for each in self._decoder.decode(packet)
        ]
        # With the settings above neither side holds frames back.
        assert len(decoded) == 1
        vectors = listed_vectors(decoded[0])
        if vectors is None:
            return None
        found = block_motion(vectors, self._height, self._width)
        return BlockMotion(found.motion * self._scale, found.known, CELL * self._scale)

    def _open_encoder(self) -> Any:
        try:
            context: Any = av.CodecContext.create("libx264", "w")
        except UnknownCodecError as error:
            raise ValueError(
                "motion vectors: this build of PyAV has no encoder libx264; install PyAV from "
                "PyPI (pip install av)"
            ) from error
        context.width, context.height, context.pix_fmt = self._width, self._height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.thread_count = 1
        context.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "qp": _QUALITY,
            "x264-params": _X264,
        }
        try:
            context.open()
        except FFmpegError as error:
            raise ValueError(
                f"motion vectors: x264 takes no frames of {self._width}x{self._height} pixels"
            ) from error
        return context

    def _shrunk(self, luma: np.ndarray) -> np.ndarray:
        import cv2

        if self._right or self._below:
            border = cv2.BORDER_REPLICATE
            luma = cv2.copyMakeBorder(luma, 0, self._below, 0, self._right, border)
        if self._scale == 1:
            return luma
        size = (self._width, self._height)
        return cv2.resize(luma, size, interpolation=cv2.INTER_AREA)

    def _picture(self, luma: np.ndarray) -> av.VideoFrame:
        frame = av.VideoFrame(self._width, self._height, "yuv420p")
        planes: Any = frame.planes
        rows = np.frombuffer(planes[0], np.uint8).reshape(-1, planes[0].line_size)
        rows[: self._height, : self._width] = luma
        for plane in planes[1:]:
            np.frombuffer(plane, np.uint8)[:] = 128
        frame.pts, frame.time_base = self._count, Fraction(1, 25)
        self._count += 1
        return frame


def _open_decoder() -> Any:
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    context.options = {"flags2": "+export_mvs"}
    context.flags |= Flags.low_delay
    return context
