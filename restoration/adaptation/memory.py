"""The memory that tuning takes on its device, in bytes."""

from __future__ import annotations

from typing import Any

from ...models.cpgd import Cpgd
from ...models.hardware import UNET_BYTES, decode_bytes, unet_width
from .settings import AdaptationSettings

_COPIES = 6
"""Of the weights in float32: the network, what it was, gradients, two moments, running mean."""
_KEPT = 7
"""What is kept for the gradients, of the working memory without them. Counted, float32: 6.5
for the tiny CPGD-Net, 4.0 for one with blocks at full resolution, 4.1 for the tiny DIVD."""


def adaptation_bytes(model: Any, settings: AdaptationSettings) -> float:
    """Return the memory of tuning a network of `learners`, its copy included."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    pixels = settings.clips * settings.frames * settings.crop**2
    return 4 * _COPIES * weights + _KEPT * _working_bytes(model) * pixels


def _working_bytes(model: Any) -> float:
    """Return what a pixel takes without gradients."""
    if isinstance(model, Cpgd):
        return model.bytes_per_pixel
    unet = UNET_BYTES * unet_width(model.config.unet) / model.downscale**2
    return unet + decode_bytes(model.config.autoencoder, 1)
