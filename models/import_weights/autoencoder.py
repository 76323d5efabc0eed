"""Stable Diffusion's autoencoder, with the names of LDM or of diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..autoencoder import Autoencoder
from ..config import AutoencoderConfig
from ..config_fields import ConfigError
from ..tensor_file import CheckpointError, Shape
from .sources import Part, Source, as_matrix, check_sources
from .weight_file import WeightFile, looks_like

WHAT = "Stable Diffusion's autoencoder"
SCALING = 0.18215
"""Of Stable Diffusion 1 and 2, ModelScopeT2V and TF-T2V."""

_PREFIX = "first_stage_model."
_TRAINING = ("loss.", "model_ema.")
"""What LDM keeps of the autoencoder's training."""

_ENDS = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    # Names that diffusers had before 0.18, still in many files.
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


@dataclass(frozen=True, eq=False)
class ImportedAutoencoder:
    """What an autoencoder's file gives: autoencoder and blur encoder, which starts equal."""

    config: AutoencoderConfig
    part: Part


def import_autoencoder(file: WeightFile) -> ImportedAutoencoder:
    """Find the weights of autoencoder and blur encoder in a file.

    A whole Stable Diffusion checkpoint will do.

    Raises:
        CheckpointError: If it is another network, or a tensor is missing, too many or of
            another shape.
    """
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in file.shapes) else ""
    inside = {
        name.removeprefix(prefix): name
        for name in file.shapes
        if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_TRAINING)
    }
    if "encoder.down.0.block.0.conv1.weight" in inside:
        num_levels = 1 + max(int(n.split(".")[2]) for n in inside if _LEVEL.match(n))
        names = {ldm_to_diffusers(name, num_levels): full for name, full in inside.items()}
        layout = "LDM's names"
    elif "encoder.down_blocks.0.resnets.0.conv1.weight" in inside:
        names, layout = inside, "diffusers' names"
    else:
        raise CheckpointError(
            f"{file.path}: not {WHAT} (it looks like {looks_like(file.shapes)}). Give "
            f"v2-1_512-ema-pruned, VQGAN_autoencoder.pth or the folder vae of diffusers."
        )
    ours = {_placed(name): full for name, full in names.items()}
    config = _autoencoder_config(file, {n: file.shapes[full] for n, full in ours.items()})
    sources, expected = {}, {}
    for name, full in ours.items():
        sources[f"autoencoder.{name}"] = _source(name, full)
    for name, value in Autoencoder(config, device="meta").state_dict().items():
        expected[f"autoencoder.{name}"] = value
    check_sources(file, sources, expected, file.shapes.keys() - inside.values(), WHAT)
    encoder = "autoencoder.encoder."
    copies = {
        f"blur_encoder.{name.removeprefix(encoder)}": source
        for name, source in sources.items()
        if name.startswith(encoder)
    }
    return ImportedAutoencoder(config, Part(file.path, layout, {**sources, **copies}))


_LEVEL = re.compile(r"encoder\.down\.\d+\.")


def ldm_to_diffusers(name: str, num_levels: int) -> str:
    """Return the name that diffusers gives to a weight of LDM's `AutoencoderKL`.

    Names of no part of it come back as they are.
    """
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return name
    match = re.fullmatch(r"(down|up)\.(\d+)\.(.+)", rest)
    if match is not None:
        # LDM numbers the decoder's levels from the finest, diffusers in the order of use.
        level = int(match[2]) if match[1] == "down" else num_levels - 1 - int(match[2])
        inner = match[3].replace("nin_shortcut", "conv_shortcut")
        inner = re.sub(r"^block\.", "resnets.", inner)
        inner = re.sub(r"^(down|up)sample\.", r"\1samplers.0.", inner)
        return f"{half}.{match[1]}_blocks.{level}.{inner}"
    match = re.fullmatch(r"mid\.(block|attn)_(\d+)\.(.+)", rest)
    if match is not None:
        kind = "resnets" if match[1] == "block" else "attentions"
        return f"{half}.mid_block.{kind}.{int(match[2]) - 1}.{match[3]}"
    return f"{half}.conv_{rest}" if rest.startswith("norm_out.") else name


def _placed(name: str) -> str:
    """Return our name for one of diffusers'."""
    stem, _, kind = name.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{kind}"
    attention, found, inner = stem.partition(".attentions.0.")
    if found and inner in _ATTENTION:
        return f"{attention}{found}{_ATTENTION[inner]}.{kind}"
    return name


def _source(name: str, full: str) -> Source:
    # LDM's attention has 1x1 convolutions.
    if ".attentions." in name and name.endswith(".weight") and "group_norm" not in name:
        return Source((full,), as_matrix)
    return Source((full,))


def _autoencoder_config(file: WeightFile, shapes: Mapping[str, Shape]) -> AutoencoderConfig:
    scaling = file.config.get("scaling_factor", SCALING)
    if scaling != SCALING:
        raise CheckpointError(
            f"{file.path}: its config.json has scaling_factor {scaling}, expected {SCALING}: "
            f"the text-to-video models denoise the latents of Stable Diffusion 1 and 2."
        )
    blocks: dict[int, set[str]] = {}
    for name in shapes:
        if match := re.match(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    firsts = [f"encoder.down_blocks.{n}.resnets.0.conv1.weight" for n in range(len(blocks))]
    for name in (*firsts, "decoder.post_quant_conv.weight"):
        if len(shapes.get(name, ())) != 4:
            raise CheckpointError(
                f"{file.path}: lacks {name!r} of {WHAT}. Download it again, or give another "
                f"file."
            )
    channels = shapes["decoder.post_quant_conv.weight"][0]
    try:
        return AutoencoderConfig(
            kind="kl",
            latent_channels=channels,
            channels=tuple(shapes[name][0] for name in firsts),
            blocks=tuple(len(blocks[level]) for level in range(len(blocks))),
            latent_std=(1 / SCALING,) * channels,
        )
    except ConfigError as error:
        raise CheckpointError(
            f"{file.path}: not {WHAT}: {error}. Give another file."
        ) from error
