"""Open weights as others publish them: safetensors or pickled, a file or a folder.

Nothing here runs code from a file: pickles are opened with `weights_only`. Files are mapped,
so opening one reads no weights.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..tensor_file import (
    CheckpointError,
    Shape,
    check_start,
    described_tensors,
    read_header,
)

_PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.safetensors",
    "model.fp16.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
"""Names of weights in folders of diffusers, transformers and open_clip, the safer first."""


@dataclass(frozen=True, eq=False)
class WeightFile:
    """An open file of named tensors."""

    path: Path
    """The file; where a folder was given, the one in it."""
    shapes: dict[str, Shape]
    """Shape of each tensor."""
    read: Callable[[str], Tensor]
    """Returns a tensor by name, mapped: not to be changed."""
    config: dict[str, Any]
    """`config.json` beside the weights, as diffusers and transformers write it, or empty."""


@contextmanager
def open_weights(path: str | Path, subfolder: str) -> Iterator[WeightFile]:
    """Open a file of weights.

    Args:
        path: `.safetensors`, a PyTorch file, or a folder as diffusers writes it.
        subfolder: Where in the folder of a whole pipeline these weights are.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        CheckpointError: If it holds no weights, is damaged, or holds more than weights.
    """
    found = find_weights(Path(path), subfolder)
    config = _read_config(found)
    if found.suffix == ".safetensors":
        header = read_header(found)
        header.pop("__metadata__", None)
        shapes = {n: shape for n, (_, shape) in described_tensors(found, header).items()}
        try:
            handle = safe_open(found, framework="pt")
        except Exception as error:
            raise CheckpointError(
                f"{found}: cannot be read ({error}). Download it again."
            ) from error
        with handle as file:
            yield WeightFile(found, shapes, file.get_tensor, config)
    else:
        tensors = _unpickle(found)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        yield WeightFile(found, shapes, tensors.__getitem__, config)


def find_weights(path: Path, subfolder: str) -> Path:
    """Return the file that a path given by the user stands for; see `open_weights`."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        folder = path / subfolder if (path / subfolder).is_dir() else path
        for name in _FOLDER_FILES:
            if (folder / name).is_file():
                return folder / name
        raise CheckpointError(
            f"{path}: a folder without a file of weights ({_FOLDER_FILES[0]} or the like). "
            f"Give the file itself."
        )
    if path.suffix != ".safetensors" and path.suffix not in _PICKLED:
        raise CheckpointError(
            f"{path}: not a file of weights; expected .safetensors, {', '.join(_PICKLED)}"
        )
    return path


def looks_like(names: Iterable[str]) -> str:
    """Guess from the names of tensors what a file is, for messages."""
    names = tuple(names)

    def have(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if have("unet.") and have("blur_encoder."):
        return "a checkpoint of this program"
    if any("lora" in name for name in names):
        return "a LoRA"
    if have("model.diffusion_model.") and have("first_stage_model."):
        return "a Stable Diffusion checkpoint"
    if have("first_stage_model.", "encoder.down"):
        return "an autoencoder"
    if have("input_blocks.", "down_blocks.", "model.diffusion_model."):
        return "a UNet"
    if have("visual.", "vision_model."):
        return "a CLIP model"
    if have("text_model.", "transformer."):
        return "a text encoder"
    return "something else"


def _read_config(weights: Path) -> dict[str, Any]:
    path = weights.with_name("config.json")
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}). Download it again.") from error
    return config if isinstance(config, dict) else {}


def _unpickle(path: Path) -> dict[str, Tensor]:
    check_start(path)
    with path.open("rb") as file:
        start = file.read(2)
    if not start.startswith(b"PK"):
        # What torch.save wrote before 1.6 cannot be mapped.
        old = start.startswith((b"\x80\x02", b"\x80\x04"))
        raise CheckpointError(
            f"{path}: "
            + ("PyTorch's old format" if old else "not a file that PyTorch saved")
            + ", which is not read. Take the .safetensors version, or save it anew with "
            "torch.save."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds other objects than weights, which are not loaded because they "
            f"could run code. Take the .safetensors version."
        ) from error
    except Exception as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise CheckpointError(
            f"{path}: truncated or damaged ({reason}). Download it again."
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        content = {}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no weights by name; expected a state_dict")
    return tensors
