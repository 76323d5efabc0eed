"""Image networks of other projects: NAFNet, Restormer, FFTformer, ..., as spandrel reads them.

spandrel (MIT) recognises a network by its weights. Its descriptors are also what ComfyUI hands
around as UPSCALE_MODEL.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.tensor_file import CheckpointError, check_start, read_header
from ..denoising.layout import is_out_of_memory

SUFFIXES = (".pth", ".safetensors")
"""Of the files that are read. Others could run code."""

_BYTES_PER_PIXEL = 384 * 3 * 4
"""What ComfyUI reserves for such networks (nodes_upscale_model.py), per pixel of a tile."""


@dataclass(frozen=True)
class ForeignConfig:
    """Stands for the config of a checkpoint."""

    num_frames: int = 1


class ForeignNetwork:
    """A network of another project as a `FeedForwardNetwork`, in float32.

    Args:
        descriptor: spandrel's `ImageModelDescriptor`. It pads frames as its network needs.
        name: What messages call it.

    Raises:
        ValueError: If it does not make an RGB image of the same size of one.
    """

    config = ForeignConfig()
    reach = None
    bytes_per_pixel = _BYTES_PER_PIXEL

    def __init__(self, descriptor: Any, name: str) -> None:
        self._descriptor = descriptor
        self._name = f"{name}: this network ({descriptor.architecture.name})"
        scale, purpose = descriptor.scale, getattr(descriptor, "purpose", "")
        channels = (descriptor.input_channels, descriptor.output_channels)
        if purpose == "Inpainting":
            raise ValueError(
                f"{self._name} fills in what a mask covers; the first stage must be one that "
                f"restores images"
            )
        if scale != 1:
            raise ValueError(
                f"{self._name} enlarges by {scale}: use it after deblurring, in an upscaler; "
                f"the first stage must keep the size"
            )
        if channels != (3, 3):
            raise ValueError(
                f"{self._name} takes {channels[0]} channels and gives {channels[1]}; the first "
                f"stage must take and give RGB: choose a network for colour images"
            )

    def restore_frame(self, around: Tensor) -> Tensor:
        """See `FeedForwardNetwork`."""
        restored = self._descriptor(around)
        if restored.shape != around.shape:
            raise ValueError(
                f"{self._name} makes {list(restored.shape[1:])} of {list(around.shape[1:])}: "
                f"the first stage must keep size and channels, choose another network"
            )
        # A plain tensor: the descriptor runs in inference mode.
        return restored[0].clone()


def load_foreign(path: Path, device: torch.device) -> ForeignNetwork:
    """Load a network of another project.

    Args:
        path: Of its weights, with a suffix of `SUFFIXES`.
        device: Where it goes.

    Raises:
        CheckpointError: If the file cannot be read, or is of no network known to spandrel.
        ValueError: If the network does not keep the size, or spandrel is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(
            f"{path}: the first stage must be a file of {' or '.join(SUFFIXES)}; no other kind "
            f"is opened because it could run code"
        )
    try:
        from spandrel import ModelLoader, UnsupportedModelError
    except ImportError as error:
        raise ValueError(
            f"{path}: reading networks of other projects needs spandrel: pip install spandrel"
        ) from error
    _check_container(path)
    _add_extra_networks()
    try:
        descriptor = ModelLoader().load_from_file(path)
        descriptor.float().to(device).eval()
    except UnsupportedModelError as error:
        raise CheckpointError(
            f"{path}: spandrel knows no network with these weights. docs/first_stage.md lists "
            f"networks that fit."
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if "is forbidden" in str(error):
            raise CheckpointError(
                f"{path}: holds more than weights, which could run code, so it was not opened "
                f"({_first_line(error)}). Get it from another source."
            ) from error
        raise CheckpointError(
            f"{path}: cannot be read, it may be truncated or damaged ({_first_line(error)}). "
            f"Download it again."
        ) from error
    descriptor.model.requires_grad_(False)
    return ForeignNetwork(descriptor, path.name)


def _add_extra_networks() -> None:
    """Make more networks known where their owner has installed them, as ComfyUI does.

    Restormer and MPRNet are among them, whose licences forbid commercial use.
    """
    try:
        import spandrel_extra_arches
    except ImportError:
        return
    spandrel_extra_arches.install(ignore_duplicates=True)


def _check_container(path: Path) -> None:
    """Raise CheckpointError if a file is plainly not weights."""
    if path.suffix.lower() == ".safetensors":
        read_header(path)
        return
    check_start(path)
    # torch would load the program of an archive of TorchScript.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise CheckpointError(
                f"{path}: is a TorchScript program, not weights, so it was not opened. Get "
                f"the weights (.pth or .safetensors)."
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
