from __future__ import annotations

import math

import pytest
import torch
from video_deblur.restoration.adaptation.losses import log_error, spectrum_l1


def test_log_error_is_the_mean_logarithm_per_frame():
    target = torch.zeros(1, 3, 2, 4, 4)
    pred = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), 1.0)], dim=1)[None]
    expected = (math.log10(0.01 + 0.001) + math.log10(1 + 0.001)) / 2
    assert float(log_error(pred, target, floor=0.001)) == pytest.approx(expected, rel=1e-5)


def test_the_spectrum_of_a_constant_difference_is_one_value():
    # Orthonormal: a difference of 0.5 on 4 x 6 is 0.5 * sqrt(24) at zero frequency; the half
    # spectrum has 4 x 4 complex values.
    target = torch.randn(2, 3, 2, 4, 6)
    expected = 0.5 * math.sqrt(24) / (4 * 4 * 2)
    assert spectrum_l1(target + 0.5, target).tolist() == pytest.approx([expected] * 2, rel=1e-5)


def test_log_error_weighs_pixels_and_frames():
    target = torch.zeros(1, 3, 3, 1, 2)
    pred = torch.tensor([[0.1, 1.0], [5.0, 5.0], [0.2, 0.2]]).reshape(1, 1, 3, 1, 2)
    weights = torch.tensor([[0.75, 0.25], [0.0, 0.0], [0.1, 0.1]]).reshape(1, 1, 3, 1, 2)
    first, third = math.log10(0.75 * 0.01 + 0.25 * 1.0 + 0.001), math.log10(0.04 + 0.001)
    expected = (first + 0.2 * third) / 1.2
    pred = pred.expand_as(target)
    assert float(log_error(pred, target, 0.001, weights)) == pytest.approx(expected, rel=1e-5)
    alike = log_error(pred, target, 0.001, torch.full_like(weights, 0.3))
    assert float(alike) == pytest.approx(float(log_error(pred, target, 0.001)), rel=1e-5)
