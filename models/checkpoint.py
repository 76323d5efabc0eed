"""Read, recognise and write checkpoints.

A checkpoint is one `.safetensors` file. Its metadata holds `video_deblur`: JSON with
`format`, `architecture`, `config`, `provenance` and `licence`; a reader needs nothing but
the file. The header is checked in full, names and shapes against the network that the entry
of its architecture (`registry`) builds from the config, before any tensor is allocated.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..models import inference_layers
from .bundled import BUNDLED, find_bundled
from .config_fields import ConfigError, config_from_dict, config_to_dict
from .registry import ARCHITECTURES, Architecture, architecture_of
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
CHOOSE = "Choose a file from ComfyUI/models/video_deblur, or a bundled one."

LICENCE = "Apache-2.0"
"""Of weights that were trained from scratch."""

_MAX_CONFIG_PARAMETERS = 20_000_000_000


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What the header of a checkpoint says."""

    path: Path
    """The file."""
    architecture: Architecture
    """Entry of the registry."""
    config: Any
    """Everything needed to build the network: an `architecture.config_type`."""
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
        name: Of a bundled checkpoint (`bundled`), or a path.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    bundled = find_bundled(str(name))
    if bundled is not None:
        return bundled
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}: no such checkpoint file. Give a path, or the name of a bundled one: "
            f"{', '.join(BUNDLED)}."
        )
    return path


def read_info(path: str | Path, *, config_type: type | None = None) -> CheckpointInfo:
    """Read and check the header of a checkpoint, without its weights.

    Args:
        path: A file, or a bundled checkpoint's name.
        config_type: Config class of the only architecture that the caller has a use for;
            None: any.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is not a checkpoint of a known or the wanted architecture, or
            is damaged.
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
    envelope = _envelope(path, metadata[METADATA_KEY])
    found = ARCHITECTURES[envelope["architecture"]]
    if config_type not in (None, found.config_type):
        wanted = architecture_of(config_type)
        raise CheckpointError(
            f"{path}: holds {found.described}. This needs a checkpoint of {wanted.title}."
        )
    try:
        config = config_from_dict(found.config_type, envelope.get("config"))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}. {CHOOSE}") from error
    provenance = envelope.get("provenance")
    info = CheckpointInfo(
        path=path,
        architecture=found,
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
    checkpoint: str | Path | CheckpointInfo,
    *,
    device: Any = "cpu",
    dtype: torch.dtype | None = None,
    pixel_dtype: torch.dtype | None = None,
    operations: Any = inference_layers,
) -> Any:
    """Build the network of a checkpoint and load its weights.

    Weights that are stored as they are wanted stay mapped to the file on the CPU; others
    are converted one by one. So loading takes no more memory than the model.

    Args:
        checkpoint: A file, a bundled checkpoint's name, or what `read_info` returned.
        device: Where the weights go.
        dtype: Dtype of the weights in memory; None keeps float32.
        pixel_dtype: The same for the parts that read or make pixels (`pixel_prefixes` of
            the architecture), where it differs.
        operations: Namespace of layer classes; see `layers`. The default is fastest where
            the model is only run.

    Returns:
        What the architecture builds, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is not a usable checkpoint.
    """
    info = checkpoint if isinstance(checkpoint, CheckpointInfo) else read_info(checkpoint)
    dtype = dtype or torch.float32
    architecture = info.architecture
    model = architecture.build(info.config, device="meta", dtype=dtype, operations=operations)
    weights = {
        name: torch.zeros(counter.shape, dtype=counter.dtype, device=device)
        for name, counter in model.state_dict().items()
        if not _is_stored(name)
    }
    for name, tensor in _checked_tensors(info):
        pixels = name.startswith(architecture.pixel_prefixes)
        weights[name] = tensor.to(device, (pixels and pixel_dtype) or dtype)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def save_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    config: Any,
    *,
    provenance: dict[str, Any],
    licence: str = LICENCE,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint; the file appears under its name only when it is complete.

    Args:
        path: Target, replaced if it exists.
        state_dict: Weights of the network that the config describes.
        config: Stored in the file; its class tells the architecture.
        provenance: JSON values: data, steps, seed, measured scores.
        licence: SPDX identifier of the weights' licence.
        dtype: Storage dtype; None: float16, or float32 where batch normalisation keeps running
            variances, which are not bounded as half precision is (65504).

    Raises:
        ValueError: If the config is of no registered architecture.
    """
    stored = {name: tensor for name, tensor in state_dict.items() if _is_stored(name)}
    if dtype is None:
        unbounded = any(name.endswith(".running_var") for name in stored)
        dtype = torch.float32 if unbounded else torch.float16
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    metadata = checkpoint_metadata(config, provenance=provenance, licence=licence)
    write_tensors(Path(path), shapes, stored.items(), dtype, metadata)


