"""Sequences of blurry and sharp frames to measure with, and the PSNR of clips."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..images.datasets import PairedSequence
from ..images.reading import read_image
from ..video.pixels import to_float


def read_pair(sequence: PairedSequence) -> tuple[Tensor, Tensor]:
    """Return the blurry and the sharp frames, `[T, H, W, 3]`, float32 in 0..1."""
    return _read(sequence.blurry), _read(sequence.sharp)


def psnr(frames: Tensor, sharp: Tensor) -> float:
    """Return the mean over frames `[T, H, W, C]` in 0..1, in dB; of equal ones 100."""
    error = (frames - sharp).square().mean(dim=(1, 2, 3))
    return float(-10 * error.clamp_min(1e-10).log10().mean())


def _read(paths: Iterable[Path]) -> Tensor:
    return torch.from_numpy(to_float(np.stack([read_image(path)[..., :3] for path in paths])))
