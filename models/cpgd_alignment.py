"""Alignment of features along coding priors, by modulated deformable convolution.

After CPGD-Net (arXiv 2504.12222), from its description. Motion is `[N, 2, H, W]`, x then y, in
positions of the map it belongs to: what a position shows lies at that place plus its motion in
the frame before. Validity is `[N, 1, H, W]`, 1 where that holds and 0 where nothing is known.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import Operations, zero_init

_KERNEL = 3
_ATTENTION = 0.1
"""What the residual adds to the logit of a sample's weight, or takes from it (the paper's)."""
_INVERSE_STEPS = 3
"""Of the fixed point that turns motion around: 1/600 of its length is left where the motion of
neighbours differs by a fifth of a position."""


class Neighbours(NamedTuple):
    """What is known of the two frames before one, seen from that frame."""

    motion: tuple[Tensor, Tensor]
    """To each."""
    valid: tuple[Tensor, Tensor]
    """Where it holds."""
    attention: tuple[Tensor, Tensor, Tensor]
    """Residual attention `[N, 1, H, W]` of the frame itself and of both, brought to it."""


def sample(maps: Tensor, motion: Tensor, padding: str = "zeros") -> Tensor:
    """Fetch, for each position, what lies at the end of its motion.

    Args:
        maps: `[N, C, H, W]`.
        motion: `[N, 2, H, W]`.
        padding: What lies outside: "zeros", or what is at the "border".

    Returns:
        `[N, C, H, W]`, bilinear between positions.
    """
    grid = rearrange(_to_grid(_positions(motion) + motion.float(), 1), "n xy h w -> n h w xy")
    fetched = F.grid_sample(maps.float(), grid, padding_mode=padding, align_corners=False)
    return fetched.to(maps)


def reversed_motion(motion: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Turn motion around: seen from the frame before, pointing to this one.

    Args:
        motion: `[N, 2, H, W]`.
        valid: `[N, 1, H, W]`.

    Returns:
        The same of the other direction: valid where both directions agree.
    """
    back = -motion
    for _ in range(_INVERSE_STEPS):
        back = -sample(motion, back, "border")
    return back, sample(valid, back) * agreement(back, motion)


def agreement(motion: Tensor, other: Tensor) -> Tensor:
    """Tell where going along `motion` and back along `other` ends where it began.

    Within a hundredth of the squared lengths, and half a position (the paper's bounds).
    """
    back = sample(other, motion, "border")
    apart = (motion + back).square().sum(1, keepdim=True)
    lengths = (motion.square() + back.square()).sum(1, keepdim=True)
    return (apart < 0.01 * lengths + 0.5).to(motion)


def deform_conv(
    x: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor | None
) -> Tensor:
    """Apply a modulated deformable 3x3 convolution (DCNv2, arXiv 1811.11168).

    As torchvision's `deform_conv2d`, from `grid_sample`: on a CPU that takes a third of the
    time forwards and an eighth backwards, and runs on every device.

    Args:
        x: `[N, C, H, W]`.
        offsets: `[N, groups, 9, 2, H, W]`, x then y, of each sample from its place in the
            kernel.
        weights: `[N, groups, 9, H, W]`, what each sample is multiplied by.
        kernel: `[O, C, 3, 3]`.
        bias: `[O]`.

    Returns:
        `[N, O, H, W]`.
    """
    return _weighed(_samples(x, offsets, weights), kernel, bias)


