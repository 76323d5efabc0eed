"""CPC, the second stage of CPGD-Net: a diffusion model with a control branch.

After arXiv 2504.12222, from its description. The branch is a copy of the UNet's way down and
middle (ControlNet, arXiv 2302.05543). It reads noisy latents, those of the first stage's result
and those of the clip as it came; what the codec knows modulates the queries of its
self-attention; through convolutions that start at zero it adds to what the UNet's way up takes.
The UNet, which is conditioned on a clip to mend, gets the first stage's. Clips are
`[B, C, T, h, w]`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .cpgd_config import CpcConfig
from .cpgd_priors import ClipPriors
from .divd import Divd
from .layers import zero_init
from .unet3d import DownPath

PRIOR_CHANNELS = 3
"""Motion along x and y, and the residual."""


def query_prior(priors: ClipPriors, kind: str = "motion_residual") -> Tensor:
    """Return what modulates queries, `[B, 3, T, h, w]`.

    Motion is relative to the longest of each clip, as the published code has it.

    Args:
        priors: Of clips.
        kind: What of them is used (`CpfpConfig.priors`); the rest is zero.
    """
    motion, attention = priors.motion.float(), priors.attention.float()
    longest = motion.abs().amax((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
    motion = torch.zeros_like(motion) if kind == "none" else motion / longest
    if kind != "motion_residual":
        attention = torch.zeros_like(attention)
    return torch.cat([motion, attention], dim=1)


class Given(NamedTuple):
    """What stage 2 refines."""

    condition: Tensor
    """Latents of the first stage's result by the blur encoder: what the UNet mends."""
    first: Tensor
    """The same by the sharp encoder."""
    blurry: Tensor
    """Latents of the clip as it came, by the blur encoder."""
    prior: Tensor
    """From `query_prior`."""


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
            x: Noisy latents, those of the first stage, those of the clip as it came.
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

        Its first convolution takes those for the noisy latents; the others start at zero.
        Layers of other widths stay as they are. An image tower of another shape starts anew,
        with tokens of zeros: what the model was trained to do without.
        """
        weights = divd.state_dict()
        if divd.config.image_encoder != self.config.divd.image_encoder:
            zero_init(self.divd.image_encoder.token_projection[-1])
            own = self.divd.image_encoder.state_dict(prefix="image_encoder.")
            kept = {n: w for n, w in weights.items() if not n.startswith("image_encoder.")}
            weights = {**kept, **own}
        self.divd.load_state_dict(weights)
        ours, theirs = self.control.state_dict(), divd.unet.state_dict()
        taken = {
            name: value
            for name, value in theirs.items()
            if name in ours and ours[name].shape == value.shape
        }
        name, channels = "conv_in.weight", self.config.divd.autoencoder.latent_channels
        if len(ours[name]) == len(theirs[name]):
            taken[name] = torch.zeros_like(ours[name])
            taken[name][:, :channels] = theirs[name][:, :channels]
        self.control.load_state_dict({**ours, **taken})

    def encode(self, blurry: Tensor, first: Tensor, prior: Tensor) -> Given:
        """Encode what is refined.

        Args:
            blurry: The clip as it came, `[B, 3, T, H, W]` in -1..1, H and W multiples of the
                autoencoder's.
            first: What the first stage made of it, in -1..1.
            prior: From `query_prior`.
        """
        divd = self.divd
        return Given(
            divd.encode_blur(first), divd.encode_sharp(first), divd.encode_blur(blurry), prior
        )

    def predict(
        self, noisy: Tensor, given: Given, timesteps: Tensor, context: Tensor
    ) -> Tensor:
        """Predict v.

        Args:
            noisy: Noisy latents.
            given: From `encode`.
            timesteps: `[B]`.
            context: Image tokens.
        """
        seen = torch.cat([noisy, given.first, given.blurry], dim=1)
        control = self.control(seen, timesteps, context, given.prior)
        x = torch.cat([noisy, given.condition], dim=1)
        return self.divd.unet(x, timesteps, context, control)

    def decode(self, latents: Tensor, first: Tensor, first_latents: Tensor) -> Tensor:
        """Decode refined latents on top of the first stage's pixels.

        What the autoencoder loses of those is not taken from them.

        Args:
            latents: Refined.
            first: The first stage's result.
            first_latents: Of it, by the sharp encoder.
        """
        return first + (self.divd.decode(latents, first) - self.divd.decode(first_latents))

    def tokens(self, video: Tensor) -> Tensor:
        """Return the image tokens of a clip: those of its middle frame."""
        return self.divd.encode_tokens(video[:, :, video.shape[2] // 2])
