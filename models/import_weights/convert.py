"""Public weights to the checkpoint that training starts from.

Before training the model is the text-to-video model, given image tokens in place of text:
the input channels for the blur latents are zero, and the blur encoder is a copy of the
sharp one. Tensors are read, converted and written one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import checkpoint_metadata
from ..config import DivdConfig, ImageEncoderConfig, SamplingConfig, ScheduleConfig
from ..divd import Divd
from ..tensor_file import CheckpointError, Shape, check_finite, write_tensors
from .autoencoder import ImportedAutoencoder, import_autoencoder
from .image_tower import ImportedTower, import_image_tower
from .sources import Part
from .unet import ImportedUNet, import_unet
from .weight_file import open_weights

ProgressCallback = Callable[[int, int], None]
"""Called with (tensors written, tensors in all); may raise to cancel."""

_FOLDERS = {"unet": "unet", "autoencoder": "vae", "image_encoder": "image_encoder"}
"""Of each part in a pipeline that diffusers saved."""
_MODELSCOPE_LICENCE = "CC-BY-NC-4.0"


def convert_weights(
    unet: str | Path,
    vae: str | Path,
    clip: str | Path,
    output: str | Path,
    *,
    dtype: torch.dtype = torch.float16,
    licence: str | None = None,
    callback: ProgressCallback | None = None,
) -> DivdConfig:
    """Write the checkpoint that training starts from.

    Args:
        unet: ModelScopeT2V or TF-T2V, as published or in diffusers' layout; a file or a
            folder.
        vae: Stable Diffusion's autoencoder, alone or in a whole checkpoint.
        clip: OpenCLIP's ViT-H-14, whole or the image tower alone.
        output: Target, `.safetensors`, replaced if it exists.
        dtype: Storage dtype.
        licence: SPDX identifier to store; None: ModelScope's, or `unknown` for TF-T2V.
        callback: Progress; may raise to cancel, which leaves nothing under `output`.

    Returns:
        The model's config.

    Raises:
        FileNotFoundError: If a file or the target's folder does not exist.
        CheckpointError: If a file is not what it should be, or they do not fit together.
    """
    target = checked_target(Path(output))
    with open_weights(unet, _FOLDERS["unet"]) as file:
        from_unet = import_unet(file)
    with open_weights(vae, _FOLDERS["autoencoder"]) as file:
        from_vae = import_autoencoder(file)
    with open_weights(clip, _FOLDERS["image_encoder"]) as file:
        from_clip = import_image_tower(file)
    parts = {
        "unet": from_unet.part,
        "autoencoder": from_vae.part,
        "image_encoder": from_clip.part,
    }
    for part in parts.values():
        if target.exists() and target.samefile(part.path):
            raise ValueError(f"{target}: is one of the inputs, choose another output")
    config = starting_config(from_unet, from_vae, from_clip)
    new = {} if from_unet.num_tokens else _new_token_projection(config.image_encoder)
    shapes = _shapes_in_order(config, parts, new)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for done, (name, tensor) in enumerate(_tensors(parts, new, dtype)):
            if callback is not None:
                callback(done, len(shapes))
            yield name, tensor
        if callback is not None:
            callback(len(shapes), len(shapes))

    metadata = checkpoint_metadata(
        config,
        provenance=_provenance(from_unet, parts),
        licence=licence or ("unknown" if from_unet.is_tf_t2v else _MODELSCOPE_LICENCE),
    )
    write_tensors(target, shapes, tensors(), dtype, metadata)
    return config


def starting_config(
    unet: ImportedUNet, autoencoder: ImportedAutoencoder, tower: ImportedTower
) -> DivdConfig:
    """Return the config of the model that the parts make.

    Raises:
        CheckpointError: If they do not fit together.
    """
    channels, context_dim = autoencoder.config.latent_channels, unet.config.context_dim
    if unet.config.out_channels != channels:
        raise CheckpointError(
            f"{autoencoder.part.path}: its latents have {channels} channels, "
            f"{unet.part.path} denoises {unet.config.out_channels}. They do not belong "
            f"together."
        )
    if unet.num_tokens and tower.config.embedding_dim != context_dim:
        raise CheckpointError(
            f"{tower.part.path}: its embedding has {tower.config.embedding_dim} channels, the "
            f"token projection of {unet.part.path} takes {context_dim}. They do not belong "
            f"together."
        )
    images = dataclasses.replace(
        tower.config,
        context_dim=context_dim,
        num_tokens=unet.num_tokens or ImageEncoderConfig().num_tokens,
    )
    return DivdConfig(
        unet=unet.config,
        autoencoder=autoencoder.config,
        image_encoder=images,
        # ModelScopeT2V predicts noise on a schedule that ends short of noise alone. It is
        # stored with the schedule that it is trained on from here.
        schedule=ScheduleConfig(timestep_spacing="leading" if unet.is_tf_t2v else "trailing"),
        sampling=SamplingConfig(steps=50),
    )


def checked_target(target: Path) -> Path:
    """Return where to write a checkpoint.

    Raises:
        ValueError: If it is a folder, or not named `.safetensors`.
        FileNotFoundError: If its folder does not exist.
    """
    if target.is_dir():
        raise ValueError(f"{target}: a folder; name the output FILE.safetensors")
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: a checkpoint is written as .safetensors, name it so")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"{target}: its folder does not exist, create it")
    return target


def _shapes_in_order(
    config: DivdConfig, parts: dict[str, Part], new: dict[str, Tensor]
) -> dict[str, Shape]:
    """Return the shapes of the checkpoint in the order that `_tensors` yields them."""
    expected = Divd(config, device="meta").state_dict()
    names = [name for part in parts.values() for name in part.sources] + list(new)
    assert len(names) == len(expected), "each part was compared with its network"
    return {name: tuple(expected[name].shape) for name in names}


def _tensors(
    parts: dict[str, Part], new: dict[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for key, part in parts.items():
        # Opened again, one at a time: pages that were read count as memory until it closes.
        with open_weights(part.path, _FOLDERS[key]) as file:
            for name, source in part.sources.items():
                tensor = source.make(*(file.read(n) for n in source.names))
                yield name, converted(file.path, source.names[0], tensor, dtype)
    for name, tensor in new.items():
        yield name, tensor


def converted(path: Path, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in the storage dtype.

    Args:
        path: The file it comes from, for messages.
        name: Its name there.
        tensor: The weight.
        dtype: Storage dtype.

    Raises:
        CheckpointError: If it is not floating-point, not finite, or too large for `dtype`.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{path}: {name!r} is stored as {str(tensor.dtype).removeprefix('torch.')}, "
            f"expected a floating-point format. Give another file."
        )
    converted = tensor.to(dtype)
    try:
        check_finite(path, name, converted)
    except CheckpointError:
        check_finite(path, name, tensor)
        raise CheckpointError(
            f"{path}: {name!r} has values that are too large for "
            f"{str(dtype).removeprefix('torch.')}. Convert to bfloat16 or float32."
        ) from None
    return converted


def _new_token_projection(config: ImageEncoderConfig) -> dict[str, Tensor]:
    """Return a token projection that gives zeros: what dropping the tokens gives.

    Its first layer is drawn as `torch.nn.Linear` draws it.
    """
    generator = torch.Generator().manual_seed(0)
    width, outputs = config.embedding_dim, config.num_tokens * config.context_dim
    bound = width**-0.5
    weights = {
        "0.weight": torch.empty(width, width).uniform_(-bound, bound, generator=generator),
        "0.bias": torch.empty(width).uniform_(-bound, bound, generator=generator),
        "2.weight": torch.zeros(outputs, width),
        "2.bias": torch.zeros(outputs),
    }
    return {f"image_encoder.token_projection.{name}": w for name, w in weights.items()}


def _provenance(unet: ImportedUNet, parts: dict[str, Part]) -> dict[str, Any]:
    origin = {
        key: {
            "file": part.path.name,
            "bytes": part.path.stat().st_size,
            "layout": part.layout,
        }
        for key, part in parts.items()
    }
    return {
        "converted_from": origin,
        "blur_encoder": "a copy of the sharp encoder",
        "blur_channels": "zero in the first convolution",
        "token_projection": (
            "pre_image_condition of TF-T2V"
            if unet.num_tokens
            else "new: first layer random, last layer zero; the source has none"
        ),
        "prediction": (
            "v" if unet.is_tf_t2v else "noise, without zero terminal SNR, until trained for v"
        ),
        "trained": False,
    }
