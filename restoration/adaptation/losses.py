"""Losses of pixels: one value per clip, `[B]`. `pred` and `target` have equal shapes."""

from __future__ import annotations

import torch
from torch import Tensor


def log_error(
    pred: Tensor, target: Tensor, floor: float, weights: Tensor | None = None
) -> Tensor:
    """Return log10 of the mean square error per frame, averaged: PSNR with the sign turned.

    A frame blurred past repair weighs no more than one that can be mended.

    Args:
        pred: `[B, 3, T, H, W]` in -1..1.
        target: The same shape.
        floor: Added to the error: below it there is little left to win.
        weights: Of the pixels, `[B, 1, T, H, W]`; frames count by the sum of theirs. None: all
            count alike.
    """
    error = (pred - target).square()
    if weights is None:
        return (error.mean(dim=(1, 3, 4)) + floor).log10().mean(dim=1)
    total = weights.sum(dim=(1, 3, 4))
    error = (weights * error).sum(dim=(1, 3, 4)) / (pred.shape[1] * total).clamp_min(1e-6)
    logs = (error + floor).log10() * total
    return logs.sum(dim=1) / total.sum(dim=1).clamp_min(1e-6)


def spectrum_l1(pred: Tensor, target: Tensor) -> Tensor:
    """Return the L1 between the 2-D spectra of the last two axes.

    Used as MIMO-UNet does (arXiv 2108.05054); orthonormal, so that it is of the scale of
    the pixel differences.
    """
    difference = torch.fft.rfft2((pred - target).float(), norm="ortho")
    return torch.view_as_real(difference).abs().flatten(1).mean(1)
