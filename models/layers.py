"""Blocks of the 3D-UNet that work on one position or its neighbours.

Inside the UNet a clip is `[N, C, H, W]` with frames folded into the batch (N = B * T), in
channels-last memory: convolutions are fastest so on CPUs and on tensor cores, and every
view as tokens or as a volume is free. Parameter names are those of diffusers'
`UNet3DConditionModel`, so that public weights load without renaming.

`operations` is a namespace with `Linear`, `Conv2d`, `Conv3d`, `GroupNorm`, `LayerNorm`,
`Embedding` and perhaps `BatchNorm2d` (`make_batch_norm`): `torch.nn`, or ComfyUI's `comfy.ops`,
which streams and casts weights.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Operations = Any
"""A namespace of layer classes: `torch.nn` or one of `comfy.ops`."""


@cache
def _channel_norm_class(operations: Operations) -> type:
    class ChannelNorm(operations.LayerNorm):
        """Normalise the channels of each position of `[N, C, ...]`, with scale and shift."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    return ChannelNorm


@cache
def _temporal_conv_class(operations: Operations) -> type:
    class TemporalConv(operations.Conv3d):
        """A (3, 1, 1) convolution, run as a 2-D one on `[B, C, T, H * W]`.

        The 2-D kernel is the same sum; CPUs run it at two to four times the rate of the 3-D
        one.
        """

        def _conv_forward(
            self, input: Tensor, weight: Tensor, bias: Tensor | None, autopad: Any = None
        ) -> Tensor:
            # Newer versions of comfy.ops pass `autopad`; None is what they pass here.
            return F.conv2d(input, weight.squeeze(-1), bias, padding=(1, 0))

    return TemporalConv


def make_norm(
    kind: str,
    channels: int,
    groups: int,
    eps: float,
    *,
    device: Any,
    dtype: Any,
    operations: Any,
) -> nn.Module:
    """Build the normalisation `kind` names, for `[N, C, ...]` inputs."""
    if kind == "channel":
        return _channel_norm_class(operations)(channels, eps=eps, device=device, dtype=dtype)
    return operations.GroupNorm(groups, channels, eps=eps, device=device, dtype=dtype)


def make_batch_norm(
    channels: int, *, device: Any, dtype: Any, operations: Any
) -> nn.BatchNorm2d:
    """Build batch normalisation: PyTorch's own where `operations` has none."""
    # ComfyUI 0.3.64 has none, newer versions do.
    layer = getattr(operations, "BatchNorm2d", nn.BatchNorm2d)
    return layer(channels, device=device, dtype=dtype)


def timestep_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """Embed timesteps as cosines and sines of geometric frequencies (DDPM, cosine first).

    Args:
        timesteps: float or int `[B]`.
        channels: Even width of the embedding.

    Returns:
        float32 `[B, channels]`.
    """
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    # Rounded in diffusers' order: another order moves angles near 1000 by 5e-5.
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) * steps / half)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers on the sinusoidal embedding."""

    def __init__(self, channels: int, hidden: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        self.linear_1 = operations.Linear(channels, hidden, device=device, dtype=dtype)
        self.linear_2 = operations.Linear(hidden, hidden, device=device, dtype=dtype)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(embedding)))


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with normalisation, timestep shift and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        norm: str,
        groups: int,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        self.norm1 = make_norm(norm, in_channels, groups, 1e-5, **make)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **where)
        self.time_emb_proj = operations.Linear(embedding_dim, out_channels, **where)
        self.norm2 = make_norm(norm, out_channels, groups, 1e-5, **make)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **where)
        self.conv_shortcut = (
            operations.Conv2d(in_channels, out_channels, 1, **where)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Apply to `[N, C, H, W]` with one embedding `[N, E]` per frame."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class TemporalConvLayer(nn.Module):
    """Four (3, 1, 1) convolutions over time with a skip; the last one starts at zero."""

    def __init__(
        self,
        channels: int,
        norm: str,
        groups: int,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        conv_class = _temporal_conv_class(operations)

        def unit(dropout: bool) -> nn.Sequential:
            layers: list[nn.Module] = [
                make_norm(
                    norm,
                    channels,
                    groups,
                    1e-5,
                    device=device,
                    dtype=dtype,
                    operations=operations,
                ),
                nn.SiLU(),
            ]
            if dropout:
                # Keeps the parameter names of the public weights; they trained with 0.1.
                layers.append(nn.Identity())
            layers.append(
                conv_class(
                    channels, channels, (3, 1, 1), padding=(1, 0, 0), device=device, dtype=dtype
                )
            )
            return nn.Sequential(*layers)

        self.conv1 = unit(dropout=False)
        self.conv2 = unit(dropout=True)
        self.conv3 = unit(dropout=True)
        self.conv4 = unit(dropout=True)
        zero_init(self.conv4[-1])

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Apply to `[N, C, H, W]` with N = B * num_frames."""
        # PyTorch tells that channels come last by the strides. Those of a single clip in five
        # axes, or in four made at once, say nothing, and each layer would copy.
        frames = rearrange(x, "n c h w -> n (h w) c").unflatten(0, (-1, num_frames))
        volume = rearrange(frames, "b t hw c -> b c t hw")
        h = self.conv4(self.conv3(self.conv2(self.conv1(volume))))
        return x + rearrange(h, "b c t (h w) -> (b t) c h w", h=x.shape[2])


class Downsample(nn.Module):
    """Halve height and width with a strided 3x3 convolution."""

    def __init__(self, channels: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(
            channels, channels, 3, stride=2, padding=1, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(
            channels, channels, 3, padding=1, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def zero_init(layer: Any) -> None:
    """Set a layer's weight and bias to zero, so that its branch starts as nothing."""
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            nn.init.zeros_(parameter)
