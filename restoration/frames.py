"""Frames on the device that restores them: checked, sent up once, brought back once.

Clips in memory are `[T, H, W, C]`, float32 in 0..1; frames of files are arrays `[H, W, C]`,
uint8 or uint16. C is 3, or 4 with alpha, which no network sees.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_MOST_KEPT_BYTES = 2**29
"""Frames of files stay on the device while a segment is restored, up to this size; larger
ones are sent up as they are needed."""
_TOLERATED = 1 / 64
"""What values may be beyond 0..1 without a word: resizing overshoots."""
_DEEP_OFFSET = 2**15
"""What uint16 values are shifted by to travel as int16, which every device knows."""


class DeviceFrames(Protocol):
    """The frames of a shot, or a part of it, as the networks read them."""

    def __len__(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        ...

    def colors(self, start: int, stop: int) -> Tensor:
        """Return some frames without alpha, `[t, H, W, 3]`, float32 in 0..1, on the device."""
        ...


class TensorFrames:
    """Frames of a clip in memory; sent to the device as they are read."""

    def __init__(self, frames: Tensor, device: torch.device) -> None:
        self._frames = frames
        self._device = device

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self._frames.shape[1], self._frames.shape[2]

    def colors(self, start: int, stop: int) -> Tensor:
        """See `DeviceFrames`."""
        return self._frames[start:stop, ..., :3].to(self._device).float()


class ArrayFrames:
    """Frames of a file; sent to the device once, in the precision they came in."""

    def __init__(self, frames: Sequence[np.ndarray], device: torch.device) -> None:
        self._arrays = frames
        self._device = device
        size = sum(frame.nbytes for frame in frames)
        self._keep = device.type != "cpu" and size <= _MOST_KEPT_BYTES
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self._arrays[0].shape[0], self._arrays[0].shape[1]

    def colors(self, start: int, stop: int) -> Tensor:
        """See `DeviceFrames`."""
        frames = [self._integers(index) for index in range(start, stop)]
        colors = torch.empty((len(frames), *self.size, 3), device=self._device)
        for target, values in zip(colors, frames, strict=True):
            if values.dtype == torch.uint8:
                torch.div(values, 255, out=target)
            else:
                target.copy_(values).add_(_DEEP_OFFSET).div_(65535)
        return colors

    def _integers(self, index: int) -> Tensor:
        """Return a frame as uint8, or as int16 shifted by `_DEEP_OFFSET`, on the device."""
        if index in self._kept:
            return self._kept[index]
        pixels = self._arrays[index][..., :3]
        if pixels.dtype == np.uint16:
            pixels = (pixels - np.uint16(_DEEP_OFFSET)).view(np.int16)
        on_device = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
        if self._keep:
            self._kept[index] = on_device
        return on_device


def rounded(colors: Tensor, dtype: np.dtype) -> Tensor:
    """Round colours in 0..1 to the integers of a file, on their device.

    Args:
        colors: `[..., 3]`, float32 in 0..1.
        dtype: uint8 or uint16.

    Returns:
        uint8, or int16 shifted by 32768, for `to_array`.
    """
    if dtype == np.uint8:
        return (colors * 255 + 0.5).floor_().to(torch.uint8)
    return (colors * 65535 + 0.5).floor_().sub_(_DEEP_OFFSET).to(torch.int16)


def unrounded(integers: Tensor) -> Tensor:
    """Return what `rounded` made int16 of, as float32 in 0..1."""
    return integers.float().add_(_DEEP_OFFSET).div_(65535)


def to_array(integers: Tensor) -> np.ndarray:
    """Bring what `rounded` returned to the host, as uint8 or uint16."""
    values = integers.cpu().numpy()
    if values.dtype == np.uint8:
        return values
    return values.view(np.uint16) + np.uint16(_DEEP_OFFSET)


def check_frames(frames: Tensor) -> None:
    """Raise ValueError unless `frames` is `[T, H, W, 3 or 4]` with at least one frame."""
    if frames.ndim != 4 or frames.shape[-1] not in (3, 4) or min(frames.shape) < 1:
        raise ValueError(
            f"frames must be [T, H, W, C] with at least one frame and C = 3 or 4, "
            f"got {list(frames.shape)}"
        )


def usable_frames(frames: Tensor) -> Tensor:
    """Check a clip that someone else made, and limit it to 0..1.

    Args:
        frames: `[T, H, W, C]`.

    Returns:
        float32, the same shape and device; `frames` itself where nothing is to be done.

    Raises:
        ValueError: If it is no clip, or a value is not a number (NaN).
    """
    check_frames(frames)
    frames = frames.float()
    # Frame by frame: no second copy of the clip; one transfer for all answers.
    lowest = torch.stack([frame.amin() for frame in frames])
    highest = torch.stack([frame.amax() for frame in frames])
    extremes = torch.stack([lowest, highest]).cpu()
    broken = extremes.isnan().any(0).nonzero().flatten().tolist()
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        raise ValueError(
            f"frames: values that are not numbers (NaN) in frame {shown} (counted from 0). "
            f"Look at what made them."
        )
    low, high = float(extremes[0].min()), float(extremes[1].max())
    if low >= 0 and high <= 1:
        return frames
    if low < -_TOLERATED or high > 1 + _TOLERATED:
        logger.warning(
            "frames hold values from %.3g to %.3g: limited to 0 and 1, which networks know",
            low,
            high,
        )
    limited = copied(frames)
    for frame in limited:
        frame.clamp_(0, 1)
    return limited


def copied(frames: Tensor) -> Tensor:
    """Return a copy of a clip `[T, ...]`, made frame by frame.

    ComfyUI's nodes end between two calls of PyTorch when the user cancels: a clip at once would
    take seconds.
    """
    copy = torch.empty_like(frames)
    for target, frame in zip(copy, frames, strict=True):
        target.copy_(frame)
    return copy
