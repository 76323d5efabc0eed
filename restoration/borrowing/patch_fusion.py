"""Fuse aligned pictures patch by patch in the Fourier domain.

After Delbracio & Sapiro, "Hand-held video deblurring via efficient Fourier aggregation" (arXiv
1509.05251). Pictures are `[K, 3, H, W]` of K aligned frames, float32, or bands of their rows;
the first of the three channels is luma, see `filters.to_luma_`.

Which patches are fused is known on the host: nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .filters import COARSE, box_averaged, uploaded

LEAST_CONFIDENCE = 0.02
"""Patches in which no neighbour is trusted more than this stay as they are."""
PATCH = 64
"""Side of the patches that are fused, in pixels."""
HOP = 48
"""Pixels from one patch to the next."""
MARGIN = PATCH - HOP
"""Pixels that neighbouring patches share, and by which the first begins before the frame."""
BATCH_VALUES = 2**21
"""Values of patches that are fused at once: bounds memory, and is faster than more."""
BAND_VALUES = 2**22
"""Values of aligned pictures that are held at once."""


def patch_rows_at_once(width: int, num_pictures: int) -> int:
    """Return how many rows of patches of `num_pictures` pictures are held at once."""
    return max(1, BAND_VALUES // (num_pictures * 3 * width * HOP))


def patch_bands(
    height: int, width: int, num_pictures: int
) -> Iterator[tuple[slice, int, int, tuple[int, int]]]:
    """Cut rows into bands of whole patches.

    Args:
        height: In pixels.
        width: In pixels.
        num_pictures: That are held at once.

    Yields:
        The rows of patches, the first row of pixels, one past the last, and how many rows to
        add on both sides.
    """
    count = num_patches(height)
    at_once = patch_rows_at_once(width, num_pictures)
    for start in range(0, count, at_once):
        stop = min(start + at_once, count)
        # Patch i covers rows i * HOP - MARGIN to i * HOP + HOP.
        first, last = start * HOP - MARGIN, stop * HOP
        padding = max(-first, 0), max(last - height, 0)
        yield slice(start, stop), max(first, 0), min(last, height), padding


def trusted_patches(confidences: list[Tensor], height: int, width: int) -> np.ndarray:
    """Tell in which patches each neighbour counts: bool `[K, rows, columns]`, on the host.

    Args:
        confidences: `[1, 1, h, w]` of each of the K neighbours, shrunk by `COARSE`.
        height: Of the frame, in pixels.
        width: Of the frame.
    """
    counts = num_patches(height), num_patches(width)
    coarse = torch.cat(confidences)
    side, hop, margin = PATCH // COARSE, HOP // COARSE, MARGIN // COARSE
    missing = [
        max((count - 1) * hop + side - margin - extent, 0)
        for count, extent in zip(counts, coarse.shape[2:], strict=True)
    ]
    padded = F.pad(coarse, (margin, missing[1], margin, missing[0]))
    most = F.max_pool2d(padded, side, stride=hop)[:, 0, : counts[0], : counts[1]]
    return (most > LEAST_CONFIDENCE).cpu().numpy()


def chosen_columns(chosen: np.ndarray, device: torch.device) -> list[Tensor]:
    """Put on a device which patches of each row are chosen.

    Args:
        chosen: bool `[rows, columns]`, on the host.
        device: Where to.

    Returns:
        Indices for each row, whose number is known without asking the device.
    """
    columns = [np.flatnonzero(row) for row in chosen]
    indices = uploaded(torch.from_numpy(np.concatenate(columns)), device)
    return list(indices.split([len(part) for part in columns]))


def empty_stack(num_pictures: int, rows: int, width: int, device: torch.device) -> Tensor:
    """Return room for pictures `[K, 3, rows, W]` with the margins that patches need."""
    columns = MARGIN + num_patches(width) * HOP
    return torch.empty(num_pictures, 3, rows, columns, device=device)


def repeat_edges_(stack: Tensor, padding: tuple[int, int], width: int) -> None:
    """Fill the margins of `empty_stack` with the first and last rows and columns."""
    above, last = padding[0], stack.shape[2] - padding[1]
    inner = stack[:, :, above:last]
    inner[..., :MARGIN] = inner[..., MARGIN : MARGIN + 1]
    inner[..., MARGIN + width :] = inner[..., MARGIN + width - 1 : MARGIN + width]
    stack[:, :, :above] = stack[:, :, above : above + 1]
    stack[:, :, last:] = stack[:, :, last - 1 : last]


def aggregate(stack: Tensor, columns: Sequence[Tensor], exponent: int) -> Tensor:
    """Fuse aligned pictures patch by patch.

    Equation 3 of Delbracio & Sapiro: spectra weighted by |v|^p, normalised over the pictures;
    the magnitudes are those of the luma, averaged over neighbouring frequencies.

    Args:
        stack: `[K, 3, H, W]` with margins, the frame itself first: whole rows of patches.
        columns: For each row of patches which ones to fuse, from `chosen_columns`.
        exponent: p, even.

    Returns:
        What is to be added to the frame, `[3, H, W]` with margins; bands overlap, and add up.
    """
    added = torch.zeros_like(stack[0])
    window = _window(stack.device)
    at_once = max(1, BATCH_VALUES // (len(stack) * 3 * PATCH**2))
    for row, chosen in enumerate(columns):
        if not len(chosen):
            continue
        rows = slice(row * HOP, row * HOP + PATCH)
        patches = stack[:, :, rows].unfold(-1, PATCH, HOP)
        gained = stack.new_zeros(patches.shape[3], 3, PATCH, PATCH)
        for part in chosen.split(at_once):
            if len(part) == len(gained):
                gained = _gained(patches, window, exponent)
            else:
                some = _gained(patches.index_select(3, part), window, exponent)
                gained.index_copy_(0, part, some)
        # Patches of even and of odd columns do not overlap among themselves.
        for parity in (0, 1):
            room = added[:, rows, parity * HOP :].unfold(-1, PATCH, 2 * HOP)
            room += rearrange(gained[parity::2], "n c h w -> c h n w")
    return added


def _gained(patches: Tensor, window: Tensor, exponent: int) -> Tensor:
    """Return what fusing patches `[K, 3, P, N, P]` adds to the first: `[N, 3, P, P]`."""
    patches = rearrange(patches, "k c h n w -> k n c h w")
    windowed = torch.mul(patches, window, out=patches.new_empty(patches.shape))
    return _mixed(windowed, exponent).sub_(windowed[0]).mul_(window)


def _mixed(patches: Tensor, exponent: int) -> Tensor:
    """Fuse patches `[K, N, 3, P, P]` of K pictures: `[N, 3, P, P]`."""
    spectra = torch.fft.rfft2(patches)
    luma = spectra[:, :, 0]
    power = box_averaged(luma.real.square() + luma.imag.square())
    # Over the largest, so that the exponent neither overflows nor lets all vanish.
    power /= power.amax(0).clamp_min_(1e-12)
    weights = power.square()
    for _ in range(exponent // 2 - 2):
        weights *= power
    weights /= weights.sum(0).clamp_min_(1e-12)
    # Real and imaginary parts side by side: products of real numbers.
    parts = torch.view_as_real(spectra).flatten(-2)
    doubled = (
        weights[:, :, None, :, :, None].expand(*weights.shape[:2], 1, -1, -1, 2).flatten(-2)
    )
    mixed = parts[0] * doubled[0]
    for part, weight in zip(parts[1:], doubled[1:], strict=True):
        mixed.addcmul_(part, weight)
    mixed = torch.view_as_complex(mixed.unflatten(-1, (-1, 2)))
    return torch.fft.irfft2(mixed, s=(PATCH, PATCH))


@lru_cache(maxsize=16)
def _window(device: torch.device) -> Tensor:
    """Return `[P, P]` whose squares sum to one over overlapping patches."""
    ramp = torch.sin((torch.arange(MARGIN) + 0.5) / MARGIN * math.pi / 2)
    line = torch.cat([ramp, ramp.new_ones(PATCH - 2 * MARGIN), ramp.flip(0)])
    return (line[:, None] * line).to(device)


def num_patches(length: int) -> int:
    """Return the patches along rows or columns: their windows sum to one up to the end."""
    return -(-(length + MARGIN) // HOP)
