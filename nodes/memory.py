"""Having ComfyUI make room for the networks and their work (`models/hardware.py`)."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from ..models.config import UNet3DConfig
from ..models.hardware import UNET_BYTES, unet_width
from .progress import uninterrupted


def make_patcher(network: Any, load_device: Any, offload_device: Any) -> Any:
    """Wrap a network in this version's ModelPatcher."""
    stop_when_cancelled(network)
    module = comfy.model_patcher
    # Newer versions stream weights through their own class where the device allows.
    patcher_class = getattr(module, "CoreModelPatcher", module.ModelPatcher)
    return patcher_class(network, load_device=load_device, offload_device=offload_device)


def stop_when_cancelled(network: nn.Module) -> None:
    """Have a network end at its next layer when the user cancels.

    Newer versions look by themselves in each of their layers. Without, a piece of work is
    computed to its end: 23 s of 640x360 on two busy cores.
    """
    for module in network.modules():
        if next(module.children(), None) is None:
            module.register_forward_pre_hook(_raise_if_cancelled)


def _raise_if_cancelled(module: nn.Module, inputs: Any) -> None:
    # A compiled network would be cut in two here.
    if not torch.compiler.is_compiling():
        comfy.model_management.throw_exception_if_processing_interrupted()


def memory_usage_factor(config: UNet3DConfig) -> float:
    """Return the factor that makes ComfyUI's own estimate that of `UNET_BYTES`.

    It takes frames * height * width of the latents * bytes per value * 0.01 * factor for MiB.
    """
    return UNET_BYTES / 4 * unet_width(config) / (0.01 * 2**20)


def load_to_device(patchers: list[Any], memory_bytes: float) -> None:
    """Have ComfyUI load networks and keep `memory_bytes` free for the work."""
    with uninterrupted():
        comfy.model_management.load_models_gpu(patchers, memory_required=memory_bytes)
