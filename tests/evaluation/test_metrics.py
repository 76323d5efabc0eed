"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from video_deblur.evaluation.metrics import psnr, ssim


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
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(image, image, data_range=255)
