"""Decode animated WebP files frame by frame.

A frame is a small picture that is put, or blended, onto a canvas; what it leaves there for the
next one is its business too. Each is decoded as a WebP file of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .facts import webp_parts

_DEFAULT_MS = 100
"""Of frames that say 0: what browsers take."""
_ALPHA_FLAG = 0x10


@dataclass(frozen=True)
class _Frame:
    x: int
    y: int
    width: int
    height: int
    duration_ms: int
    blends: bool
    clears: bool
    """Whether its place is transparent afterwards."""
    start: int
    length: int
    """Of its own chunks in the file."""


class WebpAnimation:
    """An animated WebP file."""

    def __init__(self, path: Path) -> None:
        """Read the file; decode nothing yet.

        Raises:
            ValueError: If it is damaged or no animation.
        """
        self._path = path
        self._data = data = path.read_bytes()
        end = min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
        self._frames: list[_Frame] = []
        self.has_alpha = False
        """Whether it says that some pixel is transparent."""
        self.width = self.height = 0
        for kind, start, length in webp_parts(data, 12, end):
            if kind == b"VP8X":
                self.has_alpha = bool(data[start] & _ALPHA_FLAG)
                self.width, self.height = (1 + _number(data, start + at) for at in (4, 7))
            elif kind == b"ANMF":
                self._frames.append(self._frame(start, length))
        if not self._frames or not self.width:
            raise ValueError(f"{path}: is damaged (it holds no frames)")
        self.durations_ms = [frame.duration_ms or _DEFAULT_MS for frame in self._frames]

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames, `[H, W, 4]` RGBA uint8.

        Raises:
            ValueError: If one cannot be decoded.
        """
        canvas = np.zeros((self.height, self.width, 4), np.uint8)
        for index, frame in enumerate(self._frames):
            pixels = self._decode(frame, index)
            place = canvas[frame.y :, frame.x :][: frame.height, : frame.width]
            place[:] = _over(place, pixels) if frame.blends else pixels
            yield canvas.copy()
            if frame.clears:
                place[:] = 0

    def _frame(self, start: int, length: int) -> _Frame:
        x, y, width, height, duration = (_number(self._data, start + 3 * n) for n in range(5))
        flags = self._data[start + 15]
        frame = _Frame(
            x=2 * x,
            y=2 * y,
            width=width + 1,
            height=height + 1,
            duration_ms=duration,
            blends=not flags & 2,
            clears=bool(flags & 1),
            start=start + 16,
            length=length - 16,
        )
        if frame.x + frame.width > self.width or frame.y + frame.height > self.height:
            raise ValueError(f"{self._path}: is damaged (a frame lies outside)")
        return frame

    def _decode(self, frame: _Frame, index: int) -> np.ndarray:
        """Decode a frame from a file that holds nothing else."""
        data, stop = self._data, frame.start + frame.length
        chunks = b"".join(
            data[start - 8 : start + length + length % 2]
            for kind, start, length in webp_parts(data, frame.start, stop)
            if kind in (b"ALPH", b"VP8 ", b"VP8L")
        )
        if chunks.startswith(b"ALPH"):
            sizes = b"".join(
                n.to_bytes(3, "little") for n in (frame.width - 1, frame.height - 1)
            )
            chunks = b"VP8X" + struct.pack("<IB3x", 10, _ALPHA_FLAG) + sizes + chunks
        file = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
        try:
            pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
        if pixels is None or pixels.shape[:2] != (frame.height, frame.width):
            raise ValueError(f"{self._path}: frame {index} cannot be decoded, it is damaged")
        code = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGBA
        return cv2.cvtColor(pixels, code)


def _over(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Blend RGBA pixels over others, whose colours are not multiplied by their alpha."""
    if (above[..., 3] == 255).all():
        return above
    upper = above[..., 3:].astype(np.float32) / 255
    lower = below[..., 3:].astype(np.float32) / 255 * (1 - upper)
    total = upper + lower
    colours = above[..., :3] * upper + below[..., :3] * lower
    colours = np.divide(colours, total, out=np.zeros_like(colours), where=total > 0)
    return np.rint(np.concatenate([colours, total * 255], axis=2)).astype(np.uint8)


def _number(data: bytes, start: int) -> int:
    """Return a number of three bytes."""
    return int.from_bytes(data[start : start + 3], "little")
