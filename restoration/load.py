"""From names that users give to an engine ready to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..models.checkpoint import CheckpointInfo, load_model, read_info
from ..models.hardware import choose_device, choose_dtype
from .engine import Deblurrer

MakeEngine = Callable[[CheckpointInfo, torch.device, torch.dtype], Deblurrer]
"""Loads the network of a checkpoint for a device and the dtype to compute in."""


def load_deblurrer(
    checkpoint: str | Path, device: str = "auto", dtype: str = "auto"
) -> Deblurrer:
    """Load a checkpoint into the engine for networks of its kind.

    On the CPU, weights that the file has in the dtype they are wanted in stay mapped to it.

    Args:
        checkpoint: Path, or the bundled checkpoint's name.
        device: `auto` or a torch device.
        dtype: `auto` or a name of `hardware.DTYPES`.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: If a name cannot be resolved, or no
            engine runs the network.
    """
    info = read_info(checkpoint)
    make_engine = engine_of(info)
    chosen = choose_device(device)
    return make_engine(info, chosen, choose_dtype(dtype, chosen))


def engine_of(info: CheckpointInfo) -> MakeEngine:
    """Return what makes the engine for a checkpoint.

    Raises:
        ValueError: If there is none for networks of its kind.
    """
    architecture = info.architecture
    if architecture.kind not in ENGINES:
        raise ValueError(
            f"{info.path}: holds {architecture.described}, and no engine here runs networks "
            f"of kind {architecture.kind!r} (known: {', '.join(ENGINES)}). Choose another file."
        )
    return ENGINES[architecture.kind]


def _diffusion(info: CheckpointInfo, device: torch.device, dtype: torch.dtype) -> Deblurrer:
    """UNet and image tower are kept in the dtype they compute in, the rest in float32."""
    model = load_model(info, device=device, dtype=dtype, pixel_dtype=torch.float32)
    return Deblurrer(model, device, dtype)


ENGINES: dict[str, MakeEngine] = {"diffusion": _diffusion}
"""By kind of network (`models.registry.KINDS`)."""
