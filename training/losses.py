"""Losses beside those of `restoration/adaptation/losses.py`, which adaptation has in common.

One value per clip, `[B]`. `pred` and `target` have equal shapes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def charbonnier(pred: Tensor, target: Tensor, softness: float = 1e-3) -> Tensor:
    """Return the mean of sqrt(difference^2 + softness^2), a smooth L1."""
    return ((pred - target).square() + softness**2).sqrt().flatten(1).mean(1)


def high_frequency_l1(pred: Tensor, target: Tensor, num_levels: int = 3) -> Tensor:
    """Return the L1 between the levels of Laplacian pyramids, without what is left over.

    A level is what averages over 2x2 pixels do not hold; each is weighted as the finest.

    Args:
        pred: `[B, C, H, W]`.
        target: The same shape.
        num_levels: Fewer where a side ends at one pixel.
    """
    # A pyramid is linear: that of the difference is the difference of theirs.
    rest = (pred - target).float()
    loss = rest.new_zeros(len(rest))
    for _ in range(num_levels):
        if min(rest.shape[2:]) < 2:
            break
        coarse = F.avg_pool2d(rest, 2, ceil_mode=True, count_include_pad=False)
        level = rest - F.interpolate(coarse, rest.shape[2:], mode="bilinear")
        loss = loss + level.abs().flatten(1).mean(1)
        rest = coarse
    return loss


def velocity_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Return L_base of Wang & Long: the mean square error of v."""
    return (pred - target).square().flatten(1).mean(1)


def coherence_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Return L_coh of Wang & Long: errors of the differences of neighbouring frames.

    Args:
        pred: `[B, C, T, H, W]`.
        target: The same shape.

    Returns:
        `[B]`; 0 for clips of a single frame.
    """
    if pred.shape[2] < 2:
        return pred.new_zeros(pred.shape[0])
    return velocity_loss(pred.diff(dim=2), target.diff(dim=2))


def min_snr_weight(alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Return the min-SNR weight of v-prediction, `min(SNR, gamma) / (SNR + 1)`.

    After Hang et al. (arXiv 2303.09556). With alpha^2 + sigma^2 = 1 the denominator turns
    errors of v into errors of the clean latents in units of SNR.

    Args:
        alpha: Signal level per clip `[B]`.
        sigma: Noise level per clip `[B]`; 0 is allowed.
        gamma: Largest SNR that counts.
    """
    # Multiplied out by sigma^2, so that sigma = 0 divides nothing by zero.
    return torch.minimum(alpha**2, gamma * sigma**2) / (alpha**2 + sigma**2)


def annealed(ends: tuple[float, float], progress: float) -> float:
    """Go from the first to the second value, evenly in their logarithms."""
    return ends[0] * (ends[1] / ends[0]) ** progress
