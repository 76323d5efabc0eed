"""Turn and mirror arrays of pixels, by a display matrix or a number of EXIF."""

from __future__ import annotations

import numpy as np

Matrix = tuple[int, int, int, int]
"""The signs (a, b, c, d) of x' = a x + c y, y' = b x + d y."""

_OF_EXIF: dict[int, Matrix] = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def exif_matrix(orientation: int) -> Matrix:
    """Return how a picture is to be turned by its EXIF number, 1 to 8."""
    return _OF_EXIF[orientation]


def swaps_axes(matrix: Matrix) -> bool:
    """Tell whether width and height change places."""
    return matrix[0] == 0


def turned_back(matrix: Matrix) -> Matrix:
    """Return what undoes a turn."""
    a, b, c, d = matrix
    return (a, c, b, d)


def rotation(matrix: Matrix) -> int:
    """Return degrees clockwise; a mirrored picture counts as its rotation alone."""
    a, b, _, d = matrix
    if swaps_axes(matrix):
        return 90 if b > 0 else 270
    return 180 if a < 0 and d < 0 else 0


def upright(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Turn and mirror `[H, W, C]` as the display matrix says."""
    a, b, c, d = matrix
    if swaps_axes(matrix):
        return np.ascontiguousarray(np.swapaxes(pixels, 0, 1)[::b, ::c])
    return np.ascontiguousarray(pixels[::d, ::a])
