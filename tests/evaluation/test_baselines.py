"""Classical methods on straight blur made here, of photographs that scikit-image ships."""

from __future__ import annotations

import math
import sys

import cv2
import numpy as np
import pytest
from skimage import data
from video_deblur.evaluation.baselines import (
    BASELINES,
    RichardsonLucy,
    UnsharpMask,
    UnsupervisedWiener,
    Wiener,
    guess_motion,
    motion_kernel,
    restore_clip,
)
from video_deblur.evaluation.fidelity import psnr


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return data.chelsea()[20:276, 60:316]


def blurred(photo: np.ndarray, motion: tuple[float, float]) -> np.ndarray:
    """Smear a photo, uint8, with the rounding of 8 bits and a little noise."""
    noise = np.random.default_rng(0).normal(0, 1, photo.shape)
    smeared = cv2.filter2D(photo.astype(np.float64), -1, motion_kernel(motion)) + noise
    return np.rint(smeared).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("motion", [(10, 0), (0, 8), (7, 7), (-12, 5), (20, 3)])
def test_the_motion_of_a_blur_is_found(photo, motion):
    found = guess_motion(blurred(photo, motion) / 255)
    assert found is not None
    sign = math.copysign(1, np.dot(found, motion))
    assert np.hypot(*np.subtract(motion, np.multiply(sign, found))) <= 1


@pytest.mark.parametrize("flat", [False, True])
def test_no_motion_is_found_where_there_is_none(photo, flat):
    frame = np.full_like(photo, 90) if flat else photo
    assert guess_motion(frame / 255) is None
    for baseline in (RichardsonLucy(), Wiener(), UnsupervisedWiener()):
        restored = restore_clip(baseline, frame[None])
        assert np.array_equal(restored, frame[None].astype(np.float32) / np.float32(255))


def test_kernels_are_straight_and_sum_to_one():
    kernel = motion_kernel((6, 0))
    assert kernel.sum() == pytest.approx(1)
    assert kernel.shape == (9, 9)
    line = kernel[4]
    assert line.sum() == pytest.approx(1)
    assert line[2:7] == pytest.approx(np.full(5, 1 / 6), rel=0.1)
    y, x = np.mgrid[:9, :9] - 4
    assert (kernel * x).sum() == pytest.approx(0, abs=1e-12)
    diagonal = motion_kernel((3, -5))
    assert diagonal == pytest.approx(diagonal[::-1, ::-1])
    along = (y * 3 + x * 5)[diagonal > 0]
    assert np.abs(along).max() <= 3 + 5


@pytest.mark.parametrize(("name", "gain"), [("richardson_lucy", 2), ("wiener", 1)])
def test_deconvolution_mends_straight_blur(photo, name, gain):
    blurry = blurred(photo, (9, 4))
    (restored,) = restore_clip(BASELINES[name](), blurry[None])
    before = psnr(blurry, photo, data_range=255)
    assert psnr(restored, photo / 255, data_range=1) > before + gain


def test_unsupervised_wiener_mends_clean_blur_and_repeats_itself(photo):
    baseline = UnsupervisedWiener(max_iterations=40)
    crop = photo[:160, :160]
    clean = cv2.filter2D(crop / 255, -1, motion_kernel((8, 0))).astype(np.float32)
    restored = baseline.restore(clean)
    assert np.array_equal(restored, baseline.restore(clean))
    assert restored.min() >= 0
    assert restored.max() <= 1
    sharpness = [cv2.Laplacian(x, cv2.CV_32F).var() for x in (clean, restored)]
    assert sharpness[1] > 2 * sharpness[0]


def test_unsharp_masking_equals_scikit_image(photo):
    from skimage.filters import unsharp_mask

    frame = photo.astype(np.float32) / 255
    planes = [unsharp_mask(frame[..., i].copy(), radius=2, amount=0.5) for i in range(3)]
    expected = np.stack(planes, axis=-1)
    restored = UnsharpMask(sigma=2, amount=0.5).restore(frame)
    # The two cut the Gaussian off at different widths and treat the borders differently.
    assert np.abs(restored - expected)[16:-16, 16:-16].max() < 0.002
    assert np.abs(restored - frame).max() > 0.1


def test_a_missing_scikit_image_is_named(photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    with pytest.raises(ValueError, match="needs scikit-image: pip install scikit-image"):
        restore_clip(RichardsonLucy(), photo[None])
