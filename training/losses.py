"""Losses. `pred` and `target` have equal shapes; every loss is a mean."""

from __future__ import annotations

import torch
from torch import Tensor


def charbonnier(pred: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return the mean of `sqrt(difference^2 + epsilon^2)`, a smooth L1."""
    return ((pred - target).square() + epsilon**2).sqrt().mean()


def spectrum_l1(pred: Tensor, target: Tensor) -> Tensor:
    """Return the L1 between the 2-D spectra of the last two axes.

    Used as MIMO-UNet does (arXiv 2108.05054); orthonormal, so that it is of the scale of
    the pixel differences.
    """
    difference = torch.fft.rfft2((pred - target).float(), norm="ortho")
    return torch.view_as_real(difference).abs().mean()


def velocity_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Return L_base of Wang & Long: the mean square error of v per clip `[B]`."""
    return (pred - target).square().flatten(1).mean(1)


def coherence_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Return L_coh of Wang & Long: errors of the differences of neighbouring frames.

    Args:
        pred: `[B, C, T, H, W]`.
        target: The same shape.

    Returns:
        `[B]`; 0 for a single frame.
    """
    if pred.shape[2] < 2:
        return pred.new_zeros(pred.shape[0])
    return velocity_loss(pred.diff(dim=2), target.diff(dim=2))
