"""Small models of random weights for nodes of ComfyUI that follow ours in templates."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

UPSCALER = "upscale_models/RealESRGAN_x4plus.safetensors"
INTERPOLATOR = "frame_interpolation/film_net_fp16.safetensors"
"""Under the names that the templates choose."""


def write_upscaler(models: Path) -> Path:
    """Write a compact network that enlarges four times (ComfyUI tells it by its weights)."""
    from spandrel.architectures.Compact import Compact

    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Compact(num_feat=8, num_conv=1, upscale=4)
    return _write(models / UPSCALER, network)


def write_interpolator(models: Path) -> Path:
    """Write a narrow RIFE, which ComfyUI tells from FILM by its weights."""
    from comfy_extras.frame_interpolation_models.ifnet import IFNet

    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = IFNet(head_ch=4, channels=[16, 16, 16, 16, 16])
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return _write(models / INTERPOLATOR, network)


def _write(path: Path, network: torch.nn.Module) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path
