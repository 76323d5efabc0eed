"""From names that users give to an engine ready to run."""

from __future__ import annotations

from pathlib import Path

import torch

from ..models.checkpoint import load_model
from ..models.hardware import choose_device, choose_dtype
from .engine import Deblurrer


def load_deblurrer(
    checkpoint: str | Path, device: str = "auto", dtype: str = "auto"
) -> Deblurrer:
    """Load a checkpoint into an engine.

    UNet and image tower are kept in the dtype they compute in, autoencoder and blur encoder
    in float32. On the CPU, weights that the file has in that dtype stay mapped to it.

    Args:
        checkpoint: Path, or the bundled checkpoint's name.
        device: `auto` or a torch device.
        dtype: `auto` or a name of `DTYPES`.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: If a name cannot be resolved.
    """
    chosen = choose_device(device)
    compute_dtype = choose_dtype(dtype, chosen)
    model = load_model(
        checkpoint, device=chosen, dtype=compute_dtype, autoencoder_dtype=torch.float32
    )
    return Deblurrer(model, chosen, compute_dtype)
