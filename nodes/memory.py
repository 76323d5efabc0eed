"""How much memory the networks need, and having ComfyUI make room for it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

from ..models.config import AutoencoderConfig, UNet3DConfig

UNET_BYTES = 130
"""Working memory in bytes per frame, latent position and channel (`unet_width`), float32.
Counted, not measured on a GPU: 104 for the public layout (`benchmarks/activations.py`), plus
room for workspaces of kernels. Measured on a CPU as growth of resident memory with the tiny
layout: 98 (16 x 64 x 64 latents; 46 counted)."""
_ENCODE_BYTES = {"local": 20, "kl": 24}
_DECODE_BYTES = {"local": 24, "kl": 30}
"""The same by kind of autoencoder, per frame, pixel and value of the finest features (8 frames
of 768 x 768: 14 and 17; kl, 768 x 768: 20 and 25)."""


def make_patcher(network: Any, load_device: Any, offload_device: Any) -> Any:
    """Wrap a network in this version's ModelPatcher."""
    module = comfy.model_patcher
    # Newer versions stream weights through their own class where the device allows.
    patcher_class = getattr(module, "CoreModelPatcher", module.ModelPatcher)
    return patcher_class(network, load_device=load_device, offload_device=offload_device)


def encode_bytes(
    config: AutoencoderConfig, num_pixels: int, dtype: torch.dtype = torch.float32
) -> float:
    """Return the working memory of encoding `num_pixels` pixels at once, in bytes."""
    values = config.values_per_pixel
    return memory_bytes(_ENCODE_BYTES[config.kind], values, num_pixels, dtype)


def decode_bytes(
    config: AutoencoderConfig, num_pixels: int, dtype: torch.dtype = torch.float32
) -> float:
    """Return the working memory of decoding `num_pixels` pixels at once, in bytes."""
    values = config.values_per_pixel
    return memory_bytes(_DECODE_BYTES[config.kind], values, num_pixels, dtype)


def memory_bytes(each: float, channels: float, positions: int, dtype: torch.dtype) -> float:
    """Return working memory in bytes, from that of a float32 position and channel."""
    return each * channels * positions * comfy.model_management.dtype_size(dtype) / 4


def unet_width(config: UNet3DConfig) -> int:
    """Return the channels that working memory goes by.

    The first transformer has 8 heads whatever the width of the levels. It needs as much as 5
    times the head's channels at the finest level would (counted, as `UNET_BYTES`).
    """
    return max(config.block_channels[0], 5 * config.head_dim * config.transformer_in)


def memory_usage_factor(config: UNet3DConfig) -> float:
    """Return the factor that makes ComfyUI's own estimate that of `UNET_BYTES`.

    It takes frames * height * width of the latents * bytes per value * 0.01 * factor for MiB.
    """
    return UNET_BYTES / 4 * unet_width(config) / (0.01 * 2**20)


def load_to_device(patchers: list[Any], memory_bytes: float) -> None:
    """Have ComfyUI load networks and keep `memory_bytes` free for the work."""
    comfy.model_management.load_models_gpu(patchers, memory_required=memory_bytes)
