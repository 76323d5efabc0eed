"""Coding priors as CPGD-Net reads them: at a quarter of the resolution, in both directions.

Clips are `[B, C, T, h, w]`, where h and w are a quarter of the frames' sides, rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpgd_alignment import agreement, reversed_motion

SCALE = 4
"""Pixels per position of priors and of what is propagated along them."""


class ClipPriors(NamedTuple):
    """What a codec knows of a clip."""

    motion: Tensor
    """2 channels, x and y, in positions: what lies here was at this place plus its motion in
    the frame before. The first frame has none."""
    attention: Tensor
    """1 channel, 0..1: how much of the frame the motion does not explain."""
    valid: Tensor
    """1 channel, 0..1: the share of pixels that have motion. A frame without any starts a new
    scene."""

    def to(self, device: torch.device | str) -> ClipPriors:
        """Return them on a device."""
        return ClipPriors(*(part.to(device) for part in self))


class Links(NamedTuple):
    """How frames hang together in the order of a pass; one entry per frame."""

    motion: list[Tensor]
    """To the frame before, `[B, 2, h, w]`, in positions."""
    valid: list[Tensor]
    """`[B, 1, h, w]`: 1 where it holds, else 0."""
    attention: list[Tensor]
    """`[B, 1, h, w]` in 0..1."""
    linked: list[Tensor]
    """`[B, 1, 1, 1]`: 0 where nothing of the frame before shows, else 1."""


def no_priors(video: Tensor) -> ClipPriors:
    """Return priors for a video `[B, 3, T, H, W]` that say nothing, on its device."""
    batch, _, num_frames, height, width = video.shape
    sides = (-(-height // SCALE), -(-width // SCALE))
    return ClipPriors(
        *(video.new_zeros(batch, channels, num_frames, *sides) for channels in (2, 1, 1))
    )


def pool_priors(motion: Tensor, residual: Tensor, valid: Tensor) -> ClipPriors:
    """Bring the priors of frames to a quarter of their resolution.

    Args:
        motion: `[T, 2, H, W]`, in pixels; see `ClipPriors`.
        residual: `[T, 1, H, W]`: frame less prediction, -1..1.
        valid: `[T, 1, H, W]`: 1 or True where there is motion.

    Returns:
        `[T, ., h, w]`, float32.
    """
    pad = (0, -motion.shape[-1] % SCALE, 0, -motion.shape[-2] % SCALE)

    def pooled(maps: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(maps.float(), pad, mode="replicate"), SCALE)

    share = pooled(valid)
    mean = pooled(motion * valid) / share.clamp_min(1e-6) / SCALE
    return ClipPriors(mean, pooled(residual_attention(residual)), share)


def residual_attention(residual: Tensor) -> Tensor:
    """Return the size of a residual `[..., H, W]`, from 0 to 1 over each frame."""
    size = residual.float().abs()
    lowest, highest = size.amin((-2, -1), keepdim=True), size.amax((-2, -1), keepdim=True)
    # A static picture has none, and its rounding is not to be made large.
    return (size - lowest) / (highest - lowest + 0.0025)


def check_priors(video: Tensor, priors: ClipPriors) -> None:
    """Raise ValueError unless priors are of the frames of a video `[B, 3, T, H, W]`."""
    batch, _, num_frames, height, width = video.shape
    sides = [-(-height // SCALE), -(-width // SCALE)]
    for name, channels in (("motion", 2), ("attention", 1), ("valid", 1)):
        shape = list(getattr(priors, name).shape)
        expected = [batch, channels, num_frames, *sides]
        if shape != expected:
            raise ValueError(
                f"coding priors: {name} is {shape}, expected {expected} for {num_frames} "
                f"frames of {width}x{height} pixels: they are of another clip"
            )


def make_links(priors: ClipPriors, kind: str) -> tuple[Links, Links]:
    """Return what passes forward and backward go by, backward in reversed order.

    Args:
        priors: Of clips.
        kind: What of them is used (`CpfpConfig.priors`).
    """
    motion, attention, share = (part.float() for part in priors)
    if kind != "motion_residual":
        attention = torch.zeros_like(attention)
    if kind == "none":
        # Without a codec all frames hang together, and nothing is known of where.
        motion, share = torch.zeros_like(motion), torch.ones_like(share)
    linked = (share.amax((-2, -1), keepdim=True) > 0).float()
    valid = (share >= 0.5).float()
    parts = (motion * linked, valid, attention * linked, linked)
    forward = Links(*(list(part.unbind(2)) for part in parts))
    back = [
        reversed_motion(*pair)
        for pair in zip(forward.motion[1:], forward.valid[1:], strict=True)
    ]
    agreed = [
        held * agreement(there, there_and_back)
        for held, there, (there_and_back, _) in zip(
            forward.valid[1:], forward.motion[1:], back, strict=True
        )
    ]
    # The first frame of a pass has none before it: what stands there is not read.
    backward = Links(
        [*_with_first(forward.motion[0], [motion for motion, _ in back[::-1]])],
        [*_with_first(forward.valid[0], [valid for _, valid in back[::-1]])],
        forward.attention[::-1],
        [*_with_first(forward.linked[0], forward.linked[:0:-1])],
    )
    return forward._replace(valid=[forward.valid[0], *agreed]), backward


def _with_first(like: Tensor, rest: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(like), *rest]
