"""PSNR and SSIM against scikit-image and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from video_deblur.evaluation.fidelity import psnr, ssim, ssim_across_channels


@pytest.fixture(params=[(40, 56), (11, 11), (33, 27)])
def pair(request) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (*request.param, 3)).astype(np.uint8)
    noise = rng.normal(0, 20, target.shape)
    return (target + noise).clip(0, 255).astype(np.uint8), target


def test_psnr_equals_scikit_image(pair):
    pred, target = pair
    expected = peak_signal_noise_ratio(target, pred, data_range=255)
    assert psnr(pred, target, data_range=255) == pytest.approx(expected, abs=1e-9)


def test_ssim_equals_scikit_image(pair):
    pred, target = pair
    expected = structural_similarity(
        target,
        pred,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(pred, target, data_range=255) == pytest.approx(expected, abs=1e-9)


def test_ssim_across_channels_filters_all_three_axes(pair):
    x, y = (image.astype(np.float64) / 255 for image in pair)
    blurred = {
        name: gaussian_filter(values, 1.5)
        for name, values in {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}.items()
    }
    mean_x, mean_y = blurred["x"], blurred["y"]
    covariance = blurred["xy"] - mean_x * mean_y
    variances = blurred["xx"] - mean_x**2 + blurred["yy"] - mean_y**2
    numerator = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    expected = numerator / ((mean_x**2 + mean_y**2 + 1e-4) * (variances + 9e-4))
    value = ssim_across_channels(*pair, data_range=255)
    assert value == pytest.approx(expected.mean(), abs=1e-9)
    assert value != pytest.approx(ssim(*pair, data_range=255), abs=1e-3)


def test_the_range_scales_with_the_values(pair):
    pred, target = (image / 255 for image in pair)
    in_bytes = psnr(*pair, data_range=255)
    assert psnr(pred, target, data_range=1) == pytest.approx(in_bytes)
    assert ssim(pred, target, data_range=1) == pytest.approx(ssim(*pair, data_range=255))


def test_equal_images_are_perfect(pair):
    _, target = pair
    assert psnr(target, target, data_range=255) == float("inf")
    assert ssim(target, target, data_range=255) == pytest.approx(1)


def test_ssim_refuses_images_smaller_than_its_window():
    image = np.zeros((10, 40, 3), np.uint8)
    for function in (ssim, ssim_across_channels):
        with pytest.raises(ValueError, match="at least 11x11"):
            function(image, image, data_range=255)
