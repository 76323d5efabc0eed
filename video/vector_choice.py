"""Bring a stream's vectors to motion from the frame before, whatever they refer to.

A vector to a picture k frames away is k times the motion from one frame to the next, if things
move on evenly; one to a later picture has the other sign. Streams say neither how far away the
picture is nor, of a block with two vectors, which one fits: each possible motion is tried, and
a cell takes the one that makes the frame out of the frame before with the least difference.
"""

from __future__ import annotations

import numpy as np

from .coded_pictures import CodedPicture
from .motion_vectors import CELL, BlockMotion, Sampler, block_motion, to_pixels

_MOST = 3
"""Pictures in each direction that vectors are taken to refer to, the nearest ones."""
_SHRINK = 2
"""Differences are measured on frames of half the size."""
_BETTER = 0.9
_LEVELS = 0.5
"""By which factor, and by how many of 255 levels on average, a motion must be better than that
of the nearest picture: else the grain of flat areas decides."""


class MotionChoice:
    """Brings the vectors of the pictures of one clip to motion from the frame before."""

    def __init__(self, height: int, width: int) -> None:
        """Prepare for pictures of this size, pixels."""
        self._size = height, width
        rows, columns = -(-height // CELL), -(-width // CELL)
        self._padding = rows * CELL - height, columns * CELL - width
        self._cells = rows, columns
        side = CELL // _SHRINK
        self._sample = Sampler(rows * side, columns * side)

    def shrunk(self, luma: np.ndarray) -> np.ndarray:
        """Return what `motion` compares of a picture: uint8 `[H, W]` at half its size."""
        import cv2

        below, right = self._padding
        if below or right:
            border = cv2.BORDER_REPLICATE
            luma = cv2.copyMakeBorder(luma, 0, below, 0, right, border)
        size = (luma.shape[1] // _SHRINK, luma.shape[0] // _SHRINK)
        return cv2.resize(luma, size, interpolation=cv2.INTER_AREA)

    def still(self) -> BlockMotion:
        """Return the motion of a picture that is the one before it once more."""
        return BlockMotion(np.zeros((2, *self._cells), np.float32), np.ones(self._cells, bool))

    def motion(
        self, coded: CodedPicture, pts_before: int, before: np.ndarray, now: np.ndarray
    ) -> BlockMotion | None:
        """Return the motion of a picture from the one before it on display.

        Args:
            coded: What the stream says of it.
            pts_before: When the picture before it is shown.
            before: That picture, as of `shrunk`.
            now: The picture itself, as of `shrunk`.

        Returns:
            None where the stream has no vectors for it.
        """
        if coded.vectors is None or pts_before >= coded.pts:
            return None
        candidates = self._candidates(coded, pts_before - coded.pts)
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        before = _as_bright(before, now)
        motion = np.zeros((2, *self._cells), np.float32)
        known = np.zeros(self._cells, bool)
        least = np.full(self._cells, np.inf, np.float32)
        for each in candidates:
            difference = self._difference(each.motion, before, now)
            # Of the first that a cell has, `least` is infinite.
            better = each.known & (difference < _BETTER * least - _LEVELS)
            motion[:, better] = each.motion[:, better]
            least[better] = difference[better]
            known |= each.known
        return BlockMotion(motion, known)

    def _candidates(self, coded: CodedPicture, step: int) -> list[BlockMotion]:
        """Return what the vectors mean for each picture that they may refer to."""
        assert coded.vectors is not None
        is_later = coded.vectors["source"] > 0
        candidates = []
        for times, listed in (
            (coded.earlier, coded.vectors[~is_later]),
            (coded.later, coded.vectors[is_later]),
        ):
            if not times or not len(listed):
                continue
            found = block_motion(listed, *self._size)
            for time in times[:_MOST]:
                scale = np.float32(step / (time - coded.pts))
                candidates.append((abs(scale), BlockMotion(found.motion * scale, found.known)))
        # The nearest first: its motion is the most exact.
        return [each for _, each in sorted(candidates, key=lambda each: -each[0])]

    def _difference(
        self, motion: np.ndarray, before: np.ndarray, now: np.ndarray
    ) -> np.ndarray:
        """Return the mean difference of each cell, in levels of 255."""
        import cv2

        side = CELL // _SHRINK
        height, width = now.shape
        dense = to_pixels(motion / _SHRINK, side, height, width)
        difference = cv2.absdiff(self._sample(before, dense), now)
        size = (self._cells[1], self._cells[0])
        return cv2.resize(difference.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _as_bright(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Give a picture the brightness and contrast of another, so that fades do not count."""
    import cv2

    (mean_before, spread_before), (mean, spread) = map(cv2.meanStdDev, (before, now))
    gain = spread / np.maximum(spread_before, 1)
    levels = (np.arange(256) - mean_before) * gain + mean
    return cv2.LUT(before, np.clip(levels + 0.5, 0, 255).astype(np.uint8).reshape(-1))
