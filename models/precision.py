"""How exactly a device multiplies float32.

GPUs from NVIDIA's Ampere on round the factors of float32 convolutions to 10 bits (TF32), as
PyTorch lets them by default. Residual decoding subtracts two nearly equal pictures, of which
that leaves noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 as float32 for a while, on CUDA too; leave the setting as it was.

    It is the process's: other threads multiply exactly meanwhile. Half precision, by dtype or
    autocast, is as ever.
    """
    settings = _settings()
    before = [getattr(owner, name) for owner, name, _ in settings]
    for owner, name, exact in settings:
        setattr(owner, name, exact)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


def _settings() -> list[tuple[Any, str, Any]]:
    """Return what decides: the owner, the attribute's name, and its value for exact results."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    # Since PyTorch 2.9 each operation has its own setting. The old ones are refused from then
    # on if convolutions and RNNs differ.
    if hasattr(cudnn, "conv") and hasattr(matmul, "fp32_precision"):
        owners = (cudnn.conv, cudnn.rnn, matmul)
        return [(owner, "fp32_precision", "ieee") for owner in owners]
    return [(owner, "allow_tf32", False) for owner in (cudnn, matmul)]
