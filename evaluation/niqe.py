"""NIQE: naturalness of a frame without a reference (Mittal, Soundararajan & Bovik, 2013).

"Making a Completely Blind Image Quality Analyzer": statistics of locally normalised
luminance in blocks of 96x96 pixels, at two scales, are compared with those of pristine
photographs. Lower is more natural; blur and noise both raise it.

`niqe_pris_params.npz` holds mean and covariance of the pristine photographs as the authors
published them, with their 7x7 window: the file of BasicSR (Apache-2.0).
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import cv2
import numpy as np

_BLOCK = 96
"""Side of a block in pixels, the authors' choice; blocks do not overlap."""
_PARAMETERS = Path(__file__).parent / "niqe_pris_params.npz"
_LUMA = np.array([65.481, 128.553, 24.966])
"""Weights of BT.601 luma, from RGB in 0..1 to 16..235."""
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Right, below and the two diagonals, as (rows, columns)."""


def niqe(image: np.ndarray, *, data_range: float) -> float:
    """Return the distance from natural photographs, about 2 (pristine) to 20.

    Luma (BT.601, 16 to 235, rounded) is measured, in whole blocks from the top left, as the
    authors' MATLAB code does. With the few blocks of a small frame the figure is coarse:
    compare it with the sharp frame's, not across sizes.

    Args:
        image: `[H, W, 3]` RGB.
        data_range: Difference between white and black: 255 for uint8, 1 for 0..1.

    Returns:
        The distance; nan when fewer than two blocks have any texture.

    Raises:
        ValueError: If the image holds fewer than two blocks.
    """
    rows, columns = image.shape[0] // _BLOCK, image.shape[1] // _BLOCK
    if rows * columns < 2:
        raise ValueError(
            f"NIQE needs two blocks of {_BLOCK}x{_BLOCK} pixels, got {list(image.shape)}"
        )
    luma = np.rint(image.astype(np.float64) @ _LUMA / data_range + 16)
    luma = luma[: rows * _BLOCK, : columns * _BLOCK]
    scales = ((luma, _BLOCK), (_halve(luma), _BLOCK // 2))
    features = np.concatenate([_features(plane, side) for plane, side in scales], axis=1)
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < 2:
        return float("nan")
    mean, covariance, _ = _pristine()
    difference = mean - np.nanmean(features, axis=0)
    spread = (covariance + np.cov(complete, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(spread) @ difference))


@cache
def _pristine() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean [36], covariance [36, 36] and the smoothing window [7, 7]."""
    with np.load(_PARAMETERS) as values:
        return (
            values["mu_pris_param"][0],
            values["cov_pris_param"],
            values["gaussian_window"],
        )


def _features(luma: np.ndarray, side: int) -> np.ndarray:
    """Return 18 statistics of each block `[N, 18]`; nan where a block is flat."""
    window = _pristine()[2]
    mean = cv2.filter2D(luma, -1, window, borderType=cv2.BORDER_REPLICATE)
    square = cv2.filter2D(luma**2, -1, window, borderType=cv2.BORDER_REPLICATE)
    deviation = luma - mean
    # Flat areas must count as neither side of zero. Left to rounding errors they moved the
    # published value for baboon.png (MATLAB: 5.729573) to 5.72996.
    deviation[np.abs(deviation) < 1e-9] = 0
    normalised = deviation / (np.sqrt(np.abs(square - mean**2)) + 1)
    rows, columns = luma.shape[0] // side, luma.shape[1] // side
    blocks = normalised.reshape(rows, side, columns, side).swapaxes(1, 2)
    blocks = blocks.reshape(rows * columns, side, side)

    shape, left, right, _ = _asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        shape, left, right, mean_factor = _asymmetric_gaussian(products)
        features += [shape, (right - left) * mean_factor, left, right]
    return np.stack(features, axis=1)


def _asymmetric_gaussian(
    blocks: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit an asymmetric generalised Gaussian to each block by its moments.

    Returns:
        Shape, left and right scale, and the factor from their difference to the mean
        (equation 8 of the paper), each `[N]`.
    """
    shapes, ratios, scales, mean_factors = _gaussian_table()
    values = blocks.reshape(len(blocks), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = values**2
        below, above = values < 0, values > 0
        left = np.sqrt((squares * below).sum(1) / below.sum(1))
        right = np.sqrt((squares * above).sum(1) / above.sum(1))
        skew = left / right
        ratio = np.abs(values).mean(1) ** 2 / squares.mean(1)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    index = np.argmin(np.abs(ratios - ratio[:, None]), axis=1)
    return shapes[index], left * scales[index], right * scales[index], mean_factors[index]


@cache
def _gaussian_table() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return shapes 0.2 to 10 and, for each, moment ratio, scale and mean factor."""
    shapes = np.arange(0.2, 10.001, 0.001)
    one, two, three = (
        np.array([math.gamma(order / shape) for shape in shapes]) for order in (1, 2, 3)
    )
    return shapes, two**2 / (one * three), np.sqrt(one / three), two / one


def _halve(luma: np.ndarray) -> np.ndarray:
    """Halve both sides as MATLAB's `imresize` does: bicubic, widened against aliasing."""
    distance = (np.arange(8) - 3.5) / 2
    near, far = np.abs(distance) <= 1, np.abs(distance) > 1
    size = np.abs(distance)
    taps = near * (1.5 * size**3 - 2.5 * size**2 + 1)
    taps += far * (-0.5 * size**3 + 2.5 * size**2 - 4 * size + 2)
    taps /= taps.sum()
    filtered = cv2.sepFilter2D(
        luma, -1, taps, taps, anchor=(3, 3), borderType=cv2.BORDER_REFLECT
    )
    return filtered[::2, ::2]
