"""The autoencoder; here the small kind, free of attention and of normalisation over space.

Works frame by frame on images `[N, 3, H, W]` in -1..1, H and W multiples of
`AutoencoderConfig.downscale`. Being purely local, tiles of a frame encode and decode as
the whole frame does, up to the receptive field. The other kind is in `autoencoder_kl`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder_kl import KlDecoder, KlEncoder
from .config import AutoencoderConfig
from .layers import zero_init


class ConvBlock(nn.Module):
    """A 3x3 convolution, SiLU, and a zero-initialised 3x3 convolution, added to the input."""

    def __init__(self, channels: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1, **where)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1, **where)
        zero_init(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class Encoder(nn.Module):
    """Images to latents `[N, latent_channels, H / f, W / f]`, not yet normalised."""

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
        # Space to depth first: convolutions at full resolution would cost as much as all
        # the rest together.
        self.down = nn.ModuleList()
        self.blocks = nn.ModuleList()
        channels = 3
        for width, count in zip(config.channels, config.blocks, strict=True):
            self.down.append(operations.Conv2d(4 * channels, width, 3, padding=1, **where))
            self.blocks.append(nn.Sequential(*(ConvBlock(width, **make) for _ in range(count))))
            channels = width
        self.conv_out = operations.Conv2d(
            channels, config.latent_channels, 3, padding=1, **where
        )

    def forward(self, images: Tensor) -> Tensor:
        # A deque of one: finer features are let go as soon as coarser ones exist.
        return self.conv_out(deque(self._resolutions(images), maxlen=1).pop())

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features at each resolution, finest first, for the detail skip."""
        return list(self._resolutions(images))

    def _resolutions(self, images: Tensor) -> Iterator[Tensor]:
        h = images.contiguous(memory_format=torch.channels_last)
        for down, blocks in zip(self.down, self.blocks, strict=True):
            h = blocks(down(F.pixel_unshuffle(h, 2)))
            yield h


class Decoder(nn.Module):
    """Latents to images; with `detail_skip` also from features of the blurry frames."""

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
        widths = config.channels[::-1]
        self.conv_in = operations.Conv2d(
            config.latent_channels, widths[0], 3, padding=1, **where
        )
        self.blocks = nn.ModuleList()
        self.up = nn.ModuleList()
        for index, (width, count) in enumerate(zip(widths, config.blocks[::-1], strict=True)):
            self.blocks.append(nn.Sequential(*(ConvBlock(width, **make) for _ in range(count))))
            following = widths[index + 1] if index + 1 < len(widths) else 3
            self.up.append(operations.Conv2d(width, 4 * following, 3, padding=1, **where))
        self.detail = None
        if config.detail_skip:
            self.detail = nn.ModuleList(
                operations.Conv2d(width, width, 3, padding=1, **where) for width in widths
            )
            for conv in self.detail:
                zero_init(conv)

    def forward(self, latents: Tensor, detail: list[Tensor] | None = None) -> Tensor:
        """Decode latents `[N, C, h, w]` to images `[N, 3, H, W]`, not clamped.

        `detail` is what `Encoder.features` gave for the blurry frames; without it the
        decoder works plainly.
        """
        h = self.conv_in(latents.contiguous(memory_format=torch.channels_last))
        for index, (blocks, up) in enumerate(zip(self.blocks, self.up, strict=True)):
            if self.detail is not None and detail is not None:
                h = h + self.detail[index](detail[-1 - index])
            h = F.pixel_shuffle(up(blocks(h)), 2)
        return h


def make_encoder(
    config: AutoencoderConfig,
    *,
    device: Any = None,
    dtype: Any = None,
    operations: Any = nn,
) -> Encoder | KlEncoder:
    """Build the encoder of the config's kind."""
    kind = KlEncoder if config.kind == "kl" else Encoder
    return kind(config, device=device, dtype=dtype, operations=operations)


class Autoencoder(nn.Module):
    """The sharp encoder and the decoder; the sharp encoder defines the latent space."""

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        self.config = config
        self.encoder = make_encoder(config, **make)
        self.decoder = (KlDecoder if config.kind == "kl" else Decoder)(config, **make)

    def encode(self, images: Tensor) -> Tensor:
        """Encode images `[N, 3, H, W]` in -1..1 to latents as the encoder gives them."""
        return self.encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents as the encoder gives them to images `[N, 3, H, W]`."""
        return self.decoder(latents)


def normalise_latents(config: AutoencoderConfig, latents: Tensor) -> Tensor:
    """Shift and scale each channel (axis 1) to zero mean and unit variance."""
    mean, std = _statistics(config, latents)
    return (latents - mean) / std


def denormalise_latents(config: AutoencoderConfig, latents: Tensor) -> Tensor:
    """Undo `normalise_latents`."""
    mean, std = _statistics(config, latents)
    return latents * std + mean


def _statistics(config: AutoencoderConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1) + (1,) * (like.ndim - 2)
    mean, std = _tables(config, like.dtype, like.device)
    return mean.reshape(shape), std.reshape(shape)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what restoring puts in the cache must serve training too
def _tables(config: AutoencoderConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return mean and standard deviation of each channel, `[2, C]`, kept by device."""
    channels = config.latent_channels
    mean = config.latent_mean or (0.0,) * channels
    std = config.latent_std or (1.0,) * channels
    return torch.tensor([mean, std], dtype=torch.float64).to(dtype).to(device)
