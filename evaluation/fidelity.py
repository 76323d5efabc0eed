"""How close a frame is to its sharp one. Frames are `[H, W, 3]` RGB."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Image = np.ndarray


def psnr(pred: Image, target: Image, *, data_range: float) -> float:
    """Return the peak signal-to-noise ratio in dB over all channels; inf when equal.

    Args:
        pred: Any shape.
        target: The same shape.
        data_range: Difference between white and black: 255 for uint8, 1 for 0..1.
    """
    difference = pred.astype(np.float64) - target.astype(np.float64)
    mean_square = float(np.mean(difference**2))
    return float("inf") if mean_square == 0 else 10 * np.log10(data_range**2 / mean_square)


def ssim(pred: Image, target: Image, *, data_range: float) -> float:
    """Return the structural similarity, mean over channels (Wang et al., 2004).

    Gaussian window of 11x11 with sigma 1.5, population covariance, without the 5-pixel
    border where the window leaves the image: MATLAB's `ssim` and scikit-image with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.

    Raises:
        ValueError: If an image is smaller than the window.
    """
    _check_size(pred)
    return float(_similarity(pred, target, _blur, data_range)[5:-5, 5:-5].mean())


def ssim_across_channels(pred: Image, target: Image, *, data_range: float) -> float:
    """Return the structural similarity as Shift-Net and BSSTNet compute theirs.

    Their Gaussian of sigma 1.5 runs over rows, columns *and* the three channels (13 taps,
    reflected at the borders), and no border is left out. Usually higher than `ssim`: only
    for comparing with their figures.

    Raises:
        ValueError: If an image is smaller than the window of `ssim`.
    """
    _check_size(pred)
    return float(_similarity(pred, target, _blur_with_channels, data_range).mean())


def _check_size(image: Image) -> None:
    if min(image.shape[:2]) < 11:
        raise ValueError(f"SSIM needs at least 11x11 pixels, got {list(image.shape)}")


def _similarity(
    pred: Image, target: Image, blur: Callable[[Image], Image], data_range: float
) -> Image:
    x, y = pred.astype(np.float64), target.astype(np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x**2
    var_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def _blur(image: Image) -> Image:
    return cv2.GaussianBlur(image, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)


def _blur_with_channels(image: Image) -> Image:
    taps = cv2.getGaussianKernel(13, 1.5, cv2.CV_64F)[:, 0]
    mix = np.zeros((3, 3))
    for channel in range(3):
        for offset, weight in zip(range(-6, 7), taps, strict=True):
            place = (channel + offset) % 6
            mix[channel, min(place, 5 - place)] += weight
    blurred = cv2.GaussianBlur(image, (13, 13), 1.5, borderType=cv2.BORDER_REFLECT)
    return blurred @ mix.T
