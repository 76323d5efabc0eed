"""Full-reference metrics. Images are `[H, W, 3]` RGB."""

from __future__ import annotations

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
    if min(pred.shape[:2]) < 11:
        raise ValueError(f"SSIM needs at least 11x11 pixels, got {list(pred.shape)}")
    x, y = pred.astype(np.float64), target.astype(np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float((numerator / denominator)[5:-5, 5:-5].mean())


def _blur(image: Image) -> Image:
    return cv2.GaussianBlur(image, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)
