"""Restoring a region only: mixing restored and blurry frames by a mask."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor


def mask_input() -> io.Mask.Input:
    """Return the input that limits the work to a region."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="Where to restore: 1 restored, 0 left as it is. One mask for all frames, or "
        "one per frame, of the size of the frames.",
    )


def feather_input() -> io.Int.Input:
    """Return the input that softens the edge of the region."""
    return io.Int.Input(
        "feather",
        default=8,
        min=0,
        max=512,
        optional=True,
        tooltip="Width of the mask's soft edge, in pixels, inside the mask: what lies outside "
        "never changes. 0 takes the mask as it is.",
    )


def mask_weights(mask: Tensor, frames: Tensor, feather: int) -> Tensor:
    """Return the share of the restored frames in every pixel.

    Args:
        mask: `[T, H, W]`, `[1, H, W]` or `[H, W]`; outside of 0..1 it is limited.
        frames: `[T, H, W, C]`.
        feather: Width of the soft edge in pixels.

    Returns:
        float32 `[T or 1, H, W, 1]`, on the device of the frames; 0 wherever the mask is.

    Raises:
        ValueError: If the mask does not fit the frames, or a value is not a number (NaN).
    """
    if mask.ndim == 2:
        mask = mask[None]
    num_frames, height, width = frames.shape[:3]
    if mask.ndim != 3 or mask.shape[1:] != (height, width):
        size = "x".join(str(extent) for extent in reversed(mask.shape[1:]))
        raise ValueError(
            f"mask is {size} pixels but the frames are {width}x{height}. Scale it to the size "
            f"of the frames. (Load Image gives 64x64 where a picture has no transparency.)"
        )
    if len(mask) not in (1, num_frames):
        raise ValueError(
            f"mask has {len(mask)} frames but the clip has {num_frames}. Give one mask for all "
            f"frames, or one for each."
        )
    weights = mask.detach().float().cpu()
    if weights.isnan().any():
        raise ValueError("mask: values that are not numbers (NaN). Look at what made it.")
    weights = weights.clamp(0, 1)
    if feather:
        weights = torch.stack([_feathered(weight, feather) for weight in weights])
    return weights[..., None].to(frames.device)


def mix_by_mask(frames: Tensor, restored: Tensor, weights: Tensor) -> Tensor:
    """Return `restored` where `weights` are 1, `frames` where they are 0, bit by bit."""
    mixed = torch.empty_like(frames)
    for index, target in enumerate(mixed):
        weight = weights[index if len(weights) > 1 else 0]
        torch.lerp(frames[index], restored[index], weight, out=target)
    return mixed


def _feathered(weight: Tensor, width: int) -> Tensor:
    """Let a mask `[H, W]` rise over `width` pixels; the border of the picture is no edge."""
    import cv2

    inside = (weight > 0).numpy().astype("uint8")
    # The first pixel inside is at distance 1. A mask without an edge is infinitely far in.
    distance = torch.from_numpy(cv2.distanceTransform(inside, cv2.DIST_L2, 5))
    ramp = (distance / (width + 1)).clamp(0, 1)
    return weight * ramp * ramp * (3 - 2 * ramp)
