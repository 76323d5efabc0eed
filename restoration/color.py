"""Take the low frequencies, that is colour and exposure, from the blurry frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 5
"""Levels of the a-trous decomposition, as DiffBIR's colour fix uses."""


def match_color(restored: Tensor, blurry: Tensor) -> Tensor:
    """Replace the low frequencies of the restored frames by those of the blurry ones.

    Motion blur leaves low frequencies nearly alone, so what differs there is drift. The
    decomposition is an a-trous wavelet with a 3x3 binomial kernel, five levels.

    Args:
        restored: `[T, H, W, 3]`.
        blurry: The same shape.

    Returns:
        `[T, H, W, 3]`, not clamped.
    """
    # The filter is linear: the low frequencies of the difference are what to take away.
    difference = (restored - blurry).movedim(-1, 1)
    return restored - _low_frequencies(difference).movedim(1, -1)


def _low_frequencies(images: Tensor) -> Tensor:
    line = torch.tensor([0.25, 0.5, 0.25]).to(images)
    kernel = (line[:, None] * line)[None, None].expand(images.shape[1], 1, 3, 3)
    for level in range(_LEVELS):
        radius = 2**level
        padded = F.pad(images, (radius,) * 4, mode="replicate")
        images = F.conv2d(padded, kernel, groups=images.shape[1], dilation=radius)
    return images
