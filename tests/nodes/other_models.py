"""Small models of random weights for nodes of ComfyUI that templates have beside ours."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

UPSCALER = "upscale_models/RealESRGAN_x4plus.safetensors"
INTERPOLATOR = "frame_interpolation/film_net_fp16.safetensors"
FIRST_STAGE = "upscale_models/NAFNet-GoPro-width64.pth"
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


def write_first_stage(path: Path) -> Path:
    """Write a small NAFNet that changes frames, as its authors save it."""
    from spandrel.architectures.NAFNet import NAFNet

    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params": network.state_dict()}, path)
    return path


def _write(path: Path, network: torch.nn.Module) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path
