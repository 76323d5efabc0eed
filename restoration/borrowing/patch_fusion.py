"""Fuse aligned pictures patch by patch in the Fourier domain.

After Delbracio & Sapiro, "Hand-held video deblurring via efficient Fourier aggregation" (arXiv
1509.05251). Pictures are `[K, 3, H, W]` of K aligned frames, float32, or bands of their rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .registration import LUMA

LEAST_CONFIDENCE = 0.02
"""Patches in which no neighbour is trusted more than this stay as they are."""
_PATCH = 64
"""Side of the patches that are fused, in pixels."""
_HOP = 48
"""Pixels from one patch to the next."""
BATCH_VALUES = 2**22
"""Values of patches that are fused at once: bounds memory."""
BAND_VALUES = 2**22
"""Values of aligned pictures that are held at once."""


def patch_bands(
    height: int, width: int, num_pictures: int
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Cut rows into bands of whole patches.

    Args:
        height: In pixels.
        width: In pixels.
        num_pictures: That are held at once.

    Yields:
        First row, one past the last, and how many rows to add on both sides.
    """
    margin, patch_rows = _PATCH - _HOP, _num_patches(height)
    at_once = max(1, BAND_VALUES // (num_pictures * 3 * width * _HOP))
    for start in range(0, patch_rows, at_once):
        # Patch i covers rows i * _HOP - margin to i * _HOP + _HOP.
        first, last = start * _HOP - margin, min(start + at_once, patch_rows) * _HOP
        yield max(first, 0), min(last, height), (max(-first, 0), max(last - height, 0))


def aggregate(stack: Tensor, taken: Tensor, padding: tuple[int, int], exponent: int) -> Tensor:
    """Fuse aligned pictures patch by patch, where something is taken from any of them.

    Equation 3 of Delbracio & Sapiro: spectra weighted by |v|^p, normalised over the pictures;
    the magnitudes are those of the luma, averaged over neighbouring frequencies.

    Args:
        stack: `[K, 3, H, W]`, the frame itself first, or a band of `patch_bands`.
        taken: `[1, 1, H, W]`, above 0 where a neighbour counts.
        padding: Rows to repeat before the first and after the last one.
        exponent: p.

    Returns:
        What is to be added to the frame, `[1, 3, H, W]`; bands overlap, and add up.
    """
    height, width = stack.shape[2:]
    margin = _PATCH - _HOP
    pad = (margin, _num_patches(width) * _HOP - width, *padding)
    padded = F.pad(stack, pad, mode="replicate")
    window = _window(stack.device)
    patches = _patches(padded)
    where = _patches(F.pad(taken, pad)).amax(dim=(0, 1, 4, 5)) > LEAST_CONFIDENCE
    # What the patches add to the frame: nothing where none was fused.
    added = padded.new_zeros(*where.shape, 3, _PATCH, _PATCH)
    places = torch.nonzero(where)
    size = max(1, BATCH_VALUES // (len(stack) * 3 * _PATCH**2))
    for rows, columns in (part.unbind(1) for part in places.split(size)):
        chosen = patches[:, :, rows, columns]
        mixed = _mixed(rearrange(chosen, "k c n h w -> k n c h w") * window, exponent)
        own = rearrange(chosen[0], "c n h w -> n c h w") * window
        added[rows, columns] = (mixed - own) * window
    folded = F.fold(
        rearrange(added, "r q c h w -> 1 (c h w) (r q)"),
        padded.shape[2:],
        kernel_size=_PATCH,
        stride=_HOP,
    )
    return folded[..., padding[0] : padding[0] + height, margin : margin + width]


def _mixed(patches: Tensor, exponent: int) -> Tensor:
    """Fuse patches `[K, N, 3, P, P]` of K pictures: `[N, 3, P, P]`."""
    spectra = torch.fft.rfft2(patches)
    luma = (spectra * LUMA.to(spectra)[:, None, None]).sum(2)
    power = torch.view_as_real(luma).square().sum(-1)
    power = F.avg_pool2d(F.pad(power, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    # Over the largest, so that the exponent neither overflows nor lets all vanish.
    weights = (power / power.amax(0).clamp_min(1e-12)).pow(exponent // 2)
    weights = weights / weights.sum(0).clamp_min(1e-12)
    mixed = (spectra * weights[:, :, None]).sum(0)
    return torch.fft.irfft2(mixed, s=(_PATCH, _PATCH))


def _patches(pictures: Tensor) -> Tensor:
    """View `[K, C, H, W]` as overlapping patches `[K, C, rows, columns, P, P]`."""
    return pictures.unfold(2, _PATCH, _HOP).unfold(3, _PATCH, _HOP)


def _window(device: torch.device) -> Tensor:
    """Return `[P, P]` whose squares sum to one over overlapping patches."""
    overlap = _PATCH - _HOP
    ramp = torch.sin((torch.arange(overlap, device=device) + 0.5) / overlap * math.pi / 2)
    line = torch.cat([ramp, ramp.new_ones(_PATCH - 2 * overlap), ramp.flip(0)])
    return line[:, None] * line


def _num_patches(length: int) -> int:
    """Return the patches along rows or columns: their windows sum to one up to the end."""
    return -(-(length + _PATCH - _HOP) // _HOP)