def checkpoint_metadata(
    config: Any, *, provenance: dict[str, Any], licence: str
) -> dict[str, str]:
    """Return what makes a safetensors file a checkpoint; arguments as `save_checkpoint`."""
    envelope = {
        "format": FORMAT,
        "architecture": architecture_of(type(config)).name,
        "config": config_to_dict(config),
        "provenance": provenance,
        "licence": licence,
    }
    return {METADATA_KEY: json.dumps(envelope)}


def _envelope(path: Path, text: Any) -> dict[str, Any]:
    """Parse the metadata of a checkpoint of a known format and architecture."""
    try:
        envelope = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is not valid JSON. {CHOOSE}") from error
    if not isinstance(envelope, dict) or envelope.get("format") != FORMAT:
        found = envelope.get("format") if isinstance(envelope, dict) else envelope
        raise CheckpointError(
            f"{path}: format version {reprlib.repr(found)} is not supported (expected "
            f"{FORMAT}). Update this extension."
        )
    name = envelope.get("architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: holds a network of unknown architecture {reprlib.repr(name)} (known: "
            f"{', '.join(ARCHITECTURES)}). Update this extension, or choose another file."
        )
    return envelope


def _is_stored(name: str) -> bool:
    """Tell weights from the counters of batch normalisation, which are integers.

    Only a cumulative average would need them.
    """
    return name.rpartition(".")[2] != "num_batches_tracked"


def _checked_tensors(info: CheckpointInfo) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read_tensors(info.path, info.tensors):
        check_finite(info.path, name, tensor)
        yield name, tensor


class _TooManyTensorsError(Exception):
    pass


class _AtMost(TorchFunctionMode):
    """Stop a network from being built that has far more weights than a file.

    Building millions of modules takes hours and gigabytes even without weights. Every layer
    takes its parameters from `torch.empty`.
    """

    def __init__(self, num_weights: int) -> None:
        super().__init__()
        self._left = 2 * num_weights + 100

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.empty:
            self._left -= 1
            if self._left < 0:
                raise _TooManyTensorsError
        return func(*args, **(kwargs or {}))


def _described_network(info: CheckpointInfo) -> dict[str, Tensor]:
    """Return the weights that the config asks for, without memory, by name."""
    impossible = CheckpointError(
        f"{info.path}: its config describes an impossibly large network for the "
        f"{len(info.tensors)} weights in the file. Download it again."
    )
    try:
        # On the meta device nothing is allocated, however large the config claims to be.
        with _AtMost(len(info.tensors)):
            network = info.architecture.build(info.config, device="meta")
    except _TooManyTensorsError as error:
        raise impossible from error
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{info.path}: its config cannot be built ({reason})") from error
    expected = {n: value for n, value in network.state_dict().items() if _is_stored(n)}
    if sum(value.numel() for value in expected.values()) > _MAX_CONFIG_PARAMETERS:
        raise impossible
    return expected


def _check_against_network(info: CheckpointInfo) -> None:
    for prefix in info.architecture.prefixes:
        if not any(name.startswith(prefix) for name in info.tensors):
            raise CheckpointError(
                f"{info.path}: has no {prefix!r} weights, which {info.architecture.title} "
                f"needs. Download it again."
            )
    expected = _described_network(info)
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
    if any(name.startswith("model.diffusion_model.") for name in tensors):
        return " (it looks like a Stable Diffusion checkpoint)"
    for architecture in ARCHITECTURES.values():
        if all(any(n.startswith(prefix) for n in tensors) for prefix in architecture.prefixes):
            return f" (weights like those of {architecture.title}, no video_deblur metadata)"
    known = ", ".join(architecture.title for architecture in ARCHITECTURES.values())
    return f" (its weights are of no network known here: {known})"
