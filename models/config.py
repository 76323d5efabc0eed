"""Configuration of the networks: frozen, checked when made, stored as JSON in the checkpoint.

The field names are part of the checkpoint format: renaming one breaks saved files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .config_fields import (
    ConfigError,
    check_choice,
    check_finite,
    check_positive,
    check_range,
)

TEMPORAL_ATTENTION_KINDS = ("frame", "window", "both")
NORM_KINDS = ("group", "channel")
AUTOENCODER_KINDS = ("local", "kl")

# A config comes out of a file that may be hostile: networks are built from it (without
# weights) to check the file, so whatever multiplies modules or tables is bounded.
_MOST_LEVELS = 8
_MOST_BLOCKS = 128
_MOST_WINDOW_POSITIONS = 4096


@dataclass(frozen=True, kw_only=True)
class UNet3DConfig:
    """The conditioned 3D-UNet.

    Defaults give the layout of ModelScopeT2V (arXiv 2308.06571), which diffusers calls
    `UNet3DConditionModel`. "Levels" count from the finest resolution.
    """

    in_channels: int = 4
    """Channels of the input: noisy latents, then blur latents."""
    out_channels: int = 4
    """Channels of the prediction: the latent channels."""
    block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Width of each level; every level halves the resolution of the one before."""
    layers_per_block: int = 2
    """Residual blocks per level on the way down; one more on the way up."""
    head_dim: int = 64
    """Channels per attention head."""
    context_dim: int = 1024
    """Channels of the image tokens that cross-attention reads."""
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """Levels with spatial self-attention and cross-attention to the image tokens. The
    middle block always has both."""
    temporal_attention: Literal["frame", "window", "both"] = "frame"
    """`frame`: over time at each position (ModelScopeT2V). `window`: DIVD's window-based
    temporal self-attention. `both`: `frame`, then `window`."""
    temporal_levels: tuple[bool, ...] = (True, True, True, False)
    """Levels with temporal attention. The middle block always has it."""
    windows: tuple[tuple[int, int, int], ...] = ((8, 8, 8),) * 4
    """Extent [T, H, W] of an attention window on each level, in positions of that level."""
    relative_positions: bool = True
    """Whether window attention has DIVD's multi-frame relative positions (MRPE)."""
    norm: Literal["group", "channel"] = "group"
    """`group`: GroupNorm, as the public weights need. `channel`: over the channels of each
    position, so that the result does not depend on the size of the tile or the window."""
    norm_groups: int = 32
    """Groups of GroupNorm; unused when `norm` is `channel`."""
    transformer_in: bool = True
    """Whether a temporal transformer follows the first convolution (ModelScopeT2V)."""
    latent_skip: bool = False
    """Add to the prediction what a linear guess from noisy and blur latents gives: with a
    zero last convolution an untrained network returns the blurry clip."""
    latent_skip_std: float = 0.1
    """Standard deviation that the guess expects between sharp and blur latents. Less than
    it is (0.3 to 0.4): an untrained network adds noise of this size in many steps."""

    def __post_init__(self) -> None:
        num_levels = len(self.block_channels)
        if not 2 <= num_levels <= _MOST_LEVELS:
            raise ConfigError(
                f"block_channels needs 2 to {_MOST_LEVELS} levels, got {num_levels}"
            )
        for name in ("attention_levels", "temporal_levels", "windows"):
            if len(getattr(self, name)) != num_levels:
                raise ConfigError(
                    f"{name} needs one entry per level ({num_levels}), "
                    f"got {len(getattr(self, name))}"
                )
        check_choice("temporal_attention", self.temporal_attention, TEMPORAL_ATTENTION_KINDS)
        check_choice("norm", self.norm, NORM_KINDS)
        check_positive(self, "in_channels", "out_channels", "block_channels", "head_dim")
        check_positive(self, "context_dim", "norm_groups")
        check_range(self, "layers_per_block", 1, _MOST_BLOCKS)
        for channels in self.block_channels:
            if self.norm == "group" and channels % self.norm_groups:
                raise ConfigError(
                    f"block_channels must divide by norm_groups ({self.norm_groups}), "
                    f"got {channels}"
                )
        for level in range(num_levels):
            attends = self.attention_levels[level] or self.temporal_levels[level]
            if (attends or level == num_levels - 1) and (
                self.block_channels[level] % self.head_dim
            ):
                raise ConfigError(
                    f"block_channels of a level with attention must divide by head_dim "
                    f"({self.head_dim}), got {self.block_channels[level]}"
                )
        for window in self.windows:
            if min(window) < 1 or math.prod(window) > _MOST_WINDOW_POSITIONS:
                raise ConfigError(
                    f"windows must be at least 1 along each axis and hold at most "
                    f"{_MOST_WINDOW_POSITIONS} positions, got {list(window)}"
                )
        if not 0 < self.latent_skip_std < math.inf:
            raise ConfigError(f"latent_skip_std must be positive, got {self.latent_skip_std}")
        if self.latent_skip and self.in_channels < 2 * self.out_channels:
            raise ConfigError("latent_skip needs the blur latents among in_channels")

    @property
    def size_multiple(self) -> int:
        """Latent height and width are padded to a multiple of this inside the network."""
        return 2 ** (len(self.block_channels) - 1)


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The autoencoder, and how its latents are normalised."""

    kind: Literal["local", "kl"] = "local"
    """`local`: small, free of attention and of normalisation over space. `kl`: that of
    Stable Diffusion."""
    latent_channels: int = 16
    """Channels of the latents."""
    channels: tuple[int, ...] = (32, 64)
    """Width at each resolution: 1/2, 1/4, ... of the pixels for `local`, 1, 1/2, ... for
    `kl`. The last one is the latent resolution."""
    blocks: tuple[int, ...] = (1, 2)
    """Residual blocks at each of these resolutions, in the encoder and in the decoder, which
    has one more for `kl`."""
    norm_groups: int = 32
    """Groups of GroupNorm; only `kl` has it."""
    detail_skip: bool = False
    """Whether the decoder takes multi-scale features of the blurry frames; not for `kl`."""
    latent_mean: tuple[float, ...] = ()
    """Mean of each latent channel over training frames; empty means 0."""
    latent_std: tuple[float, ...] = ()
    """Standard deviation of each latent channel over training frames; empty means 1."""
    latent_rgb_factors: tuple[tuple[float, ...], ...] = ()
    """Least-squares map from normalised latents to RGB in -1..1, one row per latent
    channel, for previews; empty means none."""
    latent_rgb_bias: tuple[float, ...] = ()
    """Offset of that map, one value per colour."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, AUTOENCODER_KINDS)
        check_positive(self, "latent_channels", "norm_groups")
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ConfigError(
                f"channels and blocks need one entry per resolution, got "
                f"{len(self.channels)} and {len(self.blocks)}"
            )
        if len(self.channels) > _MOST_LEVELS:
            raise ConfigError(f"channels must hold at most {_MOST_LEVELS} resolutions")
        check_positive(self, "channels")
        check_range(self, "blocks", 0, _MOST_BLOCKS)
        if self.kind == "kl":
            self._check_kl()
        for name in ("latent_mean", "latent_std", "latent_rgb_factors"):
            if len(getattr(self, name)) not in (0, self.latent_channels):
                raise ConfigError(
                    f"{name} needs {self.latent_channels} entries, got "
                    f"{len(getattr(self, name))}"
                )
        rows = self.latent_rgb_factors
        if any(len(row) != 3 for row in rows) or len(self.latent_rgb_bias) not in (0, 3):
            raise ConfigError("latent_rgb_factors and latent_rgb_bias need 3 colours")
        if any(not std > 0 for std in self.latent_std):
            raise ConfigError("latent_std must be positive")
        check_finite("latent_mean", self.latent_mean)
        check_finite("latent_std", self.latent_std)

    def _check_kl(self) -> None:
        if self.detail_skip:
            raise ConfigError("detail_skip needs an autoencoder of kind local")
        if min(self.blocks) < 1:
            raise ConfigError(f"blocks must be 1 or more for kind kl, got {min(self.blocks)}")
        for channels in self.channels:
            if channels % self.norm_groups:
                raise ConfigError(
                    f"channels must divide by norm_groups ({self.norm_groups}) for kind kl, "
                    f"got {channels}"
                )

    @property
    def downscale(self) -> int:
        """Pixels per latent position along height and width."""
        return 2 ** (len(self.channels) - (self.kind == "kl"))

    @property
    def values_per_pixel(self) -> float:
        """Values that the finest features hold per pixel: working memory goes by them."""
        return self.channels[0] / (1 if self.kind == "kl" else 4)


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """The CLIP image tower and the projection of its embedding to tokens."""

    image_size: int = 224
    """Side of the square input, in pixels."""
    patch_size: int = 14
    """Side of a patch, in pixels."""
    width: int = 1280
    """Channels inside the tower."""
    layers: int = 32
    """Transformer blocks."""
    heads: int = 16
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Hidden channels of the feed-forward layer over `width`."""
    embedding_dim: int = 1024
    """Channels of the image embedding."""
    num_tokens: int = 4
    """Tokens made from one embedding (TF-T2V appends 4 image tokens)."""
    context_dim: int = 1024
    """Channels of a token."""

    def __post_init__(self) -> None:
        check_positive(self, "image_size", "patch_size", "width", "heads")
        check_range(self, "layers", 1, _MOST_BLOCKS)
        check_positive(self, "embedding_dim", "num_tokens", "context_dim")
        check_finite("mlp_ratio", (self.mlp_ratio,))
        if self.mlp_ratio <= 0:
            raise ConfigError(f"mlp_ratio must be positive, got {self.mlp_ratio}")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size must divide by patch_size ({self.patch_size}), "
                f"got {self.image_size}"
            )
        if self.width % self.heads:
            raise ConfigError(f"width must divide by heads ({self.heads}), got {self.width}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The diffusion schedule (Wang & Long: T = 1000; TF-T2V: scaled-linear, zero SNR)."""

    num_timesteps: int = 1000
    """Length of the training schedule."""
    beta_start: float = 0.00085
    """First beta."""
    beta_end: float = 0.012
    """Last beta, before rescaling; betas are linear in their square roots."""
    zero_terminal_snr: bool = True
    """Rescale so that the last timestep is pure noise (arXiv 2305.08891)."""
    timestep_spacing: Literal["trailing", "leading"] = "trailing"
    """How the sampler picks timesteps: `trailing` starts at the last one; `leading` is
    what TF-T2V's weights were sampled with (offset 1)."""

    def __post_init__(self) -> None:
        if not 2 <= self.num_timesteps <= 100_000:
            raise ConfigError(
                f"num_timesteps must be between 2 and 100000, got {self.num_timesteps}"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError("betas must satisfy 0 < beta_start <= beta_end < 1")
        check_choice("timestep_spacing", self.timestep_spacing, ("trailing", "leading"))


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What a checkpoint is sampled with unless the user says otherwise."""

    steps: int = 1
    """Denoising steps of the default preset."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 means none."""
    window: int = 16
    """Frames restored together."""
    overlap: int = 8
    """Frames shared by neighbouring windows."""
    tile: int = 512
    """Side of a spatial tile, in pixels, for frames too large to restore whole."""
    tile_overlap: int = 64
    """Pixels shared by neighbouring tiles."""

    def __post_init__(self) -> None:
        check_positive(self, "steps", "tile")
        check_range(self, "window", 2)
        if not 0 <= 2 * self.overlap <= self.window:
            raise ConfigError(
                f"overlap must be between 0 and {self.window // 2} for a window of "
                f"{self.window} frames, got {self.overlap}"
            )
        if not 0 <= 2 * self.tile_overlap <= self.tile:
            raise ConfigError(
                f"tile_overlap must be between 0 and {self.tile // 2} for a tile of "
                f"{self.tile} pixels, got {self.tile_overlap}"
            )


@dataclass(frozen=True, kw_only=True)
class DivdConfig:
    """The whole model: UNet, autoencoder, blur encoder, image tower, schedule."""

    unet: UNet3DConfig = field(default_factory=UNet3DConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    residual_decoding: bool = True
    """Decode as `blurry + D(z) - D(E_sharp(blurry))`."""

    @property
    def takes_steps(self) -> bool:
        """Whether the number of denoising steps changes results."""
        return True

    def __post_init__(self) -> None:
        latent_channels = self.autoencoder.latent_channels
        if self.unet.out_channels != latent_channels:
            raise ConfigError(
                f"unet.out_channels must be the {latent_channels} latent channels, "
                f"got {self.unet.out_channels}"
            )
        if self.unet.in_channels != 2 * latent_channels:
            raise ConfigError(
                f"unet.in_channels must be twice the latent channels "
                f"({2 * latent_channels}), got {self.unet.in_channels}"
            )
        if self.unet.context_dim != self.image_encoder.context_dim:
            raise ConfigError(
                f"unet.context_dim ({self.unet.context_dim}) and image_encoder.context_dim "
                f"({self.image_encoder.context_dim}) must be equal"
            )
