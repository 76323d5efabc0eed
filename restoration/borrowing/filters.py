"""Filters of multi-frame fusion, as few large operations on pictures `[K, C, H, W]`.

A blur is a product with a banded matrix, block by block: on a CPU several times faster than a
convolution of one channel, and in float32 on CUDA too, where convolutions may round to TF32.
What depends on sizes and devices alone is made once for each and kept.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE = 4
"""Agreement and sharpness are compared on pictures shrunk by this factor."""
BAND_PIXELS = 2**18
"""Pixels that are compared at once: bounds memory, and is faster than more."""
BAND_MARGIN = 12
"""Rows around a band on which its detail depends (8 of a blur, 1 of a change), a multiple of
`COARSE`."""
_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (Rec. 601)."""
_BLOCK = 16
"""Positions that are blurred by one small matrix."""
_NARROW, _WIDE = 0.8, 2.5
"""Blurs between which a band of frequencies is taken for detail, in pixels."""


def bands(height: int, width: int) -> list[tuple[int, int]]:
    """Cut rows into bands to compare, which begin at whole coarse positions."""
    rows = max(BAND_PIXELS // (width * COARSE), 2 * BAND_MARGIN) * COARSE
    return list(pairwise([*range(0, height, rows), height]))


def to_luma_(color: Tensor) -> Tensor:
    """Replace red by luma, in place.

    Everything but the comparison of colours needs luma, and all that is done in between is
    linear: luma, green and blue are enough to get red back.
    """
    red, green, blue = color.split(1, dim=1)
    red.mul_(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return color


def to_red_(color: Tensor) -> Tensor:
    """Replace luma by red again, in place."""
    luma, green, blue = color.split(1, dim=1)
    luma.sub_(green, alpha=_LUMA[1]).sub_(blue, alpha=_LUMA[2]).div_(_LUMA[0])
    return color


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """Blur `[K, C, H, W]` with a Gaussian of `sigma` positions."""
    height, width = picture.shape[2:]
    radius = math.ceil(3 * sigma)
    line = _blur_matrix(sigma, radius, picture.device)
    blocks = _padded(picture, radius).unfold(-1, _BLOCK + 2 * radius, _BLOCK)
    # Rows that overlap in memory would be multiplied one by one.
    across = (blocks.contiguous() @ line).flatten(-2)
    return _down(across, line, radius)[..., :height, :width]


def detail(luma: Tensor) -> Tensor:
    """Return a band of the frequencies of `[K, C, H, W]`, the difference of two blurs."""
    height, width = luma.shape[2:]
    radius = math.ceil(3 * _WIDE)
    blocks = _padded(luma, radius).unfold(-1, _BLOCK + 2 * radius, _BLOCK).contiguous()
    narrow, wide = (_blur_matrix(sigma, radius, luma.device) for sigma in (_NARROW, _WIDE))
    difference = _down((blocks @ narrow).flatten(-2), narrow, radius)
    difference -= _down((blocks @ wide).flatten(-2), wide, radius)
    return difference[..., :height, :width]


def change_energies(picture: Tensor) -> Tensor:
    """Return the energy of changes along rows, columns and both diagonals, `[1, 4, H, W]`.

    Args:
        picture: `[1, 1, H, W]`.
    """
    height, width = picture.shape[2:]
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    changes = picture.new_empty(1, 4, height, width)
    steps = ((1, 2, 1, 0), (2, 1, 0, 1), (2, 2, 0, 0), (2, 0, 0, 2))
    for channel, (row, column, other_row, other_column) in enumerate(steps):
        changes[:, channel] = padded[:, 0, row : row + height, column : column + width]
        changes[:, channel] -= padded[
            :, 0, other_row : other_row + height, other_column : other_column + width
        ]
    # A diagonal is as long as 1.4 rows: its changes count by 0.7.
    changes[:, 2:] *= 0.7
    return changes.square_()


def shrunk(picture: Tensor) -> Tensor:
    """Average squares of `COARSE` x `COARSE` pixels, smaller ones at the last edges."""
    height, width = picture.shape[2:]
    if height % COARSE or width % COARSE:
        return F.avg_pool2d(picture, COARSE, ceil_mode=True, count_include_pad=False)
    # Several times faster on a CPU than pooling.
    rows = picture[:, :, ::COARSE] + picture[:, :, 1::COARSE]
    for offset in range(2, COARSE):
        rows += picture[:, :, offset::COARSE]
    total = rows[..., ::COARSE] + rows[..., 1::COARSE]
    for offset in range(2, COARSE):
        total += rows[..., offset::COARSE]
    return total.mul_(1 / COARSE**2)


def shrunk_to(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Average `[K, C, h, w]` over areas to `size`, any height and width."""
    # Not `F.interpolate`, which MPS has for divisible sizes only.
    rows = _area_matrix(picture.shape[2], size[0], picture.device)
    columns = _area_matrix(picture.shape[3], size[1], picture.device)
    return rows @ picture @ columns.mT


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `[K, C, h, w]` at another size: averaged over areas, or between positions."""
    if picture.shape[2] >= size[0] and picture.shape[3] >= size[1]:
        return shrunk_to(picture, size)
    return enlarged(picture, size, 0, size[0])


def enlarged(picture: Tensor, size: tuple[int, int], first: int, last: int) -> Tensor:
    """Return some rows of a `[K, C, h, w]` picture enlarged bilinearly to `size`."""
    height, width = size
    above, below, share = _rows_between(picture.shape[2], height, first, last, picture.device)
    mixed = torch.lerp(picture.index_select(2, above), picture.index_select(2, below), share)
    return F.interpolate(mixed, size=(last - first, width), mode="bilinear")


def box_averaged(picture: Tensor) -> Tensor:
    """Average `[..., H, W]` over 3 x 3 positions."""
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2] + padded[..., 1:-1]
    rows += padded[..., 2:]
    total = rows[..., :-2, :] + rows[..., 1:-1, :]
    total += rows[..., 2:, :]
    return total.mul_(1 / 9)


@lru_cache(maxsize=256)
def positions(length: int, device: torch.device) -> Tensor:
    """Return 0, 1, ... as float32 `[length]`."""
    return torch.arange(length, dtype=torch.float32).to(device)


def uploaded(host: Tensor, device: torch.device) -> Tensor:
    """Copy from the host without waiting for what the device is doing."""
    if device.type == "cuda":
        # Copies from other memory wait.
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def _padded(picture: Tensor, radius: int) -> Tensor:
    """Repeat the edges by `radius`, and beyond the last ones to whole blocks."""
    below, right = (-extent % _BLOCK for extent in picture.shape[2:])
    pad = (radius, radius + right, radius, radius + below)
    return F.pad(picture, pad, mode="replicate")


def _down(picture: Tensor, line: Tensor, radius: int) -> Tensor:
    """Blur the columns of what `_padded` has padded."""
    blocks = picture.unfold(-2, _BLOCK + 2 * radius, _BLOCK).mT
    return (line.mT @ blocks).flatten(-3, -2)


@lru_cache(maxsize=64)
def _blur_matrix(sigma: float, radius: int, device: torch.device) -> Tensor:
    """Return the weights of a block's inputs in its outputs, `[block + 2 * radius, block]`."""
    taps = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
    line = torch.exp(-0.5 * (taps / sigma) ** 2)
    line = F.pad(line / line.sum(), [radius - len(line) // 2] * 2)
    matrix = torch.zeros(_BLOCK + 2 * radius, _BLOCK)
    for column in range(_BLOCK):
        matrix[column : column + len(line), column] = line
    return matrix.to(device)


@lru_cache(maxsize=64)
def _area_matrix(length: int, shrunk_length: int, device: torch.device) -> Tensor:
    """Return the weights of averages over areas, `[shrunk_length, length]`."""
    matrix = torch.zeros(shrunk_length, length)
    for row in range(shrunk_length):
        first = row * length // shrunk_length
        last = -(-(row + 1) * length // shrunk_length)
        matrix[row, first:last] = 1 / (last - first)
    return matrix.to(device)


@lru_cache(maxsize=256)
def _rows_between(
    length: int, enlarged_length: int, first: int, last: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which two rows each enlarged row lies between, and how near to the second."""
    rows = (torch.arange(first, last) + 0.5) * (length / enlarged_length) - 0.5
    rows = rows.clamp_min(0)
    above = rows.floor().long().clamp_max(length - 1)
    below = (above + 1).clamp_max(length - 1)
    share = (rows - above)[:, None]
    return above.to(device), below.to(device), share.to(device)
