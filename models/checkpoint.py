"""Read, recognise and write checkpoints.

A checkpoint is one `.safetensors` file. Its metadata holds `video_deblur`: JSON with
`format`, `architecture`, `config`, `provenance` and `licence`; a reader needs nothing but
the file. The header is checked in full, names and shapes against the networks the config
describes, before any tensor is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import inference_layers
from .config import DivdConfig
from .config_fields import ConfigError, config_from_dict, config_to_dict
from .divd import Divd
from .tensor_file import (
    DTYPES,
    CheckpointError,
    Shape,
    check_finite,
    count_values,
    described_tensors,
    read_header,
    read_tensors,
    write_tensors,
)

FORMAT = 1
METADATA_KEY = "video_deblur"
BUNDLED_NAME = "divd-tiny (bundled)"
BUNDLED_PATH = Path(__file__).parent / "weights" / "divd-tiny.safetensors"
CHOOSE = "Choose a file from ComfyUI/models/video_deblur, or the bundled one."

LICENCE = "Apache-2.0"
"""Of weights that were trained from scratch."""

_MAX_CONFIG_PARAMETERS = 20_000_000_000


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What the header of a checkpoint says."""

    path: Path
    """The file."""
    architecture: str
    """`divd`."""
    config: DivdConfig
    """Everything needed to build the networks."""
    provenance: dict[str, Any]
    """Training data, steps, seed and measured scores."""
    licence: str
    """SPDX identifier of the weights' licence."""
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Storage dtype (as safetensors names it) and shape of each tensor."""

    @property
    def num_parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(count_values(shape) for _, shape in self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most values are stored in."""
        sizes: dict[str, int] = {}
        for name, shape in self.tensors.values():
            sizes[name] = sizes.get(name, 0) + count_values(shape)
        return DTYPES[max(sizes, key=lambda name: sizes[name])]


def find_checkpoint(name: str | Path) -> Path:
    """Turn a name or path from the user into the path of a file.

    Args:
        name: The bundled checkpoint's name (`divd-tiny`), or a path.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if str(name) in (BUNDLED_NAME, BUNDLED_PATH.stem):
        return BUNDLED_PATH
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}: no such checkpoint file. Give a path, or {BUNDLED_PATH.stem!r} for the "
            f"bundled one."
        )
    return path


def read_info(path: str | Path) -> CheckpointInfo:
    """Read and check the header of a checkpoint, without its weights.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is not a checkpoint of a known architecture, or is damaged.
    """
    path = find_checkpoint(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: not a .safetensors file, and no other kind is opened because it could "
            f"run code. {CHOOSE} `video-deblur convert` makes one of public weights."
        )
    header = read_header(path)
    metadata = header.pop("__metadata__", {})
    tensors = described_tensors(path, header)
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: not a video deblurring checkpoint{_guess(tensors)}. {CHOOSE}"
        )
    try:
        envelope = json.loads(metadata[METADATA_KEY])
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is not valid JSON. {CHOOSE}") from error
    if not isinstance(envelope, dict) or envelope.get("format") != FORMAT:
        found = envelope.get("format") if isinstance(envelope, dict) else envelope
        raise CheckpointError(
            f"{path}: format version {found!r} is not supported (expected {FORMAT}). "
            f"Update this extension."
        )
    if envelope.get("architecture") != "divd":
        raise CheckpointError(
            f"{path}: unknown architecture {envelope.get('architecture')!r} (expected 'divd'). "
            f"Update this extension."
        )
    try:
        config = config_from_dict(DivdConfig, envelope.get("config"))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}. {CHOOSE}") from error
    provenance = envelope.get("provenance")
    info = CheckpointInfo(
        path=path,
        architecture="divd",
        config=config,
        provenance=provenance if isinstance(provenance, dict) else {},
        licence=str(envelope.get("licence", "unknown")),
        tensors=tensors,
    )
    _check_against_network(info)
    return info


def load_state_dict(info: CheckpointInfo, device: Any = "cpu") -> dict[str, Tensor]:
    """Read the weights that `info` describes, in their storage dtype.

    On the CPU they are mapped, not copied.

    Raises:
        CheckpointError: If a weight is not finite or the file cannot be read.
    """
    return {name: tensor.to(device) for name, tensor in _checked_tensors(info)}


def load_model(
    path: str | Path,
    *,
    device: Any = "cpu",
    dtype: torch.dtype | None = None,
    autoencoder_dtype: torch.dtype | None = None,
    operations: Any = inference_layers,
) -> Divd:
    """Build the networks of a checkpoint and load its weights.

    Weights that are stored as they are wanted stay mapped to the file on the CPU; others
    are converted one by one. So loading takes no more memory than the model.

    Args:
        path: A file, or the bundled checkpoint's name.
        device: Where the weights go.
        dtype: Dtype of the weights in memory; None keeps float32.
        autoencoder_dtype: The same for autoencoder and blur encoder, where they differ.
        operations: Namespace of layer classes; see `layers`. The default is fastest where
            the model is only run.

    Returns:
        The model, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is not a usable checkpoint.
    """
    info = read_info(path)
    dtype = dtype or torch.float32
    model = Divd(info.config, device="meta", dtype=dtype, operations=operations)
    weights = {}
    for name, tensor in _checked_tensors(info):
        pixels = name.startswith(("autoencoder.", "blur_encoder."))
        weights[name] = tensor.to(device, (pixels and autoencoder_dtype) or dtype)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def save_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    config: DivdConfig,
    *,
    provenance: dict[str, Any],
    licence: str = LICENCE,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint; the file appears under its name only when it is complete.

    Args:
        path: Target, replaced if it exists.
        state_dict: Weights of a `Divd` of this config.
        config: Stored in the file.
        provenance: JSON values: data, steps, seed, measured scores.
        licence: SPDX identifier of the weights' licence.
        dtype: Storage dtype.
    """
    shapes: dict[str, Shape] = {n: tuple(tensor.shape) for n, tensor in state_dict.items()}
    metadata = checkpoint_metadata(config, provenance=provenance, licence=licence)
    write_tensors(Path(path), shapes, state_dict.items(), dtype, metadata)


