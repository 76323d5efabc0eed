"""The high-frequency shares on gratings, where the answer is the filter's response."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data
from video_deblur.evaluation.high_frequency import energy_share, matched_share


def grating(frequency: float, *, amplitude: float = 50, phase: float = 0) -> np.ndarray:
    """Grey waves along x of `frequency` cycles per pixel, 128 x 160."""
    wave = amplitude * np.cos(2 * np.pi * frequency * np.arange(160) + phase)
    return np.broadcast_to((128 + wave)[None, :, None], (128, 160, 3))


def test_a_blurred_grating_keeps_what_the_blur_lets_through():
    # A box of 3 pixels lets (1 + 2 cos(2 pi f)) / 3 of the amplitude through.
    passed = (1 + 2 * np.cos(2 * np.pi * 0.2)) / 3
    blurred = grating(0.2, amplitude=50 * passed)
    assert energy_share(blurred, grating(0.2)) == pytest.approx(passed**2, rel=1e-6)
    assert matched_share(blurred, grating(0.2)) == pytest.approx(passed, rel=1e-6)


def test_coarse_waves_are_outside_the_band():
    fine, coarse = grating(0.3), grating(0.05)
    both = fine + coarse - 128
    assert energy_share(both, fine) == pytest.approx(1, abs=1e-3)
    assert energy_share(coarse, fine) < 1e-3


def test_detail_in_the_wrong_place_is_energy_without_a_match():
    opposite = grating(0.2, phase=np.pi)
    assert energy_share(opposite, grating(0.2)) == pytest.approx(1)
    assert matched_share(opposite, grating(0.2)) == pytest.approx(-1)
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 40, (2, 128, 160, 3))
    assert energy_share(*noise) == pytest.approx(1, abs=0.1)
    assert matched_share(*noise) == pytest.approx(0, abs=0.1)


def test_shares_do_not_depend_on_the_range():
    photo = data.chelsea()
    soft = (photo + np.roll(photo, 1, axis=1).astype(float)) / 2
    for share in (energy_share, matched_share):
        assert share(soft / 255, photo / 255) == pytest.approx(share(soft, photo))
        assert share(photo, photo) == pytest.approx(1)


def test_the_energy_equals_a_periodogram():
    from scipy.signal import periodogram

    # One row repeated: all energy lies on the axis fy = 0, smeared only by the window.
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 20, (2, 160))
    frequencies, power = periodogram(rows, window=np.hanning(162)[1:-1], detrend=False)
    images = [np.broadcast_to((128 + row)[None, :, None], (128, 160, 3)) for row in rows]
    inside = frequencies >= 1 / 8
    expected = power[0, inside].sum() / power[1, inside].sum()
    assert energy_share(*images) == pytest.approx(expected, rel=0.05)


def test_a_sharp_frame_without_detail_has_no_share():
    flat = np.full((32, 32, 3), 90, np.uint8)
    assert np.isnan(energy_share(flat, flat))
    assert np.isnan(matched_share(flat, flat))


def test_tiny_frames_are_refused():
    with pytest.raises(ValueError, match="at least 16x16"):
        energy_share(np.zeros((8, 40, 3)), np.zeros((8, 40, 3)))
