"""Having ComfyUI make room for the networks and their work (`models/hardware.py`)."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher

from ..models.config import UNet3DConfig
from ..models.hardware import UNET_BYTES, unet_width


def make_patcher(network: Any, load_device: Any, offload_device: Any) -> Any:
    """Wrap a network in this version's ModelPatcher."""
    module = comfy.model_patcher
    # Newer versions stream weights through their own class where the device allows.
    patcher_class = getattr(module, "CoreModelPatcher", module.ModelPatcher)
    return patcher_class(network, load_device=load_device, offload_device=offload_device)


def memory_usage_factor(config: UNet3DConfig) -> float:
    """Return the factor that makes ComfyUI's own estimate that of `UNET_BYTES`.

    It takes frames * height * width of the latents * bytes per value * 0.01 * factor for MiB.
    """
    return UNET_BYTES / 4 * unet_width(config) / (0.01 * 2**20)


def load_to_device(patchers: list[Any], memory_bytes: float) -> None:
    """Have ComfyUI load networks and keep `memory_bytes` free for the work."""
    comfy.model_management.load_models_gpu(patchers, memory_required=memory_bytes)
