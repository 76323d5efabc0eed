"""Score how blurry a picture is, without a sharp one to compare with.

An edge that one pixel resolves differs as much from a pixel's neighbour as from the fourth
pixel on; blur takes the first difference away and leaves the second. The ratio of their mean
squares is 1/4 at a clean edge and 1/16 on a ramp. Noise adds the same to both and is taken
off first. Motion blurs along one direction, so the least of four directions counts, and
objects move alone, so the worst of nine regions does; regions without texture say nothing.

On 164 training photos, shrunk to be sharp, with noise and JPEG artefacts added: 47 % of the
sharp ones score below 0.5, 6 % with 2 pixels of motion, 1 % with 3 pixels or more, 7 % with
10 pixels in their middle ninth alone (`benchmarks/blur_score.py`). The real sharp frames of
the training pairs score 0.26 to 0.54, their blurry ones 0.74 to 0.98.
"""

from __future__ import annotations

import numpy as np

from .pixels import to_float

SHARP_BELOW = 0.5
"""Score under which a frame is taken for sharp. Missing a sharp frame costs time, missing a
blurry one leaves it blurry: the threshold is on the safe side."""

_FAR = 4
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHARP_RATIO, _SMOOTH_RATIO = 1 / 4, 1 / 16
_REGIONS = 3
_LEAST_TEXTURE = (20 / 255**2, 0.1)
"""Mean square difference that a region needs, as such and as a share of the whole picture's."""
_SMALLEST_SIDE = 3 * _REGIONS * _FAR


def measure_blur(frame: np.ndarray) -> float:
    """Return how blurry a frame is, 0 (sharp) to 1 (no detail along some direction).

    Args:
        frame: `[H, W, 3 or more]`, uint8, uint16, or float32 in 0..1. Where a side is less
            than 36 pixels, or nothing has texture, there is nothing to tell: 1.
    """
    luma = _luma(frame)
    if min(luma.shape) < _SMALLEST_SIDE:
        return 1.0
    noise = _noise_variance(luma)
    measured = [_region_ratio(region, noise) for region in _regions(luma)]
    mean_texture = float(np.mean([texture for _, texture in measured]))
    least = max(_LEAST_TEXTURE[0], _LEAST_TEXTURE[1] * mean_texture)
    ratios = [ratio for ratio, texture in measured if texture > least]
    if not ratios:
        return 1.0
    score = (_SHARP_RATIO - min(ratios)) / (_SHARP_RATIO - _SMOOTH_RATIO)
    return float(np.clip(score, 0, 1))


def _luma(frame: np.ndarray) -> np.ndarray:
    color = frame[..., :3]
    color = color if color.dtype == np.float32 else to_float(color)
    return color @ np.array([0.299, 0.587, 0.114], np.float32)


def _noise_variance(luma: np.ndarray) -> float:
    """Estimate white noise from second differences in both directions (Immerkaer, 1996)."""
    across = luma[:, 2:] - 2 * luma[:, 1:-1] + luma[:, :-2]
    both = across[2:] - 2 * across[1:-1] + across[:-2]
    # The median, and not the mean, so that edges do not count as noise.
    return float((np.median(np.abs(both)) / 0.6745 / 6) ** 2)


def _regions(luma: np.ndarray) -> list[np.ndarray]:
    return [
        region
        for rows in np.array_split(luma, _REGIONS, axis=0)
        for region in np.array_split(rows, _REGIONS, axis=1)
    ]


def _region_ratio(region: np.ndarray, noise: float) -> tuple[float, float]:
    """Return the least ratio of near to far differences, and the mean square of the far."""
    ratios, textures = [], []
    for direction in _DIRECTIONS:
        near, far = (_mean_square(region, direction, step) for step in (1, _FAR))
        ratios.append(max(near - 2 * noise, 0.0) / max(far - 2 * noise, 1e-9))
        textures.append(far - 2 * noise)
    return min(ratios), float(np.mean(textures))


def _mean_square(region: np.ndarray, direction: tuple[int, int], step: int) -> float:
    rows, columns = direction[0] * step, direction[1] * step
    height, width = region.shape
    first = region[: height - rows, max(0, -columns) : width - max(0, columns)]
    second = region[rows:, max(0, columns) : width - max(0, -columns)]
    difference = (first - second).ravel()
    return float(difference @ difference) / difference.size
