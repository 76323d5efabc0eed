"""NIQE against BasicSR, on photographs that scikit-image ships.

Not a test, as the picture cannot be shipped: baboon.png of BasicSR's repository has 5.72957338
by the authors' MATLAB code, and 5.72957388 here.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data
from video_deblur.evaluation.niqe import niqe

BASICSR = {"chelsea": (2.6255364, 8.4210128), "coffee": (4.1152416, 8.0570604)}
"""`calculate_niqe(image, crop_border=0)` of BasicSR 1.4.2 in float32: of the photograph, and
of its blur by `cv2.GaussianBlur(image, (0, 0), 2)`."""
TOLERANCE = 1e-4
"""Relative. In float32 flat areas are left to rounding errors."""


@pytest.mark.parametrize("name", BASICSR)
def test_niqe_equals_basicsr(name):
    photo = getattr(data, name)()
    sharp, blurred = BASICSR[name]
    assert niqe(photo, data_range=255) == pytest.approx(sharp, rel=TOLERANCE)
    soft = cv2.GaussianBlur(photo, (0, 0), 2)
    assert niqe(soft, data_range=255) == pytest.approx(blurred, rel=TOLERANCE)


def test_the_range_scales_with_the_values():
    photo = data.chelsea()[:192, :192]
    scaled = niqe(photo / 255, data_range=1)
    assert scaled == pytest.approx(niqe(photo, data_range=255), rel=1e-6)


def test_blur_and_noise_both_raise_it():
    photo = data.chelsea()
    noise = np.random.default_rng(0).normal(0, 25, photo.shape)
    noisy = (photo + noise).clip(0, 255).astype(np.uint8)
    motion = cv2.blur(photo, (9, 1))
    pristine = niqe(photo, data_range=255)
    assert niqe(motion, data_range=255) > pristine + 1
    assert niqe(noisy, data_range=255) > pristine + 1


def test_flat_blocks_do_not_count():
    photo = data.chelsea()[:192, :288].copy()
    photo[:96, :96] = 0
    value = niqe(photo, data_range=255)
    assert np.isfinite(value)
    assert np.isnan(niqe(np.full((192, 192, 3), 80, np.uint8), data_range=255))


def test_frames_of_one_block_are_refused():
    with pytest.raises(ValueError, match="two blocks of 96x96"):
        niqe(np.zeros((120, 150, 3), np.uint8), data_range=255)
