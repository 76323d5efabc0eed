"""From names that users give to an engine ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..models.checkpoint import load_model
from ..models.config import DivdConfig
from ..models.layers import multiplies_bfloat16
from .diffusion import Deblurrer
from .engine import Engine

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Dtypes by the name users give; `auto` is chosen by device."""

_ENGINES: dict[type, type[Engine]] = {DivdConfig: Deblurrer}


def engine_class(config: Any) -> type[Engine]:
    """Return the engine of a checkpoint's config."""
    return _ENGINES[type(config)]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device `name` stands for; `auto` takes a GPU where there is one.

    Raises:
        ValueError: If the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:
        # torch raises RuntimeError, AssertionError or NotImplementedError by backend.
        raise ValueError(
            f"device {name!r} cannot be used here; try 'cpu', 'cuda' or 'auto'"
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype the UNet computes in; `auto` takes what is fast and safe.

    That is bfloat16 where the device multiplies it natively, else float32.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return named_dtype(name, "auto or ")


def named_dtype(name: str, also: str = "") -> torch.dtype:
    """Return the dtype of a name the user gave.

    Args:
        name: One of `DTYPES`.
        also: Other choices, for the message.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype must be {also}one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


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
