"""Blocks of MAXIM (Tu et al., "MAXIM: Multi-Axis MLP for Image Processing", CVPR 2022).

Features are `[B, H, W, C]` here, contiguous: normalisations and linear layers work on the last
axis as they are, and convolutions see the same memory as channels-last. A *side* is that of
the windows that positions are mixed in: of *blocks*, squares of side x side neighbours, or of
the *grid*, one position out of each of side x side parts of the frame. Height and width must
be multiples of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Axis = Literal["grid", "block"]

COLORS = 3
"""Of a frame: RGB."""

_EPSILON = 1e-6
"""Of every normalisation."""
_LEAK = 0.2
"""Slope of the leaky ReLU on the negative side."""


def convolve(layer: Any, x: Tensor) -> Tensor:
    """Apply a 2-D convolution to `[B, H, W, C]`."""
    return rearrange(layer(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


def resize(x: Tensor, factor: float) -> Tensor:
    """Resize `[B, H, W, C]` bilinearly, by a triangle as wide as the larger pixels."""
    planes = rearrange(x, "b h w c -> b c h w")
    # Torch has no triangle wider than two pixels in half precision on CPUs.
    smooth = factor < 1
    resized = F.interpolate(
        planes.float() if smooth else planes,
        scale_factor=factor,
        mode="bilinear",
        antialias=smooth,
    )
    return rearrange(resized.to(x.dtype), "b c h w -> b h w c")


def activated(layer: Any, x: Tensor) -> Tensor:
    """Apply a linear layer and the tanh form of GELU, in one pass where the layer can."""
    fused = getattr(layer, "with_gelu", None)
    return F.gelu(layer(x), approximate="tanh") if fused is None else fused(x)


class PositionMixing(nn.Module):
    """Mix the positions of each window of `[B, H, W, C]`, the same way in every channel."""

    def __init__(self, side: int, axis: Axis, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        self.side = side
        self.split = "b (s n) (t m) c" if axis == "grid" else "b (n s) (m t) c"
        # With positions in the second axis this is a product of two matrices, and rows of
        # pixels stay together in memory: twice as fast as positions last (CPU).
        self.mix = operations.Conv2d(side * side, side * side, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        size = {"s": self.side, "t": self.side}
        positions_first = rearrange(x, f"{self.split} -> b (s t) n (m c)", **size)
        size["m"] = x.shape[2] // self.side
        return rearrange(self.mix(positions_first), f"b (s t) n (m c) -> {self.split}", **size)


class GatedMlp(nn.Module):
    """A gated MLP along one axis: one projection, mixed over positions, gates another."""

    def __init__(
        self, channels: int, side: int, axis: Axis, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype}
        self.norm = operations.LayerNorm(channels, eps=_EPSILON, **make)
        self.enter = operations.Linear(channels, channels, **make)
        self.enter_gate = operations.Linear(channels, channels, **make)
        self.gate_norm = operations.LayerNorm(channels, eps=_EPSILON, **make)
        self.mixing = PositionMixing(side, axis, **make, operations=operations)
        self.leave = operations.Linear(channels, channels, **make)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        normal = self.norm(x)
        inside = activated(self.enter, normal)
        gate = self.mixing(self.gate_norm(activated(self.enter_gate, normal)))
        return x + self.leave(torch.addcmul(inside, inside, gate))


class TwoAxes(nn.Module):
    """Go through one branch over the whole frame and one within blocks, and add both up."""

    def __init__(
        self,
        channels: int,
        side: int,
        branch: Callable[..., nn.Module],
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype}
        self.norm = operations.LayerNorm(channels, eps=_EPSILON, **make)
        self.enter_grid = operations.Linear(channels, channels, **make)
        self.enter_block = operations.Linear(channels, channels, **make)
        self.grid = branch(side, "grid", **make, operations=operations)
        self.block = branch(side, "block", **make, operations=operations)
        self.leave_grid = operations.Linear(channels, channels, bias=False, **make)
        self.leave_block = operations.Linear(channels, channels, **make)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        normal = self.norm(x)
        far = self.leave_grid(self.grid(activated(self.enter_grid, normal)))
        return far + self.leave_block(self.block(activated(self.enter_block, normal)))


class MultiAxisMlp(TwoAxes):
    """Gated MLPs along both axes around a skip."""

    def __init__(self, channels: int, side: int, **make: Any):
        super().__init__(channels, side, partial(GatedMlp, channels), **make)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        return x + super().forward(x)


class ChannelAttention(nn.Module):
    """Scale each channel by what the means of all channels say."""

    def __init__(
        self, channels: int, reduction: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype}
        self.squeeze = operations.Linear(channels, channels // reduction, **make)
        self.excite = operations.Linear(channels // reduction, channels, **make)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(1, 2), keepdim=True)
        return x * self.excite(self.squeeze(means).relu()).sigmoid()


class ConvolutionBlock(nn.Module):
    """Two 3x3 convolutions and channel attention around a skip."""

    def __init__(
        self, channels: int, reduction: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype}
        self.norm = operations.LayerNorm(channels, eps=_EPSILON, **make)
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1, **make)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1, **make)
        self.attention = ChannelAttention(channels, reduction, **make, operations=operations)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        inside = F.leaky_relu(convolve(self.conv1, self.norm(x)), _LEAK)
        return x + self.attention(convolve(self.conv2, inside))


class ChannelMixingBlock(nn.Module):
    """An MLP at each position and channel attention around a skip."""

    def __init__(
        self, channels: int, reduction: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype}
        self.norm = operations.LayerNorm(channels, eps=_EPSILON, **make)
        self.enter = operations.Linear(channels, channels, **make)
        self.leave = operations.Linear(channels, channels, **make)
        self.attention = ChannelAttention(channels, reduction, **make, operations=operations)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        return x + self.attention(self.leave(activated(self.enter, self.norm(x))))


class CrossGating(nn.Module):
    """Two features of equal shape, each gated by the other."""

    def __init__(self, channels: int, side: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        make = {"device": device, "dtype": dtype}
        self.norm_x = operations.LayerNorm(channels, eps=_EPSILON, **make)
        self.norm_y = operations.LayerNorm(channels, eps=_EPSILON, **make)
        self.enter_x = operations.Linear(channels, channels, **make)
        self.enter_y = operations.Linear(channels, channels, **make)
        self.gate_x = TwoAxes(channels, side, PositionMixing, **make, operations=operations)
        self.gate_y = TwoAxes(channels, side, PositionMixing, **make, operations=operations)
        self.leave_x = operations.Linear(channels, channels, **make)
        self.leave_y = operations.Linear(channels, channels, **make)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gated features: x with y in it, and y, `[B, H, W, C]` each."""
        inside_x = activated(self.enter_x, self.norm_x(x))
        inside_y = activated(self.enter_y, self.norm_y(y))
        gated_y = y + self.leave_y(inside_y * self.gate_x(inside_x))
        gated_x = x + self.leave_x(inside_x * self.gate_y(inside_y))
        return gated_x + gated_y, gated_y


