"""Where to look: the telling crops of a sequence, and pictures of the error.

Frames are uint8 `[H, W, 3]` RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

ERROR_SCALE = 64
"""Difference in levels of 255 that the error maps show as the brightest colour."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A square of one frame, in pixels."""

    frame: int
    """Index."""
    top: int
    left: int
    size: int
    before: float
    """Mean squared error of the blurry input inside, in levels of 255."""
    after: float
    """The same of the restored frame."""

    def of(self, frames: np.ndarray) -> np.ndarray:
        """Cut the square out of a clip `[T, H, W, C]`."""
        rows, columns = (slice(start, start + self.size) for start in (self.top, self.left))
        return frames[self.frame, rows, columns]


def telling_crops(
    blurry: np.ndarray, restored: np.ndarray, sharp: np.ndarray
) -> tuple[Crop, Crop]:
    """Pick the crop with the most to win and the one that fared worst.

    Args:
        blurry: `[T, H, W, 3]`, uint8.
        restored: The same.
        sharp: The same.

    Returns:
        Where the blurry input has the largest error, and where restoring raised the error
        most (or, where it never did, lowered it least).
    """
    size = crop_size(*sharp.shape[1:3])
    most_to_win: list[Crop] = []
    got_worst: list[Crop] = []
    for index, (source, result, target) in enumerate(zip(blurry, restored, sharp, strict=True)):
        before, after = (_error_of_squares(x, target, size) for x in (source, result))
        for found, score in ((most_to_win, before), (got_worst, after - before)):
            top, left = np.unravel_index(int(np.argmax(score)), score.shape)
            found.append(
                Crop(
                    frame=index,
                    top=int(top),
                    left=int(left),
                    size=size,
                    before=float(before[top, left]),
                    after=float(after[top, left]),
                )
            )
    return (
        max(most_to_win, key=lambda crop: crop.before),
        max(got_worst, key=lambda crop: crop.after - crop.before),
    )


def crop_size(height: int, width: int) -> int:
    """Return the side of a crop: 96 pixels, 160 of large frames, less of tiny ones."""
    side = min(height, width)
    return min(side, 160 if side >= 480 else 96)


def error_map(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference over channels in colour, uint8 RGB.

    Black is 0, the brightest colour `ERROR_SCALE` levels or more: one scale everywhere.
    """
    difference = np.abs(pred.astype(np.float32) - target.astype(np.float32)).mean(axis=-1)
    return _colored(difference / ERROR_SCALE)


def error_legend(width: int = 256, height: int = 12) -> np.ndarray:
    """Return the colours of `error_map` from 0 to `ERROR_SCALE`, left to right."""
    return _colored(np.broadcast_to(np.linspace(0, 1, width), (height, width)))


def _colored(values: np.ndarray) -> np.ndarray:
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _error_of_squares(pred: np.ndarray, target: np.ndarray, size: int) -> np.ndarray:
    """Return the mean squared error in the square at each place where one fits."""
    difference = pred.astype(np.float64) - target.astype(np.float64)
    sums = cv2.integral(np.mean(difference**2, axis=-1))
    corners = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size]
    return (corners + sums[:-size, :-size]) / size**2
