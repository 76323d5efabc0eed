"""Pixel values: integers in files, floats in 0 to 1 for networks."""

from __future__ import annotations

import numpy as np


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Scale uint8 or uint16 pixels to float32 in 0 to 1, same shape.

    Raises:
        ValueError: If the pixels have another type.
    """
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, got {pixels.dtype}")
    # Cast while dividing: a copy of a 3840x2160 frame is 100 MB.
    return np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), dtype=np.float32)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Round float pixels in 0 to 1 to uint8, same shape; values outside are clipped."""
    return _quantise(values, np.uint8)


def to_uint16(values: np.ndarray) -> np.ndarray:
    """Round float pixels in 0 to 1 to uint16, same shape; values outside are clipped."""
    return _quantise(values, np.uint16)


def _quantise(values: np.ndarray, dtype: type[np.unsignedinteger]) -> np.ndarray:
    peak = np.iinfo(dtype).max
    # floor(x + 0.5): np.rint would round halves to even.
    scaled = np.floor(np.asarray(values, dtype=np.float64) * peak + 0.5)
    return np.clip(scaled, 0, peak).astype(dtype)
