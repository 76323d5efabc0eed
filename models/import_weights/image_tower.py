"""The image tower of OpenCLIP's ViT-H-14, with the names of open_clip or of transformers.

Files of the latter are in `models/clip_vision` of many ComfyUI installations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ImageEncoderConfig
from ..config_fields import ConfigError
from ..image_encoder import VisionTransformer
from ..tensor_file import CheckpointError, Shape
from .sources import Part, Source, check_sources
from .weight_file import WeightFile, looks_like

WHAT = "the image tower of OpenCLIP's ViT-H-14"

_HEAD_WIDTH = 80
"""Channels of a head; no weight shows them."""
_OTHERS = re.compile(
    # open_clip: the text tower.
    r"(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)$"
    r"|(token_embedding|transformer|ln_final)\."
    # transformers: the text tower, and numbers of the positions.
    r"|(text_model|text_projection)\.|vision_model\.embeddings\.position_ids$"
)
"""Tensors of whole CLIP models that the image tower does not need."""

_TRANSFORMERS = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",  # transformers' spelling
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True, eq=False)
class ImportedTower:
    """What a CLIP model's file gives."""

    config: ImageEncoderConfig
    """Of the tower; the tokens are still open."""
    part: Part


def import_image_tower(file: WeightFile) -> ImportedTower:
    """Find the image tower's weights in a file, which may hold the text tower as well.

    Raises:
        CheckpointError: If it is another network, or a tensor is missing, too many or of
            another shape.
    """
    if "visual.conv1.weight" in file.shapes:
        sources = {
            f"image_encoder.{name}": Source((name,))
            for name in file.shapes
            if name.startswith("visual.")
        }
        layout = "open_clip's names"
    elif "vision_model.embeddings.patch_embedding.weight" in file.shapes:
        sources = {
            f"image_encoder.visual.{name}": source
            for name, source in _from_transformers(file.shapes).items()
        }
        layout = "transformers' names"
    else:
        raise CheckpointError(
            f"{file.path}: not {WHAT} (it looks like {looks_like(file.shapes)}). Give "
            f"open_clip_pytorch_model.bin, or the ViT-H-14 of ComfyUI/models/clip_vision."
        )
    dropped = {name for name in file.shapes if _OTHERS.match(name)}
    config = _tower_config(file, sources)
    network = VisionTransformer(config, device="meta").state_dict()
    expected = {f"image_encoder.visual.{name}": value for name, value in network.items()}
    check_sources(file, sources, expected, dropped, WHAT)
    return ImportedTower(config, Part(file.path, layout, sources))


def _from_transformers(shapes: Mapping[str, Shape]) -> dict[str, Source]:
    """Return sources by open_clip's names; what is not known is left to the check."""
    sources: dict[str, Source] = {}
    for full in shapes:
        name = full.removeprefix("vision_model.")
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if full == "visual_projection.weight":
            sources["proj"] = Source((full,), _transposed)
        elif name in _TRANSFORMERS:
            sources[_TRANSFORMERS[name]] = Source((full,))
        elif match is None:
            continue
        elif match[2] in _BLOCK:
            block = f"transformer.resblocks.{match[1]}"
            sources[f"{block}.{_BLOCK[match[2]]}.{match[3]}"] = Source((full,))
        elif match[2] == "self_attn.q_proj":
            parts = tuple(full.replace("q_proj", f"{part}_proj") for part in "qkv")
            block = f"transformer.resblocks.{match[1]}"
            sources[f"{block}.attn.in_proj_{match[3]}"] = Source(parts, _joined)
    return sources


def _transposed(weight: Tensor) -> Tensor:
    return weight.T


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _tower_config(file: WeightFile, sources: Mapping[str, Source]) -> ImageEncoderConfig:
    prefix = "image_encoder.visual."

    def shape(name: str, axes: int) -> Shape:
        source = sources.get(prefix + name)
        found = file.shapes.get(source.names[0], ()) if source else ()
        if len(found) != axes:
            raise CheckpointError(
                f"{file.path}: lacks {prefix + name!r} of {WHAT}. Download it again, or give "
                f"another file."
            )
        return found

    if "quick" in str(file.config.get("hidden_act", "")):
        raise CheckpointError(
            f"{file.path}: its config.json has hidden_act {file.config['hidden_act']}, "
            f"expected gelu as in {WHAT}."
        )
    width, _, patch, _ = shape("conv1.weight", 4)
    positions, _ = shape("positional_embedding", 2)
    projection = shape("proj", 2)
    hidden, _ = shape("transformer.resblocks.0.mlp.c_fc.weight", 2)
    blocks = {n.split(".")[4] for n in sources if n.startswith(f"{prefix}transformer.")}
    side = round((positions - 1) ** 0.5)
    if width % _HEAD_WIDTH or side**2 != positions - 1:
        raise CheckpointError(
            f"{file.path}: not {WHAT}: it is {width} wide for {positions} positions, expected "
            f"1280 and 257. Give another file."
        )
    try:
        return ImageEncoderConfig(
            image_size=side * patch,
            patch_size=patch,
            width=width,
            layers=len(blocks),
            heads=width // _HEAD_WIDTH,
            mlp_ratio=hidden / width,
            # transformers keeps the transpose.
            embedding_dim=projection[1 if projection[0] == width else 0],
        )
    except ConfigError as error:
        raise CheckpointError(
            f"{file.path}: not {WHAT}: {error}. Give another file."
        ) from error
