"""Blur kernels of frames whose sharp version is known, and frames blurred by them.

One kernel per frame, `[T, N, N]`, N odd: over a crop of some ten pixels more than the kernel,
motion is nearly the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

RADIUS = 15
"""Of the kernels, in pixels: 31 pixels of motion."""
_NOISE = 0.01
"""Added to the power of each frequency, as a share of the mean power (Wiener)."""
_LEAST = 0.08
"""Values below this share of a kernel's largest are taken for ringing."""


def blur_kernels(sharp: Tensor, blurry: Tensor) -> Tensor:
    """Find what turns each sharp frame into its blurry one.

    Args:
        sharp: `[T, H, W, 3]`, float32, sides of at least `2 * RADIUS + 1`.
        blurry: The same shape.

    Returns:
        Not negative, of sum 1; where nothing is found, a kernel that changes nothing.
    """
    height, width = sharp.shape[1:3]
    window = torch.hann_window(height, device=sharp.device)[:, None]
    window = window * torch.hann_window(width, device=sharp.device)
    first, second = (clip.mean(-1) for clip in (sharp, blurry))
    mean = first.mean((1, 2), keepdim=True)
    theirs = torch.fft.rfft2((first - mean) * window)
    ours = torch.fft.rfft2((second - mean) * window)
    power = theirs.abs().square()
    noise = _NOISE * power.mean((1, 2), keepdim=True) + 1e-3
    found = torch.fft.irfft2(theirs.conj() * ours / (power + noise), s=(height, width))
    side = 2 * RADIUS + 1
    kernels = found.roll((RADIUS, RADIUS), (1, 2))[:, :side, :side].clamp_min(0)
    kernels = kernels * (kernels > _LEAST * kernels.amax((1, 2), keepdim=True))
    total = kernels.sum((1, 2), keepdim=True)
    unchanged = torch.zeros_like(kernels[0])
    unchanged[RADIUS, RADIUS] = 1
    return torch.where(total > 1e-6, kernels / total.clamp_min(1e-6), unchanged)


def blurred(frames: Tensor, kernels: Tensor) -> Tensor:
    """Blur each frame by its kernel.

    Args:
        frames: `[T, H, W, 3]`, float32.
        kernels: `[T, N, N]`.

    Returns:
        The shape of the frames.
    """
    radius = kernels.shape[-1] // 2
    padded = F.pad(rearrange(frames, "t h w c -> c t h w"), (radius,) * 4, mode="replicate")
    # PyTorch correlates; a kernel that was found by division convolves.
    kernels = rearrange(kernels.flip(1, 2), "t h w -> t 1 h w")
    result = F.conv2d(padded, kernels, groups=len(kernels))
    return rearrange(result, "c t h w -> t h w c")
