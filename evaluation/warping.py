"""Temporal consistency: how well a frame, warped along the motion, predicts the next.

The warping error of a pair of frames is

    E(t) = 1 / sum(M) * sum over pixels of M * |V(t) - W(V(t - 1))|^p

with W the warp along the optical flow, M 1 where the motion can be followed, the values in
0..1 and their channels averaged. p = 2 is "Learning Blind Video Temporal Consistency" (Lai
et al., ECCV 2018), p = 1 "Deep Video Prior" (Lei et al., NeurIPS 2020). Flow and M always
come from the sharp frames, so that clips of any blur are measured along the same motion. No
flow is exact: divide by the error of the sharp clip itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

_MIN_SIZE = 32
"""Pixels; the pyramids of both flows need them."""
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class WarpingError:
    """A definition of the warping error."""

    flow: str
    """`farneback` (OpenCV's polynomial expansion) or `dis` (OpenCV's dense inverse search,
    medium preset: more exact, so the sharp clip's own error is smaller)."""
    power: int
    """1: mean absolute error. 2: mean squared error."""

    def __post_init__(self) -> None:
        if self.flow not in _FLOWS:
            raise ValueError(f"flow must be one of {', '.join(_FLOWS)}, got {self.flow!r}")
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {self.power}")

    def motion(self, sharp: np.ndarray, *, data_range: float) -> list[Motion]:
        """Follow the motion of the sharp clip.

        Args:
            sharp: `[T, H, W, 3]` RGB.
            data_range: Difference between white and black: 255 for uint8, 1 for 0..1.

        Returns:
            T - 1 motions, from each frame but the first to the one before it.

        Raises:
            ValueError: If the frames are smaller than 32x32 pixels.
        """
        if min(sharp.shape[1:3]) < _MIN_SIZE:
            raise ValueError(
                f"the warping error needs at least {_MIN_SIZE}x{_MIN_SIZE} pixels, "
                f"got {list(sharp.shape[1:3])}"
            )
        luma = [np.rint(frame @ (_LUMA * 255 / data_range)).astype(np.uint8) for frame in sharp]
        return [_follow(frame, previous, self.flow) for previous, frame in pairwise(luma)]

    def errors(
        self, frames: np.ndarray, motion: Sequence[Motion], *, data_range: float
    ) -> list[float]:
        """Return E of each frame but the first.

        Args:
            frames: `[T, H, W, 3]`, a clip of the same motion.
            motion: From `motion`.
            data_range: Of the frames.

        Returns:
            T - 1 errors on the scale 0..1; nan where nothing can be followed, as at a cut.
        """
        scaled = (frame.astype(np.float32) / data_range for frame in frames)
        return [
            self._error(frame, previous, move)
            for (previous, frame), move in zip(pairwise(scaled), motion, strict=True)
        ]

    def _error(self, frame: np.ndarray, previous: np.ndarray, motion: Motion) -> float:
        if not motion.visible.any():
            return float("nan")
        difference = frame - _warp(previous, motion.flow)
        distance = np.abs(difference[motion.visible], dtype=np.float64)
        return float(np.mean(distance**self.power))


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Where the pixels of a frame were in the one before."""

    flow: np.ndarray
    """float32 `[H, W, 2]`: offset (x, y) in pixels to the place in the previous frame."""
    visible: np.ndarray
    """bool `[H, W]`: the place is inside the frame, and the way back leads here."""


def _follow(frame: np.ndarray, previous: np.ndarray, method: str) -> Motion:
    flow, back = _FLOWS[method](frame, previous), _FLOWS[method](previous, frame)
    height, width = frame.shape
    x = np.arange(width) + flow[..., 0]
    y = np.arange(height)[:, None] + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # Forward and backward flow must cancel: equation 5 of Sundaram, Brox & Keutzer
    # (ECCV 2010), which Lai et al. use through Ruder et al. (2016).
    returned = _warp(back, flow)
    gap = np.sum((flow + returned) ** 2, axis=-1)
    size = np.sum(flow**2, axis=-1) + np.sum(returned**2, axis=-1)
    return Motion(flow=flow, visible=inside & (gap <= 0.01 * size + 0.5))


def _farneback(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    start = np.zeros((*frame.shape, 2), np.float32)
    return cv2.calcOpticalFlowFarneback(
        frame,
        other,
        start,
        pyr_scale=0.5,
        levels=3,
        winsize=15,
        iterations=3,
        poly_n=5,
        poly_sigma=1.2,
        flags=0,
    )


def _dense_inverse_search(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(frame, other, np.zeros((*frame.shape, 2), np.float32))


_FLOWS = {"farneback": _farneback, "dis": _dense_inverse_search}


def _warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Fetch each pixel from where the flow points, bilinear; outside, the nearest pixel."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
