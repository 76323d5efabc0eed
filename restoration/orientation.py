"""Notice latents that were turned or mirrored since their frames were encoded.

Flip Latent and Rotate Latent pass on what travels with latents, the blurry frames included,
as they were: decoding one onto the other gives garbage. So does decoding a mirrored latent
onto mirrored frames, as its channels hold where in a position something lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .frames import DeviceFrames
from .phases import encode

TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored left to right": lambda latent: latent.flip(-1),
    "mirrored top to bottom": lambda latent: latent.flip(-2),
    "turned by 180 degrees": lambda latent: latent.flip(-1, -2),
    "turned by 90 degrees": lambda latent: latent.rot90(1, (-2, -1)),
    "turned by 270 degrees": lambda latent: latent.rot90(-1, (-2, -1)),
}
"""What undoes it, by what was done: clockwise, as Rotate Latent does. Quarter turns fit the
latents of squares only."""

_SIDE = 32
"""Positions along each side that are compared: coarse structure, which blur keeps."""
_LIKENESS = 0.6
_MARGIN = 0.1
"""Correlation that another orientation must have, and by how much it must beat the present
one. Restored latents of the bundled clips have 0.955 or more with those of their blurry frames
as they lie, 0.265 or less in any other orientation, and noise 0.02 or less in all
(`benchmarks/latent_orientation.py`, 2026-11-29)."""


def refuse_turned(divd: Any, latents: Tensor, frames: DeviceFrames) -> None:
    """Raise ValueError if latents `[T, C, h, w]`, normalised, lie otherwise than their frames.

    One frame is compared, the one whose latent holds most.
    """
    index = int(latents.flatten(1).std(dim=1).argmax())
    config = divd.config.autoencoder
    group = [(index, index + 1)]
    (blurry,) = encode(divd.encode_sharp, config, frames, group, lambda: None)
    latent, blurry = latents[index].float(), blurry[0, :, 0].float().to(latents.device)
    now = likeness(latent, blurry)
    found = {
        name: likeness(undo(latent), blurry)
        for name, undo in TURNS.items()
        if undo(latent).shape == blurry.shape
    }
    name, best = max(found.items(), key=lambda item: item[1])
    if best > max(_LIKENESS, now + _MARGIN):
        raise ValueError(
            f"latent is {name} against its blurry frames. Latents cannot be turned: turn the "
            f"decoded frames instead."
        )


def likeness(latent: Tensor, other: Tensor) -> float:
    """Return the correlation of the coarse structure of two latents `[C, h, w]`."""
    size = (min(latent.shape[-2], _SIDE), min(latent.shape[-1], _SIDE))
    coarse = [F.adaptive_avg_pool2d(one, size).flatten(1) for one in (latent, other)]
    a, b = (one - one.mean(dim=1, keepdim=True) for one in coarse)
    scale = torch.sqrt(a.square().sum() * b.square().sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0
