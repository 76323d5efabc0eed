"""CPC, the second stage of CPGD-Net: a diffusion model with a control branch.

After arXiv 2504.12222, from its description. The branch is a copy of the UNet's way down and
middle (ControlNet, arXiv 2302.05543). It reads noisy latents and those of the first stage's
result; what the codec knows modulates the queries of its self-attention; through convolutions
that start at zero it adds to what the UNet's way up takes. Clips are `[B, C, T, h, w]`.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .cpgd_config import CpcConfig
from .cpgd_priors import ClipPriors
from .divd import Divd
from .layers import zero_init
from .unet3d import DownPath

PRIOR_CHANNELS = 3
"""Motion along x and y, and the residual."""


def query_prior(priors: ClipPriors) -> Tensor:
    """Return what modulates queries, `[B, 3, T, h, w]`.

    Motion is relative to the longest of each clip, as the published code has it.
    """
    motion = priors.motion.float()
    longest = motion.abs().amax((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
    return torch.cat([motion / longest, priors.attention.float()], dim=1)


class ControlBranch(DownPath):
    """What is added to a UNet, from noisy latents and those of the first stage."""

    def __init__(
        self,
        config: CpcConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        where = {"device": device, "dtype": dtype}
        super().__init__(config.control, PRIOR_CHANNELS, **where, operations=operations)
        widths = _skip_widths(config)
        ours, theirs = [*self.skip_widths, config.control.block_channels[-1]], widths
        self.leave = nn.ModuleList(
            operations.Conv2d(*pair, 1, **where) for pair in zip(ours, theirs, strict=True)
        )
        for layer in self.leave:
            zero_init(layer)

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, prior: Tensor
    ) -> list[Tensor]:
        """Return what `UNet3D` takes as `control`.

        Args:
            x: Noisy latents, then those of the first stage.
            timesteps: `[B]`.
            context: Image tokens `[B, M, context_dim]`.
            prior: From `query_prior`.
        """
        h, skips, _ = self.go_down(x, timesteps, context, prior)
        return [leave(each) for leave, each in zip(self.leave, [*skips, h], strict=True)]


def _skip_widths(config: CpcConfig) -> list[int]:
    """Return the widths that the UNet takes: of each skip, then of the middle."""
    unet = config.divd.unet
    widths = [unet.block_channels[0]]
    for level, width in enumerate(unet.block_channels):
        last = level == len(unet.block_channels) - 1
        widths += [width] * (unet.layers_per_block + (not last))
    return [*widths, unet.block_channels[-1]]


class Cpc(nn.Module):
    """The networks of stage 2."""

    def __init__(
        self,
        config: CpcConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        self.config = config
        self.divd = Divd(config.divd, **make)
        self.control = ControlBranch(config, **make)

    def begin_from(self, divd: Divd) -> None:
        """Take the weights of a diffusion model, the branch's too where it has the same.

        Its first convolution takes those for the noisy latents; the first stage's start at
        zero. Layers of other widths stay as they are.
        """
        self.divd.load_state_dict(divd.state_dict())
        ours, theirs = self.control.state_dict(), divd.unet.state_dict()
        taken = {
            name: value
            for name, value in theirs.items()
            if name in ours and ours[name].shape == value.shape
        }
        if "conv_in.weight" in taken:
            channels = self.config.divd.autoencoder.latent_channels
            weight = taken["conv_in.weight"].clone()
            weight[:, channels:] = 0
            taken["conv_in.weight"] = weight
        self.control.load_state_dict({**ours, **taken})

    def predict(
        self,
        noisy: Tensor,
        blurry: Tensor,
        first: Tensor,
        prior: Tensor,
        timesteps: Tensor,
        context: Tensor,
    ) -> Tensor:
        """Predict v.

        Args:
            noisy: Noisy latents.
            blurry: Blur latents (`Divd.encode_blur`).
            first: Latents of the first stage's result (`Divd.encode_sharp`).
            prior: From `query_prior`.
            timesteps: `[B]`.
            context: Image tokens.
        """
        control = self.control(torch.cat([noisy, first], dim=1), timesteps, context, prior)
        return self.divd.unet(torch.cat([noisy, blurry], dim=1), timesteps, context, control)

    def tokens(self, video: Tensor) -> Tensor:
        """Return the image tokens of a clip: those of its middle frame."""
        middle = rearrange(video[:, :, video.shape[2] // 2 :][:, :, :1], "b c 1 h w -> b c h w")
        return self.divd.encode_tokens(middle)
