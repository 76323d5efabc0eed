"""The conditioned 3D-UNet: noisy latents and blur latents in, v-prediction out.

Structure and parameter names follow diffusers' `UNet3DConditionModel` (ModelScopeT2V,
arXiv 2308.06571), so its weights load as they are; window attention (DIVD) is added under
`window_attentions`. Frames are folded into the batch, in channels-last memory, for the
whole pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Transformer
from .config import ScheduleConfig, UNet3DConfig
from .layers import (
    Downsample,
    ResnetBlock,
    TemporalConvLayer,
    TimestepEmbedding,
    Upsample,
    make_norm,
    timestep_embedding,
    zero_init,
)
from .schedule import alphas_at, sigmas_at
from .temporal_attention import WindowAttention


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by what the level attends to.

    Serves the way down, the middle and the way up; `skips` are concatenated on the way up.
    """

    def __init__(
        self,
        resnet_channels: list[tuple[int, int]],
        *,
        config: UNet3DConfig,
        level: int,
        middle: bool = False,
        downsample: bool = False,
        upsample: bool = False,
        shift_first: bool = False,
        prior_channels: int = 0,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        norm = {"norm": config.norm, "groups": config.norm_groups}
        channels = resnet_channels[-1][1]
        embedding_dim = 4 * config.block_channels[0]
        num_attending = len(resnet_channels) - middle
        self.middle = middle
        self.resnets = nn.ModuleList(
            ResnetBlock(c_in, c_out, embedding_dim, **norm, **make)
            for c_in, c_out in resnet_channels
        )
        self.temp_convs = nn.ModuleList(
            TemporalConvLayer(c_out, **norm, **make) for _, c_out in resnet_channels
        )
        self.attentions = self.temp_attentions = self.window_attentions = None
        if middle or config.attention_levels[level]:
            self.attentions = nn.ModuleList(
                Transformer(
                    channels,
                    channels,
                    config.head_dim,
                    config.context_dim,
                    **norm,
                    prior_channels=prior_channels,
                    **make,
                )
                for _ in range(num_attending)
            )
        temporal = middle or config.temporal_levels[level]
        if temporal and config.temporal_attention != "window":
            self.temp_attentions = nn.ModuleList(
                Transformer(channels, channels, config.head_dim, None, **norm, **make)
                for _ in range(num_attending)
            )
        if temporal and config.temporal_attention != "frame":
            self.window_attentions = nn.ModuleList(
                WindowAttention(
                    channels,
                    config.head_dim,
                    config.windows[level],
                    shifted=bool((index + shift_first) % 2),
                    relative_positions=config.relative_positions,
                    prior_channels=prior_channels,
                    **norm,
                    **make,
                )
                for index in range(num_attending)
            )
        self.downsamplers = (
            nn.ModuleList([Downsample(channels, **make)]) if downsample else None
        )
        self.upsamplers = nn.ModuleList([Upsample(channels, **make)]) if upsample else None

    def forward(
        self,
        x: Tensor,
        embedding: Tensor,
        context: Tensor,
        num_frames: int,
        skips: list[Tensor] | None = None,
        prior: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Apply to `[N, C, H, W]`; returns the result and what the way up will need.

        `prior` `[N, prior_channels, ., .]` is brought to the size of x.
        """
        if prior is not None:
            prior = F.interpolate(prior, x.shape[-2:], mode="bilinear", align_corners=False)
        outputs = []
        for index, (resnet, temp_conv) in enumerate(
            zip(self.resnets, self.temp_convs, strict=True)
        ):
            if skips is not None:
                x = torch.cat([x, skips.pop()], dim=1)
            x = temp_conv(resnet(x, embedding), num_frames)
            # The middle is resnet, attention, resnet: nothing attends after its last one.
            if not (self.middle and index == len(self.resnets) - 1):
                x = self._attend(index, x, context, num_frames, prior)
            outputs.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            outputs.append(x)
        if self.upsamplers is not None:
            x = self.upsamplers[0](x)
        return x, outputs

    def _attend(
        self,
        index: int,
        x: Tensor,
        context: Tensor,
        num_frames: int,
        prior: Tensor | None,
    ) -> Tensor:
        if self.attentions is not None:
            x = self.attentions[index](x, num_frames, context, prior)
        if self.temp_attentions is not None:
            x = self.temp_attentions[index](x, num_frames, None)
        if self.window_attentions is not None:
            x = self.window_attentions[index](x, num_frames, prior)
        return x


class DownPath(nn.Module):
    """The way down and the middle of the UNet, which a control branch has too.

    Args:
        config: Structure.
        prior_channels: Of the priors that modulate the queries of self-attention; 0: none.
        device: Where the weights are made.
        dtype: Storage dtype of the weights.
        operations: Namespace of layer classes; see `layers`.
    """

    def __init__(
        self,
        config: UNet3DConfig,
        prior_channels: int = 0,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        norm = {"norm": config.norm, "groups": config.norm_groups}
        widths = config.block_channels
        base = widths[0]

        self.conv_in = operations.Conv2d(config.in_channels, base, 3, padding=1, **where)
        self.time_embedding = TimestepEmbedding(base, 4 * base, **make)
        self.transformer_in = (
            # 8 heads whatever the width: the layout of the public weights.
            Transformer(base, 8 * config.head_dim, config.head_dim, None, **norm, **make)
            if config.transformer_in
            else None
        )
        self.down_blocks = nn.ModuleList()
        self.skip_widths = [base]
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            inputs = [widths[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
            self.down_blocks.append(
                Level(
                    [(c_in, width) for c_in in inputs],
                    config=config,
                    level=level,
                    downsample=not last,
                    prior_channels=prior_channels,
                    **make,
                )
            )
            self.skip_widths += [width] * (config.layers_per_block + (not last))
        self.mid_block = Level(
            [(widths[-1], widths[-1])] * 2,
            config=config,
            level=len(widths) - 1,
            middle=True,
            shift_first=True,
            prior_channels=prior_channels,
            **make,
        )

    def go_down(
        self, x: Tensor, timesteps: Tensor, context: Tensor, prior: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], tuple[Tensor, Tensor]]:
        """Go down and through the middle.

        Args:
            x: `[B, in_channels, T, H, W]`; any T, H, W.
            timesteps: `[B]`.
            context: Image tokens `[B, M, context_dim]`.
            prior: `[B, prior_channels, T, ., .]`.

        Returns:
            What leaves the middle and what the way up will need, `[B * T, C, h, w]`, padded to
            a multiple; embeddings and tokens of each frame.
        """
        num_frames, height, width = x.shape[2:]
        h = rearrange(x, "b c t h w -> (b t) c h w").contiguous(
            memory_format=torch.channels_last
        )
        known = None if prior is None else rearrange(prior, "b c t h w -> (b t) c h w")
        multiple = self.config.size_multiple
        pad = (0, -width % multiple, 0, -height % multiple)
        if any(pad):
            h = F.pad(h, pad, mode="replicate")
            if known is not None:
                known = F.interpolate(known, (height, width), mode="bilinear")
                known = F.pad(known, pad, mode="replicate")

        embedding = timestep_embedding(timesteps, self.config.block_channels[0])
        embedding = self.time_embedding(embedding.to(x.dtype))
        embedding = embedding.repeat_interleave(num_frames, dim=0)
        context = context.repeat_interleave(num_frames, dim=0)

        h = self.conv_in(h)
        if self.transformer_in is not None:
            h = self.transformer_in(h, num_frames, None)
        skips = [h]
        for block in self.down_blocks:
            h, outputs = self._run(block, h, embedding, context, num_frames, prior=known)
            skips += outputs
        h, _ = self._run(self.mid_block, h, embedding, context, num_frames, prior=known)
        return h, skips, (embedding, context)

    def _run(
        self,
        block: nn.Module,
        x: Tensor,
        embedding: Tensor,
        context: Tensor,
        num_frames: int,
        skips: list[Tensor] | None = None,
        prior: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run a level, storing only its inputs if its gradients can be had by running again."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return block(x, embedding, context, num_frames, skips, prior)

        def run(x: Tensor, *kept: Tensor) -> tuple[Tensor, list[Tensor]]:
            return block(x, embedding, context, num_frames, list(kept) or None, prior)

        return checkpoint(run, x, *(skips or ()), use_reentrant=False)


class UNet3D(DownPath):
    """Predict v from noisy latents, blur latents, timestep and image tokens.

    Args:
        config: Structure.
        schedule: Only read with `config.latent_skip`, for sigma at a timestep.
        device: Where the weights are made.
        dtype: Storage dtype of the weights; kept as `self.dtype` for ComfyUI.
        operations: Namespace of layer classes; see `layers`.
    """

    def __init__(
        self,
        config: UNet3DConfig,
        schedule: ScheduleConfig | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        super().__init__(config, **make)
        self.schedule = schedule or ScheduleConfig()
        self.dtype = dtype
        widths = config.block_channels
        base, skip_widths = widths[0], list(self.skip_widths)
        self.up_blocks = nn.ModuleList()
        previous = widths[-1]
        for level in reversed(range(len(widths))):
            resnets = []
            for _ in range(config.layers_per_block + 1):
                resnets.append((previous + skip_widths.pop(), widths[level]))
                previous = widths[level]
            self.up_blocks.append(
                Level(
                    resnets,
                    config=config,
                    level=level,
                    upsample=level > 0,
                    shift_first=level < len(widths) - 1,
                    **make,
                )
            )
        # Normalising each position would take away the local contrast that the prediction
        # is proportional to; GroupNorm keeps it, its statistics are the whole picture's.
        self.conv_norm_out = (
            make_norm(kind="group", channels=base, groups=config.norm_groups, eps=1e-5, **make)
            if config.norm == "group"
            else None
        )
        self.conv_out = operations.Conv2d(base, config.out_channels, 3, padding=1, **where)
        if config.latent_skip:
            zero_init(self.conv_out)
            # At the last timestep the noisy latents are noise and nothing else; the network
            # would spend its first hundreds of updates on learning to ignore them.
            with torch.no_grad():
                self.conv_in.weight[:, : config.out_channels] = 0

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Predict v.

        Args:
            x: `[B, in_channels, T, H, W]`: noisy latents, then blur latents. Any T, H, W.
            timesteps: `[B]`, 0 to 999; fractions are accepted.
            context: Image tokens `[B, M, context_dim]`.
            control: Added to what the way up takes from the way down, and to what leaves the
                middle, which comes last; shapes as `go_down` returns them.

        Returns:
            v `[B, out_channels, T, H, W]`.
        """
        num_frames, height, width = x.shape[2:]
        h, skips, (embedding, context) = self.go_down(x, timesteps, context)
        if control is not None:
            *added, middle = control
            skips = [skip + more for skip, more in zip(skips, added, strict=True)]
            h = h + middle
        for block in self.up_blocks:
            count = self.config.layers_per_block + 1
            skips, own = skips[:-count], skips[-count:]
            h, _ = self._run(block, h, embedding, context, num_frames, own)
        if self.conv_norm_out is not None:
            h = F.silu(self.conv_norm_out(h))
        h = self.conv_out(h)

        h = rearrange(h[..., :height, :width], "(b t) c h w -> b c t h w", t=num_frames)
        if self.config.latent_skip:
            h = h + self._skip(x, timesteps).to(h)
        return h

    def _skip(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Return v of the best linear guess of the clean latents: what is left is learned.

        With clean latents distributed as N(blur latents, s^2), the guess given the noisy
        ones is `blur + k * (noisy / alpha - blur)`, `k = alpha^2 s^2 / (alpha^2 s^2 +
        sigma^2)`: the blur latents at the last timestep, the noisy latents at the first.
        """
        channels = self.config.out_channels
        noisy, blur = x[:, :channels], x[:, channels : 2 * channels]
        shape = (-1, 1, 1, 1, 1)
        alpha = alphas_at(self.schedule, timesteps).reshape(shape).to(x.device)
        sigma = sigmas_at(self.schedule, timesteps).reshape(shape).to(x.device)
        variance = self.config.latent_skip_std**2
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        guess = blur + gain * (noisy - alpha * blur)
        return (alpha * noisy - guess) / sigma
