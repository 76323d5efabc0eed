"""The UNets of ModelScopeT2V (arXiv 2308.06571) and TF-T2V (arXiv 2312.15770).

Published with the names of VGen (`input_blocks.0.0`, ...) or of diffusers (`conv_in`, ...),
which are ours. The first convolution gets channels for the blur latents, of zeros: before
training they change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import UNet3DConfig
from ..config_fields import ConfigError
from ..tensor_file import CheckpointError, Shape
from ..unet3d import UNet3D
from .sources import Part, Source, as_matrix, check_sources, unchanged
from .weight_file import WeightFile, looks_like

WHAT = "the UNet of ModelScopeT2V or TF-T2V"

_PREFIX = "model.diffusion_model."
_TOKENS = "pre_image_condition."
_CONDITIONS = re.compile(
    r"((depth|motion|canny|masked|mask|sketch|single_sketch|local_image)_embedding(_after)?"
    r"|hist_context_embedding)\."
)
"""TF-T2V's encoders of further conditions. Their channels of the first convolution are zero
without such a condition, so both are left out."""

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_PLACES = {1: "attentions", 2: "temp_attentions"}
"""Place in a block of VGen; the resnet with its temporal convolutions is at 0."""


@dataclass(frozen=True, eq=False)
class ImportedUNet:
    """What a UNet's file gives."""

    config: UNet3DConfig
    part: Part
    """The UNet, and for TF-T2V the token projection."""
    is_tf_t2v: bool
    num_tokens: int | None
    """Image tokens of TF-T2V's projection; None without one."""


def import_unet(file: WeightFile) -> ImportedUNet:
    """Find our UNet's weights in a file.

    Raises:
        CheckpointError: If it is another network, or a tensor is missing, too many or of
            another shape.
    """
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in file.shapes) else ""
    inside = {
        name.removeprefix(prefix): name for name in file.shapes if name.startswith(prefix)
    }
    if "input_blocks.0.0.weight" in inside:
        names = {vgen_to_diffusers(name): full for name, full in inside.items()}
        layout = "ModelScopeT2V (VGen's names)"
    elif "conv_in.weight" in inside and "down_blocks.0.resnets.0.conv1.weight" in inside:
        names, layout = dict(inside), "ModelScopeT2V (diffusers' names)"
    elif any(re.match(r"input_blocks\.0\.|conv_in\.", name) for name in inside):
        raise CheckpointError(
            f"{file.path}: lacks the first convolution of {WHAT} (input_blocks.0.0.weight or "
            f"conv_in.weight) or what follows it. Download it again, or give another file."
        )
    else:
        raise CheckpointError(
            f"{file.path}: not {WHAT} (it looks like {looks_like(file.shapes)}). Give "
            f"text2video_pytorch_model.pth, tft2v_t2v_non_ema_*.pth or the folder unet of "
            f"diffusers."
        )
    tokens = {name: names.pop(name) for name in list(names) if name.startswith(_TOKENS)}
    dropped = {names.pop(name) for name in list(names) if _CONDITIONS.match(name)}
    dropped |= file.shapes.keys() - inside.values()
    if tokens:
        layout = "TF-T2V (VGen's names)"
    shapes = {name: file.shapes[full] for name, full in names.items()}
    config = _unet_config(file, shapes, num_conditions=2 if tokens else 0)

    sources = {}
    expected = {}
    for name, full in names.items():
        sources[f"unet.{name}"] = Source((full,), _maker(name, config))
    for name, value in UNet3D(config, device="meta").state_dict().items():
        expected[f"unet.{name}"] = value
    num_tokens = None
    if tokens:
        for name, full in tokens.items():
            target = f"image_encoder.token_projection.{name.removeprefix(_TOKENS)}"
            sources[target] = Source((full,))
        projection, num_tokens = _token_projection(file, tokens, config)
        expected.update(projection)
    check_sources(file, sources, expected, dropped, WHAT)
    return ImportedUNet(config, Part(file.path, layout, sources), bool(tokens), num_tokens)


def vgen_to_diffusers(name: str) -> str:
    """Return the name that diffusers gives to a weight of VGen's UNet.

    Names of no part of the UNet come back as they are.
    """
    stem, _, kind = name.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{kind}"
    block, _, rest = name.partition("_block")
    match = re.fullmatch(r"s?\.(\d+)\.(.+)", rest)
    if block not in ("input", "middle", "output") or match is None:
        return name
    index, rest = int(match[1]), match[2]
    if block == "middle":
        if index in (0, 3):
            return f"mid_block.{_in_resnet(rest, index // 3)}"
        return f"mid_block.{_PLACES[index]}.0.{rest}" if index in _PLACES else name
    if block == "input" and index == 0:
        return "transformer_in." + rest.removeprefix("1.") if rest.startswith("1.") else name
    level, layer = divmod(index - (block == "input"), 3)
    blocks = f"{'down' if block == 'input' else 'up'}_blocks.{level}"
    if block == "input" and rest.startswith("op."):
        return f"{blocks}.downsamplers.0.conv.{kind}"
    place, _, inner = rest.partition(".")
    if block == "output" and inner.startswith("conv."):
        return f"{blocks}.upsamplers.0.{inner}"  # at 1 or 3, after what the level has
    if place == "0":
        return f"{blocks}.{_in_resnet(inner, layer)}"
    if place in ("1", "2"):
        return f"{blocks}.{_PLACES[int(place)]}.{layer}.{inner}"
    return name


