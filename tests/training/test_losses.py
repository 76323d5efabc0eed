from __future__ import annotations

import pytest
import torch
from video_deblur.training.losses import (
    annealed,
    charbonnier,
    coherence_loss,
    high_frequency_l1,
    min_snr_weight,
    velocity_loss,
)


def test_velocity_loss_is_a_mean_per_clip():
    target = torch.zeros(2, 1, 2, 1, 2)
    pred = torch.tensor([[1.0, 1, 1, 1], [2, 0, 0, 0]]).reshape(2, 1, 2, 1, 2)
    assert velocity_loss(pred, target).tolist() == [1.0, 1.0]


def test_coherence_sees_differences_of_neighbouring_frames_only():
    target = torch.randn(2, 3, 4, 5, 6)
    same_for_all_frames = torch.randn(2, 3, 1, 5, 6)
    loss = coherence_loss(target + same_for_all_frames, target)
    torch.testing.assert_close(loss, torch.zeros(2), atol=1e-10, rtol=0)
    flicker = torch.tensor([0.0, 1, 0, 1])[:, None, None]
    torch.testing.assert_close(coherence_loss(target + flicker, target), torch.ones(2))
    assert coherence_loss(target[:, :, :1], target[:, :, :1] + 1).tolist() == [0, 0]


def test_min_snr_weighs_as_the_paper_does_for_v():
    alpha = torch.tensor([0.1, 0.8, 0.999, 1.0, 0.0])
    sigma = (1 - alpha**2).sqrt()
    snr = (alpha / sigma) ** 2
    expected = snr.clamp(max=5) / (snr + 1)
    expected[3:] = 0  # without noise, without signal
    torch.testing.assert_close(min_snr_weight(alpha, sigma, 5.0), expected)


def test_charbonnier_is_the_difference_where_that_is_large_and_soft_at_zero():
    target = torch.zeros(2, 1, 4, 4)
    pred = torch.stack([torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4)])
    assert charbonnier(pred, target).tolist() == pytest.approx([0.500001, 1e-3], rel=1e-5)


def test_high_frequencies_leave_out_what_a_pyramid_ends_in():
    target = torch.rand(1, 1, 16, 16)
    constant = high_frequency_l1(target + 0.3, target)
    torch.testing.assert_close(constant, torch.zeros(1), atol=1e-6, rtol=0)
    board = torch.arange(16)[:, None] + torch.arange(16)
    checks = (board % 2) * 2.0 - 1
    # Averages over 2x2 pixels are zero: all of it is on the finest level.
    assert high_frequency_l1(target + 0.1 * checks, target).tolist() == pytest.approx([0.1])
    # Blocks of 2x2 are on the second level, and a part of them on the first.
    blocks = torch.arange(16)[:, None] // 2 + torch.arange(16) // 2
    coarse = high_frequency_l1(target + 0.1 * ((blocks % 2) * 2.0 - 1), target)
    assert 0.1 < float(coarse) < 0.2


def test_high_frequencies_are_defined_for_single_pixels():
    assert high_frequency_l1(torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)).tolist() == [0, 0]


def test_annealing_goes_evenly_in_logarithms():
    assert annealed((1e-2, 1e-4), 0.0) == pytest.approx(1e-2)
    assert annealed((1e-2, 1e-4), 0.5) == pytest.approx(1e-3)
    assert annealed((1e-2, 1e-4), 1.0) == pytest.approx(1e-4)
