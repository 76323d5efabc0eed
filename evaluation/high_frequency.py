"""Fine detail: the high frequencies of a frame against those of the sharp one.

The band is 1/8 to 1/2 cycles per pixel in every direction, details 2 to 8 pixels wide, of
BT.601 luma under a Hann window (which keeps the frame's borders from counting as detail).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BAND = (1 / 8, 1 / 2)
"""Radial frequencies that count, cycles per pixel; both ends included."""
_LUMA = np.array([0.299, 0.587, 0.114])


def energy_share(pred: np.ndarray, target: np.ndarray) -> float:
    """Return the energy of the band in `pred` over that in `target`.

    1 is as much detail as the sharp frame has, right or wrong: noise and ringing count too,
    which `matched_share` tells apart.

    Args:
        pred: `[H, W, 3]` RGB.
        target: The same shape and range.

    Returns:
        0 or more; nan when the sharp frame has nothing in the band.
    """
    energy = _energy(_band(target))
    return _energy(_band(pred)) / energy if energy > 0 else float("nan")


def matched_share(pred: np.ndarray, target: np.ndarray) -> float:
    """Return how much of the sharp frame's band is in `pred`, in its place and phase.

    The regression of pred's band on target's, sum(P * conj(T)) / sum(|T|^2): 1 for the
    sharp frame, the mean attenuation for a blurred one, 0 for unrelated detail.

    Args:
        pred: `[H, W, 3]` RGB.
        target: The same shape and range.

    Returns:
        About 0 to 1; nan when the sharp frame has nothing in the band.
    """
    sharp = _band(target)
    energy = _energy(sharp)
    return float(np.vdot(sharp, _band(pred)).real) / energy if energy > 0 else float("nan")


def _energy(band: np.ndarray) -> float:
    return float(np.vdot(band, band).real)


def _band(image: np.ndarray) -> np.ndarray:
    window, inside = _window_and_band(*image.shape[:2])
    luma = image.astype(np.float64) @ _LUMA
    # A window on a bright frame would leak the mean into the band.
    luma -= np.sum(luma * window) / np.sum(window)
    return np.fft.fft2(luma * window)[inside]


@lru_cache(maxsize=4)
def _window_and_band(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    if min(height, width) < 16:
        raise ValueError(
            f"the high-frequency share needs at least 16x16 pixels, got {height}x{width}"
        )
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    return window, (radius >= BAND[0]) & (radius <= BAND[1])
