"""From names that users give to an engine ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..models.checkpoint import (
    METADATA_KEY,
    CheckpointInfo,
    find_checkpoint,
    load_model,
    read_info,
)
from ..models.hardware import choose_device, choose_dtype
from ..models.registry import architecture_of
from ..models.tensor_file import file_digest, read_header
from .clip import ClipRestorer
from .diffusion import Deblurrer
from .engine import Engine
from .feed_forward import FeedForward
from .first_stage.foreign import load_foreign
from .first_stage.stage import FirstStage


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """How networks of a kind are run."""

    engine: type[Engine]
    """Called with a network, its device and the dtype to compute in."""
    exact: bool = False
    """Whether all weights are kept in float32, as statistics of batch normalisation need; else
    only those of the parts that read or make pixels (`Architecture.pixel_prefixes`)."""


ENGINES: dict[str, EngineKind] = {
    "diffusion": EngineKind(engine=Deblurrer),
    "feed_forward": EngineKind(engine=FeedForward, exact=True),
    "clip": EngineKind(engine=ClipRestorer),
}
"""By kind of network (`models.registry.KINDS`)."""


def load_deblurrer(
    checkpoint: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    first_stage: str | Path | None = None,
) -> Engine:
    """Load a checkpoint into the engine for networks of its kind.

    On the CPU, weights that the file has in the dtype they are wanted in stay mapped to it.

    Args:
        checkpoint: Path, or a bundled checkpoint's name.
        device: `auto` or a torch device.
        dtype: `auto` or a name of `hardware.DTYPES`.
        first_stage: As `load_first_stage` takes it; None: without.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: If a name cannot be resolved, or no
            engine runs the network.
    """
    info = read_info(checkpoint)
    kind = kind_of(info)
    chosen = choose_device(device)
    compute_dtype = choose_dtype(dtype, chosen)
    kept = torch.float32 if kind.exact else compute_dtype
    model = load_model(info, device=chosen, dtype=kept, pixel_dtype=torch.float32)
    engine = kind.engine(model, chosen, compute_dtype)
    if first_stage is not None:
        engine.first_stage = load_first_stage(first_stage, device, dtype)
    return engine


def load_first_stage(name: str | Path, device: str = "auto", dtype: str = "auto") -> FirstStage:
    """Load a network whose results are candidates beside those of a checkpoint.

    Args:
        name: A checkpoint as for `load_deblurrer`, or a file of `first_stage.foreign`, whose
            network computes in float32.
        device: As for `load_deblurrer`.
        dtype: The same.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: If it cannot be loaded, or makes no
            RGB image of the same size.
    """
    path = find_checkpoint(name)
    if _is_checkpoint(path):
        engine = load_deblurrer(path, device, dtype)
    else:
        chosen = choose_device(device)
        engine = FeedForward(load_foreign(path, chosen), chosen)
    return FirstStage(engine, path.name, file_digest(path))


def _is_checkpoint(path: Path) -> bool:
    """Tell whether a file is a checkpoint of this project."""
    if path.suffix != ".safetensors":
        return False
    metadata = read_header(path).get("__metadata__")
    return isinstance(metadata, dict) and METADATA_KEY in metadata


def engine_class(config: Any) -> type[Engine]:
    """Return the engine for the networks of a checkpoint's config."""
    return ENGINES[architecture_of(type(config)).kind].engine


def kind_of(info: CheckpointInfo) -> EngineKind:
    """Return how the network of a checkpoint is run.

    Raises:
        ValueError: If no engine runs networks of its kind.
    """
    architecture = info.architecture
    if architecture.kind not in ENGINES:
        raise ValueError(
            f"{info.path}: holds {architecture.described}, and no engine here runs networks "
            f"of kind {architecture.kind!r} (known: {', '.join(ENGINES)}). Choose another file."
        )
    return ENGINES[architecture.kind]
