"""Coding priors of frames at hand, as networks read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..models.cpgd_priors import ClipPriors, pool_priors


def priors_of_frames(frames: Iterable[np.ndarray]) -> ClipPriors:
    """Encode frames in memory and return what the codec found.

    Args:
        frames: uint8 `[H, W, 3]`, at least one, all of one size.

    Returns:
        `[1, ., T, H / 4, W / 4]`, float32, on the CPU.
    """
    # Not at the top: ComfyUI loads the engines at start-up and needs PyAV later.
    from ..video.coding_priors import encoded_priors

    parts: list[ClipPriors] = []
    for known in encoded_priors(frames):
        arrays = (known.motion, known.residual, known.valid)
        # Frame by frame: at full size they are three times as large as the frames.
        parts.append(pool_priors(*(torch.from_numpy(array)[None] for array in arrays)))
    joined = (torch.cat(part) for part in zip(*parts, strict=True))
    return ClipPriors(*(rearrange(part, "t c h w -> 1 c t h w") for part in joined))


def batched(priors: Sequence[ClipPriors]) -> ClipPriors:
    """Join the priors of clips of one size."""
    return ClipPriors(*(torch.cat(part) for part in zip(*priors, strict=True)))


def as_pictures(video: Tensor) -> Iterator[np.ndarray]:
    """Yield the frames of `[3, T, H, W]` in -1..1 as uint8 `[H, W, 3]`."""
    for frame in rearrange(video, "c t h w -> t h w c"):
        yield (frame * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu().numpy()