class Upsample(nn.Module):
    """Double height and width: four values of each position become those of a square."""

    def __init__(
        self, in_channels: int, out_channels: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        self.expand = operations.Linear(
            in_channels, 4 * out_channels, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.expand(x), "b h w (i j c) -> b (h i) (w j) c", i=2, j=2)


class ScaleFusion(nn.Module):
    """Bring features of all levels to one level and add them up."""

    def __init__(
        self, channels: tuple[int, ...], level: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        self.level = level
        self.projections = nn.ModuleList(
            operations.Linear(
                width, channels[level], bias=source == level, device=device, dtype=dtype
            )
            for source, width in enumerate(channels)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Sum `[B, H, W, C]` of each level, as `[B, h, w, c]` of this fusion's level."""
        total = self.projections[self.level](features[self.level])
        for source, projection in enumerate(self.projections):
            # A projection and bilinear resizing commute: whichever leaves less to do is first.
            if source < self.level:
                smaller = resize(features[source], 2.0 ** (source - self.level))
                total = total + projection(smaller)
            elif source > self.level:
                projected = projection(features[source])
                total = total + resize(projected, 2.0 ** (source - self.level))
        return total


class Supervision(nn.Module):
    """What the next stage takes of a decoder: weighed by the picture that it makes of it."""

    def __init__(self, channels: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        same = {"padding": 1, "device": device, "dtype": dtype}
        self.features = operations.Conv2d(channels, channels, 3, **same)
        self.picture = operations.Conv2d(channels, COLORS, 3, **same)
        self.weights = operations.Conv2d(COLORS, channels, 3, **same)

    def forward(self, decoded: Tensor, frame: Tensor) -> Tensor:
        """Map features `[B, H, W, C]` beside the frame at that scale `[B, H, W, 3]`."""
        picture = convolve(self.picture, decoded) + frame
        weights = convolve(self.weights, picture).sigmoid()
        return decoded + convolve(self.features, decoded) * weights
