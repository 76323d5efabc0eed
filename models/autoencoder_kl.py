"""The autoencoder of Stable Diffusion (KL-f8, arXiv 2112.10752), as encoder and decoder.

Structure and parameter names are those of diffusers' `AutoencoderKL`, so that its weights
load as they are; the 1x1 convolutions at the latents belong to the encoder and the decoder
here, so that the blur encoder is a whole encoder. Works frame by frame on images
`[N, 3, H, W]` in -1..1. GroupNorm and attention see the whole frame: a tile does not encode
as the frame does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import AutoencoderConfig
from .layers import Upsample

_EPS = 1e-6


class KlResnetBlock(nn.Module):
    """Two 3x3 convolutions with normalisation, and a shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.norm1 = operations.GroupNorm(groups, in_channels, eps=_EPS, **where)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **where)
        self.norm2 = operations.GroupNorm(groups, out_channels, eps=_EPS, **where)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **where)
        self.conv_shortcut = (
            operations.Conv2d(in_channels, out_channels, 1, **where)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class KlAttention(nn.Module):
    """Attention of each position to every other of its frame, with one head."""

    def __init__(self, channels: int, groups: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.group_norm = operations.GroupNorm(groups, channels, eps=_EPS, **where)
        self.to_q = operations.Linear(channels, channels, **where)
        self.to_k = operations.Linear(channels, channels, **where)
        self.to_v = operations.Linear(channels, channels, **where)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels, **where)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.group_norm(x), "n c h w -> n 1 (h w) c")
        out = F.scaled_dot_product_attention(
            self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        )
        return x + rearrange(self.to_out[0](out), "n 1 (h w) c -> n c h w", h=x.shape[2])


class KlDownsample(nn.Module):
    """Halve height and width; the strided 3x3 convolution sees zeros at the far ends only."""

    def __init__(self, channels: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(
            channels, channels, 3, stride=2, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class KlLevel(nn.Module):
    """Residual blocks of one resolution, and the step to the next."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_blocks: int,
        groups: int,
        *,
        downsample: bool = False,
        upsample: bool = False,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        inputs = [in_channels] + [channels] * (num_blocks - 1)
        self.resnets = nn.ModuleList(
            KlResnetBlock(c_in, channels, groups, **make) for c_in in inputs
        )
        self.downsamplers = (
            nn.ModuleList([KlDownsample(channels, **make)]) if downsample else None
        )
        self.upsamplers = nn.ModuleList([Upsample(channels, **make)]) if upsample else None

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for step in (self.downsamplers, self.upsamplers):
            if step is not None:
                x = step[0](x)
        return x


class KlMiddle(nn.Module):
    """A residual block, attention, and a residual block."""

    def __init__(self, channels: int, groups: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        self.resnets = nn.ModuleList(
            KlResnetBlock(channels, channels, groups, **make) for _ in range(2)
        )
        self.attentions = nn.ModuleList([KlAttention(channels, groups, **make)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class KlEncoder(nn.Module):
    """Images to the mean of the latents' distribution `[N, C, H / f, W / f]`, unscaled."""

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        widths, groups = config.channels, config.norm_groups
        # Mean and log-variance; only the mean is used.
        moments = 2 * config.latent_channels
        self.conv_in = operations.Conv2d(3, widths[0], 3, padding=1, **where)
        self.down_blocks = nn.ModuleList(
            KlLevel(
                widths[max(level - 1, 0)],
                width,
                config.blocks[level],
                groups,
                downsample=level < len(widths) - 1,
                **make,
            )
            for level, width in enumerate(widths)
        )
        self.mid_block = KlMiddle(widths[-1], groups, **make)
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=_EPS, **where)
        self.conv_out = operations.Conv2d(widths[-1], moments, 3, padding=1, **where)
        self.quant_conv = operations.Conv2d(moments, moments, 1, **where)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images.contiguous(memory_format=torch.channels_last))
        for block in self.down_blocks:
            h = block(h)
        h = F.silu(self.conv_norm_out(self.mid_block(h)))
        return self.quant_conv(self.conv_out(h)).chunk(2, dim=1)[0]


class KlDecoder(nn.Module):
    """Latents `[N, C, h, w]`, unscaled, to images `[N, 3, H, W]`, not clamped."""

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        widths, blocks = config.channels[::-1], config.blocks[::-1]
        channels, groups = config.latent_channels, config.norm_groups
        self.post_quant_conv = operations.Conv2d(channels, channels, 1, **where)
        self.conv_in = operations.Conv2d(channels, widths[0], 3, padding=1, **where)
        self.mid_block = KlMiddle(widths[0], groups, **make)
        self.up_blocks = nn.ModuleList(
            KlLevel(
                widths[max(level - 1, 0)],
                width,
                blocks[level] + 1,
                groups,
                upsample=level < len(widths) - 1,
                **make,
            )
            for level, width in enumerate(widths)
        )
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=_EPS, **where)
        self.conv_out = operations.Conv2d(widths[-1], 3, 3, padding=1, **where)

    def forward(self, latents: Tensor) -> Tensor:
        latents = latents.contiguous(memory_format=torch.channels_last)
        h = self.mid_block(self.conv_in(self.post_quant_conv(latents)))
        for block in self.up_blocks:
            h = block(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))