def checkpoint_metadata(
    config: DivdConfig, *, provenance: dict[str, Any], licence: str
) -> dict[str, str]:
    """Return what makes a safetensors file a checkpoint; arguments as `save_checkpoint`."""
    envelope = {
        "format": FORMAT,
        "architecture": "divd",
        "config": config_to_dict(config),
        "provenance": provenance,
        "licence": licence,
    }
    return {METADATA_KEY: json.dumps(envelope)}


def _checked_tensors(info: CheckpointInfo) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read_tensors(info.path, info.tensors):
        check_finite(info.path, name, tensor)
        yield name, tensor


def _check_against_network(info: CheckpointInfo) -> None:
    unet, images = info.config.unet, info.config.image_encoder
    num_blocks = images.layers + sum(info.config.autoencoder.blocks)
    num_blocks += unet.layers_per_block * len(unet.block_channels)
    if num_blocks > len(info.tensors):
        # Building millions of modules takes hours and gigabytes even without weights.
        raise CheckpointError(
            f"{info.path}: its config describes an impossibly large network for the "
            f"{len(info.tensors)} weights in the file. Download it again."
        )
    try:
        # On the meta device nothing is allocated, however large the config claims to be.
        expected = Divd(info.config, device="meta").state_dict()
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{info.path}: its config cannot be built ({reason})") from error
    if sum(value.numel() for value in expected.values()) > _MAX_CONFIG_PARAMETERS:
        raise CheckpointError(f"{info.path}: its config describes an impossibly large network")
    missing = sorted(set(expected) - set(info.tensors))
    extra = sorted(set(info.tensors) - set(expected))
    if missing or extra:
        what = (
            f"is missing weight {missing[0]!r}"
            if missing
            else f"has unknown weight {extra[0]!r}"
        )
        count = len(missing) + len(extra)
        raise CheckpointError(
            f"{info.path}: {what} ({count} names differ from its config). Download it again."
        )
    for name, (dtype, shape) in info.tensors.items():
        if shape != tuple(expected[name].shape):
            raise CheckpointError(
                f"{info.path}: weight {name!r} has shape {list(shape)}, expected "
                f"{list(expected[name].shape)}. Download it again."
            )
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{info.path}: weight {name!r} is stored as {dtype}, which is not supported"
            )


def _guess(tensors: dict[str, Any]) -> str:
    names = tuple(tensors)
    if any(name.startswith("model.diffusion_model.") for name in names):
        return " (it looks like a Stable Diffusion checkpoint)"
    if not any(name.startswith("unet.") for name in names):
        return ' (no "unet." weights)'
    return " (no video_deblur metadata)"
