"""Motion vectors of a codec's blocks: from a decoder's list to a grid, and to every pixel.

Decoders list vectors of blocks of 8 or 16 pixels; a grid of cells of 8 pixels holds them all.
A vector points from where a block is to where it comes from, in pixels: x to the right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np

from .orientation import side_data

CELL = 8
"""Pixels of a cell's side: the smallest block that decoders list."""


@dataclass(frozen=True, eq=False)
class BlockMotion:
    """Where the blocks of one picture come from."""

    motion: np.ndarray
    """float32 `[2, h, w]`, x and y in pixels; 0 where nothing is known."""
    known: np.ndarray
    """bool `[h, w]`: cells of blocks that have a vector."""
    cell: int = CELL
    """Pixels of a cell's side."""


def listed_vectors(frame: av.VideoFrame) -> np.ndarray | None:
    """Return the vectors that a decoder listed; None for a picture without any."""
    listed = side_data(frame).get("MOTION_VECTORS")
    return None if listed is None else listed.to_ndarray()


def block_motion(vectors: np.ndarray, height: int, width: int) -> BlockMotion:
    """Put listed vectors on the grid of cells of a picture.

    Args:
        vectors: As libav lists them; blocks beyond the picture are left out.
        height: Of the picture, pixels.
        width: Of the picture, pixels.
    """
    rows, columns = -(-height // CELL), -(-width // CELL)
    motion = np.zeros((2, rows, columns), np.float32)
    known = np.zeros((rows, columns), bool)
    # libav gives the middle of each block.
    left = (vectors["dst_x"].astype(np.int32) - vectors["w"] // 2) // CELL
    top = (vectors["dst_y"].astype(np.int32) - vectors["h"] // 2) // CELL
    scale = np.maximum(vectors["motion_scale"], 1).astype(np.float32)
    x, y = vectors["motion_x"] / scale, vectors["motion_y"] / scale
    for down in range(2):
        for right in range(2):
            row, column = top + down, left + right
            inside = (vectors["w"] > right * CELL) & (vectors["h"] > down * CELL)
            inside &= (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            place = row[inside], column[inside]
            motion[0][place], motion[1][place] = x[inside], y[inside]
            known[place] = True
    return BlockMotion(motion, known)


def to_pixels(cells: np.ndarray, cell: int, height: int, width: int) -> np.ndarray:
    """Repeat grids of cells `[C, h, w]` for every pixel of a picture, `[C, height, width]`."""
    import cv2

    rows, columns = cells.shape[1] * cell, cells.shape[2] * cell
    values = cells.view(np.uint8) if cells.dtype == bool else cells
    pixels = np.empty((len(cells), rows, columns), values.dtype)
    for grid, plane in zip(values, pixels, strict=True):
        cv2.resize(grid, (columns, rows), dst=plane, interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(pixels[:, :height, :width]).view(cells.dtype)


class Sampler:
    """Samples pictures of one size at moved places, between pixels linearly."""

    def __init__(self, height: int, width: int) -> None:
        """Prepare for pictures of this size, pixels."""
        self._x = np.arange(width, dtype=np.float32)[None]
        self._y = np.arange(height, dtype=np.float32)[:, None]
        # Fresh memory costs a third of the time of sampling.
        self._places = np.empty((2, height, width), np.float32)

    def __call__(self, picture: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """Return a picture `[H, W]` as it is at `x + motion`; its border goes on outside.

        Args:
            picture: uint8 or float32.
            motion: float32 `[2, H, W]`, pixels.
        """
        import cv2

        x = np.add(self._x, motion[0], out=self._places[0])
        y = np.add(self._y, motion[1], out=self._places[1])
        border = cv2.BORDER_REPLICATE
        return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=border)