def _samples(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return what each position of the kernel meets, `[N, C * 9, H, W]`."""
    groups, taps = offsets.shape[1:3]
    steps = torch.arange(_KERNEL, device=x.device) - _KERNEL // 2
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([columns.flatten(), rows.flatten()], dim=-1)[..., None, None]
    places = offsets.float() + places + _positions(x)
    grid = rearrange(_to_grid(places, 3), "n g k xy h w -> (n g) (k h) w xy")
    split = rearrange(x, "n (g c) h w -> (n g) c h w", g=groups)
    samples = F.grid_sample(split.float(), grid, align_corners=False).to(x)
    samples = rearrange(samples, "(n g) c (k h) w -> n g c k h w", g=groups, k=taps)
    samples = samples * weights[:, :, None].to(x)
    return rearrange(samples, "n g c k h w -> n (g c k) h w")


def _weighed(samples: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(samples, rearrange(kernel, "o c y x -> o (c y x) 1 1"), bias)


def _positions(like: Tensor) -> Tensor:
    """Return x and y of every position of `[..., H, W]`: `[2, H, W]`."""
    height, width = like.shape[-2:]
    rows = torch.arange(height, device=like.device, dtype=torch.float32)
    columns = torch.arange(width, device=like.device, dtype=torch.float32)
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)])


def _to_grid(places: Tensor, axis: int) -> Tensor:
    """Turn positions into what `grid_sample` takes; `axis` holds x and y."""
    size = places.new_tensor([places.shape[-1], places.shape[-2]])
    size = size.reshape(2, *[1] * (places.ndim - axis - 1))
    return (2 * places + 1) / size - 1


@cache
def _deform_conv_class(operations: Operations) -> type:
    class DeformConv(operations.Conv2d):
        """A 3x3 convolution whose samples lie where it is told."""

        def forward(self, x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
            return super().forward(_samples(x, offsets, weights))

        # What layers call that bring or cast their weights as they run, as ComfyUI's do.
        def _conv_forward(
            self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any
        ) -> Tensor:
            return _weighed(input, weight, bias)

    return DeformConv


class Alignment(nn.Module):
    """Bring features of the two frames before to a frame.

    Where the features are sampled is the codec's motion plus what small convolutions add to
    it; they start at nothing.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        max_offset: float,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.groups, self.max_offset = groups, max_offset
        taps = _KERNEL**2
        # Features, and three maps of attention, two of validity, four of motion.
        self.enter = operations.Conv2d(3 * channels + 9, channels, 1, **where)
        self.middle = operations.Conv2d(channels, channels, 3, padding=1, **where)
        self.leave = operations.Conv2d(channels, 3 * taps * groups, 3, padding=1, **where)
        zero_init(self.leave)
        conv_class = _deform_conv_class(operations)
        self.deform = conv_class(2 * channels, channels, _KERNEL, padding=1, **where)

    def forward(
        self, current: Tensor, before: tuple[Tensor, Tensor], known: Neighbours
    ) -> Tensor:
        """Align.

        Args:
            current: Features of the frame, `[N, C, H, W]`.
            before: Those of the frame before it, and of the one before that.
            known: Motion to both.

        Returns:
            `[N, C, H, W]`.
        """
        warped = [sample(*pair) for pair in zip(before, known.motion, strict=True)]
        seen = [warped[0], current, warped[1], *known.attention, *known.valid, *known.motion]
        seen = torch.cat([part.to(current) for part in seen], dim=1)
        hidden = F.leaky_relu(self.enter(seen), 0.1)
        hidden = F.leaky_relu(self.middle(hidden), 0.1)
        out = rearrange(
            self.leave(hidden).float(),
            "n (g k parts) h w -> parts n g k h w",
            g=self.groups,
            parts=3,
        )
        offsets = self.max_offset * torch.tanh(out[:2])
        offsets = rearrange(offsets, "xy n g k h w -> n g k xy h w")
        motion = self._by_group(known.motion)[:, :, None]
        attention = self._by_group(known.attention[1:])
        weights = torch.sigmoid(out[2] + _ATTENTION * (2 * attention - 1))
        return self.deform(torch.cat(before, dim=1), offsets + motion, weights)

    def _by_group(self, pair: tuple[Tensor, ...]) -> Tensor:
        """Give half of the groups the first map `[N, C, H, W]`, half the second.

        Returns:
            `[N, groups, C, H, W]`.
        """
        return torch.stack(pair, dim=1).repeat_interleave(self.groups // 2, dim=1)
