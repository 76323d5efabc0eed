"""Camera response: display values to linear light and back.

Blur happens in light, not in the values of a picture: a shutter adds photons, and only then
does the camera bend the sum into a display value. A response is one entry of `_CURVES`. Linear
light is scaled so that white is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_LEVELS = np.linspace(0, 1, 256)
_CRF_FILE = Path(__file__).with_name("reds_crf.npy")
_LOWEST_OCTAVE = -20
_MANTISSA_BITS = 9
_SHIFT = 23 - _MANTISSA_BITS
_NUM_LIGHT_BINS = (-_LOWEST_OCTAVE << _MANTISSA_BITS) + 1
_FIRST_BIN = (127 + _LOWEST_OCTAVE) << _MANTISSA_BITS


def _reds() -> np.ndarray:
    # The measured curve dips by noise in a few places: sorting and a short average of its
    # logarithm give every level light of its own, so that it can be inverted. File: BGR.
    reds = np.log(np.sort(np.load(_CRF_FILE)[:, 0, ::-1].astype(np.float64), axis=0))
    windows = np.lib.stride_tricks.sliding_window_view(reds, 5, axis=0)
    reds[2:-2] = windows.mean(-1)
    reds = np.exp(np.sort(reds, axis=0))
    return (reds / reds[-1]).T


def _gamma() -> np.ndarray:
    return np.tile(_LEVELS**2.2, (3, 1))


def _srgb() -> np.ndarray:
    low, high = _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4
    return np.tile(np.where(_LEVELS <= 0.04045, low, high), (3, 1))


_CURVES: dict[str, Callable[[], np.ndarray]] = {"reds": _reds, "gamma": _gamma, "srgb": _srgb}
"""Light of each level, float64 `[3, 256]`, RGB, rising: the measured response of REDS (GoPro
Hero 6), gamma 2.2 and sRGB. The first one is what half of all synthetic clips see."""
RESPONSES = tuple(_CURVES)
"""Names of the known responses; a response index points into this tuple."""


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Build `[responses, 3, 256]` (level to light) and `[responses, 3, bins]` (back); RGB."""
    curves = [curve() for curve in _CURVES.values()]
    # A bin of light covers the floats that share their exponent and first mantissa bits.
    bits = (np.arange(_NUM_LIGHT_BINS) + _FIRST_BIN) << _SHIFT
    middle = bits + (1 << (_SHIFT - 1))
    light = middle.astype(np.int32).view(np.float32).astype(np.float64)
    light[0], light[-1] = 0.0, 1.0
    to_display = [[np.interp(light, c, _LEVELS) for c in curve] for curve in curves]
    return (
        torch.tensor(np.array(curves), dtype=torch.float32, device=device),
        torch.tensor(np.array(to_display), dtype=torch.float32, device=device),
    )


def to_linear(pixels: Tensor, response: Tensor) -> Tensor:
    """Turn 8-bit pixels into linear light.

    Args:
        pixels: uint8 `[B, ..., 3, H, W]`, RGB.
        response: int64 `[B]`, indices into `RESPONSES`.

    Returns:
        float32, the same shape, 0..1 with white at 1.
    """
    return _look_up(_tables(pixels.device)[0], pixels.to(torch.int32), response)


def to_display(light: Tensor, response: Tensor) -> Tensor:
    """Turn linear light into display values; the inverse of `to_linear`.

    The index into the table is the float's own exponent and first 9 bits of mantissa: a
    logarithm for free, with an error below 0.15 of an 8-bit level (binary search in the
    256 entries of the curve takes five times as long on a CPU).

    Args:
        light: float32 `[B, ..., 3, H, W]`, 0..1, RGB.
        response: int64 `[B]`, indices into `RESPONSES`.

    Returns:
        float32, the same shape, 0..1.
    """
    table = _tables(light.device)[1]
    index = (light.contiguous().view(torch.int32) >> _SHIFT).sub_(_FIRST_BIN)
    index.clamp_(0, _NUM_LIGHT_BINS - 1)
    return _look_up(table, index, response)


def _look_up(table: Tensor, index: Tensor, response: Tensor) -> Tensor:
    num_bins = table.shape[-1]
    row = response.to(index.device)[:, None] * 3 + torch.arange(3, device=index.device)
    shape = [index.shape[0]] + [1] * (index.ndim - 4) + [3, 1, 1]
    index += (row * num_bins).to(torch.int32).view(shape)
    return table.flatten().index_select(0, index.flatten()).view(index.shape)
