"""Weights as others publish them, written from random networks of diffusers and open_clip.

The names are walked in the order in which the published networks are used, on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
CONDITIONS = {
    "depth_embedding": 1,
    "motion_embedding": 2,
    "canny_embedding": 1,
    "masked_embedding": 4,
    "sketch_embedding": 1,
    "single_sketch_embedding": 1,
    "local_image_embedding": 3,
}
"""TF-T2V's further conditions and their channels."""


def full_unet_config():
    """Return diffusers' arguments for the UNet as published."""
    return {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1024}


def small_unet_config(attends=(True, True, True, False)):
    return {
        "block_out_channels": (64, 64, 64, 64),
        "cross_attention_dim": 64,
        "down_block_types": tuple(
            "CrossAttnDownBlock3D" if level else "DownBlock3D" for level in attends
        ),
        "up_block_types": tuple(
            "CrossAttnUpBlock3D" if level else "UpBlock3D" for level in attends[::-1]
        ),
    }


def vgen_modules(attends=(True, True, True, False)) -> Iterator[tuple[str, str]]:
    """Yield (VGen's, diffusers') names of the UNet's modules that hold weights together."""
    last = len(attends) - 1
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    yield "input_blocks.0.1", "transformer_in"
    block = 1
    for level, attention in enumerate(attends):
        for layer in range(2):
            theirs = f"down_blocks.{level}"
            yield from _block_modules(f"input_blocks.{block}", theirs, layer, attention)
            block += 1
        if level < last:
            yield f"input_blocks.{block}.op", f"down_blocks.{level}.downsamplers.0.conv"
            block += 1
    yield from _block_modules("middle_block", "mid_block", 0, True)
    yield from _resnet_modules("middle_block.3", "mid_block", 1)
    block = 0
    for position, attention in enumerate(attends[::-1]):
        for layer in range(3):
            theirs = f"up_blocks.{position}"
            yield from _block_modules(f"output_blocks.{block}", theirs, layer, attention)
            if layer == 2 and position < last:
                slot = 3 if attention else 1
                yield f"output_blocks.{block}.{slot}.conv", f"{theirs}.upsamplers.0.conv"
            block += 1
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def _block_modules(ours, theirs, layer, attention):
    yield from _resnet_modules(f"{ours}.0", theirs, layer)
    if attention:
        yield f"{ours}.1", f"{theirs}.attentions.{layer}"
        yield f"{ours}.2", f"{theirs}.temp_attentions.{layer}"


def _resnet_modules(ours, theirs, layer):
    for vgen, diffusers in RESNET.items():
        yield f"{ours}.{vgen}", f"{theirs}.resnets.{layer}.{diffusers}"
    yield f"{ours}.temopral_conv", f"{theirs}.temp_convs.{layer}"


def vgen_state_dict(
    reference: dict[str, Tensor], attends=(True, True, True, False)
) -> dict[str, Tensor]:
    """Rename the weights of diffusers' UNet as `text2video_pytorch_model.pth` has them."""
    weights = {}
    for ours, theirs in vgen_modules(attends):
        for name, value in reference.items():
            if name.startswith(f"{theirs}."):
                rest = name.removeprefix(theirs)
                temporal = ours == "input_blocks.0.1" or ".temp_attentions." in name
                if temporal and rest in (".proj_in.weight", ".proj_out.weight"):
                    value = value[..., None]  # a Conv1d over one position
                weights[ours + rest] = value
    assert len(weights) == len(reference)
    return weights


def tf_t2v_state_dict(
    reference: dict[str, Tensor],
    attends=(True, True, True, False),
    conditions=tuple(CONDITIONS),
) -> dict[str, Tensor]:
    """As `vgen_state_dict`, with what TF-T2V has besides."""
    weights = vgen_state_dict(reference, attends)
    first = weights["input_blocks.0.0.weight"]
    weights["input_blocks.0.0.weight"] = torch.cat(
        [first, torch.randn(len(first), 8, 3, 3, dtype=first.dtype)], dim=1
    )
    width = reference["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    projection = nn.Sequential(
        nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 4 * width)
    ).to(first.dtype)
    weights |= _prefixed("pre_image_condition", projection.state_dict())
    for name in conditions:
        encoder = nn.Sequential(
            nn.Conv2d(CONDITIONS[name], 32, 3),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(32, 32, 3),
            nn.SiLU(),
            nn.Conv2d(32, 8, 3),
        )
        after = {
            "layers.0.0.norm.weight": torch.ones(8),
            "layers.0.1.net.2.bias": torch.ones(8),
        }
        weights |= _prefixed(name, encoder.state_dict())
        weights |= _prefixed(f"{name.replace('masked', 'mask')}_after", after)
    return weights