def _in_resnet(name: str, layer: int) -> str:
    stem, _, kind = name.rpartition(".")
    if name.startswith("temopral_conv."):  # VGen's spelling
        return f"temp_convs.{layer}.{name.removeprefix('temopral_conv.')}"
    return f"resnets.{layer}.{_RESNET.get(stem, stem)}.{kind}"


def _maker(name: str, config: UNet3DConfig) -> Callable[[Tensor], Tensor]:
    """Return how a weight is made from the file's, by its name in diffusers."""
    channels = config.out_channels

    def with_blur_channels(weight: Tensor) -> Tensor:
        noisy = weight[:, :channels]
        return torch.cat([noisy, torch.zeros_like(noisy)], dim=1)

    if name == "conv_in.weight":
        return with_blur_channels
    if name.endswith(("proj_in.weight", "proj_out.weight")):
        return as_matrix  # VGen's temporal transformers have convolutions there
    return unchanged


def _unet_config(
    file: WeightFile, shapes: Mapping[str, Shape], num_conditions: int
) -> UNet3DConfig:
    """Read the structure off the names and shapes.

    Args:
        file: For messages.
        shapes: By diffusers' names.
        num_conditions: How many more times the latent channels the first convolution takes.
    """
    if not any(".temp_convs." in name for name in shapes):
        raise CheckpointError(
            f"{file.path}: a UNet for images, it has no temporal layers; expected {WHAT}."
        )

    def shape(name: str, axes: int) -> Shape:
        if name not in shapes:
            raise CheckpointError(
                f"{file.path}: lacks {name!r} of {WHAT}. Download it again, or give another "
                f"file."
            )
        if len(shapes[name]) != axes:
            raise CheckpointError(
                f"{file.path}: {name!r} has shape {list(shapes[name])}, expected {axes} axes. "
                f"Give another file."
            )
        return shapes[name]

    def count(pattern: str) -> int:
        return len({match[1] for name in shapes if (match := re.match(pattern, name))})

    num_levels = count(r"down_blocks\.(\d+)\.")
    in_channels = shape("conv_in.weight", 4)[1]
    out_channels = shape("conv_out.weight", 4)[0]
    expected = (1 + num_conditions) * out_channels
    if in_channels != expected:
        raise CheckpointError(
            f"{file.path}: its first convolution takes {in_channels} channels, expected "
            f"{expected}: 4 for ModelScopeT2V, 12 for TF-T2V. Give another file."
        )
    head_dim = file.config.get("attention_head_dim", 64)
    if head_dim != 64:
        raise CheckpointError(
            f"{file.path}: its config.json has attention_head_dim {head_dim}, expected 64"
        )
    cross = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    levels = range(num_levels)

    def level_has(kind: str) -> tuple[bool, ...]:
        return tuple(f"down_blocks.{n}.{kind}.0.norm.weight" in shapes for n in levels)

    try:
        return UNet3DConfig(
            in_channels=2 * out_channels,
            out_channels=out_channels,
            block_channels=tuple(
                shape(f"down_blocks.{level}.resnets.0.conv1.weight", 4)[0] for level in levels
            ),
            layers_per_block=count(r"down_blocks\.0\.resnets\.(\d+)\."),
            context_dim=shape(cross, 2)[1],
            attention_levels=level_has("attentions"),
            temporal_levels=level_has("temp_attentions"),
            windows=((8, 8, 8),) * num_levels,
        )
    except ConfigError as error:
        raise CheckpointError(
            f"{file.path}: not {WHAT}: {error}. Give another file."
        ) from error


def _token_projection(
    file: WeightFile, tokens: Mapping[str, str], config: UNet3DConfig
) -> tuple[dict[str, Tensor], int]:
    """Return the weights that TF-T2V's `pre_image_condition` should have, and the tokens.

    Its embedding is as wide as its tokens.
    """
    width = config.context_dim
    last = file.shapes.get(tokens.get(f"{_TOKENS}2.weight", ""), (0,))
    num_tokens = max(1, last[0] // width)
    shapes = {
        "0.weight": (width, width),
        "0.bias": (width,),
        "2.weight": (num_tokens * width, width),
        "2.bias": (num_tokens * width,),
    }
    prefix = "image_encoder.token_projection."
    expected = {prefix + n: torch.empty(s, device="meta") for n, s in shapes.items()}
    return expected, num_tokens
