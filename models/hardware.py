"""What the machine allows: device, dtype, and how much memory the networks need.

Bytes are of working memory: what is alive at once beside weights, inputs and results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .config import AutoencoderConfig, UNet3DConfig

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Dtypes by the name users give; `auto` is chosen by device."""

UNET_BYTES = 130
"""Working memory in bytes per frame, latent position and channel (`unet_width`), float32.
Counted, not measured on a GPU: 104 for the public layout (`benchmarks/activations.py`), plus
room for workspaces of kernels. Measured on a CPU as growth of resident memory with the tiny
layout: 98 (16 x 64 x 64 latents; 46 counted)."""
_ENCODE_BYTES = {"local": 20, "kl": 24}
_DECODE_BYTES = {"local": 24, "kl": 30}
"""The same by kind of autoencoder, per frame, pixel and value of the finest features (8 frames
of 768 x 768: 14 and 17; kl, 768 x 768: 20 and 25)."""


def choose_device(name: str = "auto") -> torch.device:
    """Return the device `name` stands for; `auto` takes a GPU where there is one.

    Raises:
        ValueError: If the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:
        # torch raises RuntimeError, AssertionError or NotImplementedError by backend.
        raise ValueError(
            f"device {name!r} cannot be used here; try 'cpu', 'cuda' or 'auto'"
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a network computes in; `auto` takes what is fast and safe.

    That is bfloat16 where the device multiplies it natively, else float32.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return named_dtype(name, "auto or ")


def named_dtype(name: str, also: str = "") -> torch.dtype:
    """Return the dtype of a name the user gave.

    Args:
        name: One of `DTYPES`.
        also: Other choices, for the message.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype must be {also}one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 natively.

    Others convert number by number: a CPU with AVX2 alone is fifty times slower with it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)


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
    return each * channels * positions * dtype.itemsize / torch.float32.itemsize


def unet_bytes(config: UNet3DConfig, positions: int, dtype: torch.dtype) -> float:
    """Return the working memory of the UNet on so many frames times latent positions."""
    return memory_bytes(UNET_BYTES, unet_width(config), positions, dtype)


def comfyui_factor(config: UNet3DConfig) -> float:
    """Return the factor that makes ComfyUI's own estimate that of `UNET_BYTES`.

    It takes frames * height * width of the latents * bytes per value * 0.01 * factor for MiB.
    """
    return UNET_BYTES / 4 * unet_width(config) / (0.01 * 2**20)


def unet_width(config: UNet3DConfig) -> int:
    """Return the channels that working memory goes by.

    The first transformer has 8 heads whatever the width of the levels. It needs as much as 5
    times the head's channels at the finest level would (counted, as `UNET_BYTES`).
    """
    return max(config.block_channels[0], 5 * config.head_dim * config.transformer_in)