def ldm_state_dict(reference: dict[str, Tensor], num_levels: int = 4) -> dict[str, Tensor]:
    """Rename the weights of diffusers' AutoencoderKL as LDM has them."""
    pairs = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]
    for half, way, layers in (("encoder", "down", 2), ("decoder", "up", 3)):
        pairs += [(f"{half}.{end}", f"{half}.{end}") for end in ("conv_in", "conv_out")]
        pairs += [
            (f"{half}.norm_out", f"{half}.conv_norm_out"),
            (f"{half}.mid.block_1", f"{half}.mid_block.resnets.0"),
            (f"{half}.mid.block_2", f"{half}.mid_block.resnets.1"),
        ]
        pairs += [
            (f"{half}.mid.attn_1.{ldm}", f"{half}.mid_block.attentions.0.{theirs}")
            for ldm, theirs in (
                *(("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v")),
                ("proj_out", "to_out.0"),
            )
        ]
        for level in range(num_levels):
            # `up.0` is the finest level, used last.
            theirs = f"{half}.{way}_blocks.{level if way == 'down' else num_levels - 1 - level}"
            for layer in range(layers):
                pairs += [(f"{half}.{way}.{level}.block.{layer}", f"{theirs}.resnets.{layer}")]
            pairs += [(f"{half}.{way}.{level}.{way}sample", f"{theirs}.{way}samplers.0")]
    weights = {}
    for ours, theirs in pairs:
        for name, value in reference.items():
            if name.startswith(f"{theirs}."):
                rest = name.removeprefix(theirs).replace("conv_shortcut", "nin_shortcut")
                if ".attn_1." in ours and ".norm" not in ours and rest == ".weight":
                    value = value[..., None, None]  # a 1x1 convolution
                weights[ours + rest] = value
    assert len(weights) == len(reference)
    return weights


def old_diffusers_state_dict(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an autoencoder's attention as diffusers had it before 0.18."""
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value."}
    old[".to_out.0."] = ".proj_attn."
    weights = {}
    for name, value in reference.items():
        for new, before in old.items():
            name = name.replace(new, before)
        weights[name] = value
    return weights


def randomised(module: nn.Module, dtype=torch.float32) -> dict[str, Tensor]:
    """Return weights of a network in which every branch does something."""
    generator = torch.Generator().manual_seed(2)
    return {
        name: (value + 0.02 * torch.randn(value.shape, generator=generator)).to(dtype)
        for name, value in module.state_dict().items()
    }


def small_unet() -> nn.Module:
    """Return diffusers' UNet at a fraction of the published width, random."""
    from diffusers import UNet3DConditionModel

    return _random(UNet3DConditionModel(**small_unet_config()))


def small_autoencoder() -> nn.Module:
    """Return diffusers' autoencoder at a fraction of the published width, random."""
    from diffusers import AutoencoderKL

    return _random(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=2,
            latent_channels=4,
        )
    )


def small_clip() -> nn.Module:
    """Return open_clip's model at a fraction of the published width, random."""
    from open_clip.model import CLIP

    return _random(
        CLIP(
            embed_dim=64,
            vision_cfg={
                **{"image_size": 28, "patch_size": 14, "layers": 2, "width": 160},
                "head_width": 80,
            },
            text_cfg={
                **{"context_length": 7, "vocab_size": 20, "width": 32},
                **{"heads": 2, "layers": 1},
            },
        )
    )


def write_files(
    folder: Path, unet: nn.Module, autoencoder: nn.Module, clip: nn.Module
) -> SimpleNamespace:
    """Write weights that fit together: `modelscope`, `tf_t2v`, `vae`, `clip`."""
    weights, vae = unet.state_dict(), autoencoder.state_dict()
    found = SimpleNamespace(
        modelscope=folder / "text2video_pytorch_model.pth",
        tf_t2v=folder / "tft2v_t2v_non_ema_512000.pth",
        vae=folder / "v2-1_512-ema-pruned.safetensors",
        clip=folder / "open_clip_pytorch_model.bin",
    )
    torch.save(vgen_state_dict(weights), found.modelscope)
    torch.save({"state_dict": tf_t2v_state_dict(weights), "step": 512000}, found.tf_t2v)
    ldm = {f"first_stage_model.{name}": w for name, w in ldm_state_dict(vae).items()}
    ldm["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    ldm["cond_stage_model.model.logit_scale"] = torch.zeros(1)
    save_file({name: weight.contiguous() for name, weight in ldm.items()}, found.vae)
    torch.save(clip.state_dict(), found.clip)
    return found


def write_folder(folder: Path, name: str, weights: dict[str, Tensor], **config) -> Path:
    """Write weights and config.json as diffusers does."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: w.contiguous() for n, w in weights.items()}, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _prefixed(prefix, weights):
    return {f"{prefix}.{name}": value for name, value in weights.items()}


def _random(network: nn.Module) -> nn.Module:
    network.load_state_dict(randomised(network))
    return network.eval().requires_grad_(False)
