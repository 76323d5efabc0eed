"""What a training run does: the stages and their presets.

Each preset carries the score it reached; `docs/results.md` has the runs behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..models.config import (
    AutoencoderConfig,
    ConfigError,
    DivdConfig,
    ImageEncoderConfig,
    SamplingConfig,
    UNet3DConfig,
)
from ..video.camera_shake import ShakeConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a training batch is made of."""

    num_frames: int = 8
    """Frames per clip (the paper: 16)."""
    crop: int = 128
    """Height and width of a clip, in pixels (the paper: 256)."""
    clips_per_batch: int = 4
    """Clips per update, over all processes."""
    photo_share: float = 0.5
    """Of the clips from a synthetic source, the share that are shaken photos."""
    clip_share: float = 0.25
    """The share that are shaken real clips; what is left is already sharp."""
    pair_shrinking: float = 1.0
    """Real pairs are shrunk by up to this factor before they are cropped (the papers: 1)."""
    compressed_share: float = 0.15
    """Share of all clips that go through H.264 after the blur."""
    shake: ShakeConfig = field(default_factory=ShakeConfig)
    """The synthetic blur."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "crop", "clips_per_batch", "pair_shrinking"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("photo_share", "clip_share", "compressed_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.photo_share + self.clip_share > 1 + 1e-6:
            raise ConfigError(
                f"photo_share and clip_share add up to {self.photo_share + self.clip_share}, "
                "expected 1 or less"
            )


@dataclass(frozen=True, kw_only=True)
class AutoencoderStage:
    """Stage 0: the autoencoder alone, on single sharp and blurry frames."""

    steps: int
    """Updates."""
    batch_size: int = 16
    """Crops per update, over all processes."""
    crop: int = 128
    """Height and width of a crop, in pixels."""
    learning_rate: float = 2e-3
    """Peak; linear warm-up, cosine to zero."""
    fft_weight: float = 0.1
    """Weight of the L1 between spectra."""
    kl_weight: float = 1e-6
    """Weight of the mean square latent (the KL term of a fixed-variance posterior)."""
    latent_noise: float = 0.05
    """Noise on the latents in training, in their standard deviations."""


@dataclass(frozen=True, kw_only=True)
class JointStage:
    """Blur encoder, UNet and image tower together, from scratch or a checkpoint."""

    steps: int
    """Updates."""
    data: DataConfig = field(default_factory=DataConfig)
    """Batches."""
    easy_data: DataConfig | None = None
    """Batches up to `easy_until`: blur that can be mended, so that there is something to
    learn from at once."""
    easy_until: float = 0.6
    """Point of the run, 0 to 1, up to which `easy_data` is drawn."""
    optimizer: str = "muon"
    """"muon" for the matrices inside the UNet and AdamW for the rest, or "adamw" for all."""
    learning_rate: float = 4e-4
    """Peak; linear warm-up, cosine to zero."""
    blur_encoder_rate: float = 0.1
    """Factor of the learning rate for the blur encoder, which starts out trained."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW (the paper: 0.9, 0.999, over many more updates)."""
    warmup_steps: int = 60
    """Updates of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are exported, per update."""
    coherence_weight: float = 0.1
    """Weight of the temporal coherence loss (Wang & Long: 0.1)."""
    latent_floor: tuple[float, float] = (0.2, 0.03)
    """At the start and end of the run: a clip's latent losses are divided by the error of
    copying the blurry latents plus this. Without the division clips blurred past repair
    drown those that can be mended; with a small floor at the start sharp clips do, and the
    network learns to leave everything alone."""
    pixel_floor: tuple[float, float] = (5e-3, 2e-4)
    """The same for the pixel loss: added to the mean square error of a frame before its
    logarithm (values in -1..1: 29 and 43 dB)."""
    pixel_weight: float = 2.0
    """Weight of the pixel loss (log10 of the mean square error, and spectra) at the last
    timestep, through residual decoding."""
    fft_weight: float = 0.1
    """Weight of the L1 between spectra inside the pixel loss."""
    pixel_frames: int = 3
    """Frames per clip that the pixel loss decodes."""
    token_dropout: float = 0.1
    """Share of clips whose image tokens are zeroed (for guidance)."""
    last_timestep_share: float = 0.5
    """Share of clips at the last timestep once the others have started."""
    high_timestep_share: float = 0.3
    """Share of clips at 700 to 998 once they have started; the rest is uniform."""
    mixed_from: float = 0.85
    """Point of the run, 0 to 1, from which other timesteps than the last are trained."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and the stages that make it."""

    model: DivdConfig
    """Networks and sampling defaults."""
    autoencoder: AutoencoderStage | None
    """Stage 0; None for a preset that starts from a checkpoint."""
    joint: JointStage
    """The main stage."""
    seed: int = 0
    """Seed of weights, data and noise."""


TINY_MODEL = DivdConfig(
    unet=UNet3DConfig(
        in_channels=32,
        out_channels=16,
        block_channels=(48, 64, 128),
        layers_per_block=1,
        head_dim=32,
        context_dim=128,
        attention_levels=(False, False, True),
        temporal_attention="window",
        temporal_levels=(False, True, True),
        windows=((8, 4, 4), (8, 4, 4), (8, 8, 8)),
        norm="channel",
        transformer_in=False,
        latent_skip=True,
    ),
    autoencoder=AutoencoderConfig(latent_channels=16, channels=(32, 64), blocks=(1, 2)),
    image_encoder=ImageEncoderConfig(
        image_size=64,
        patch_size=8,
        width=128,
        layers=3,
        heads=4,
        embedding_dim=128,
        num_tokens=4,
        context_dim=128,
    ),
    sampling=SamplingConfig(),
)

_STRAIGHT = ShakeConfig(
    motion=(7.0, 13.0),
    exposure=(0.6, 0.9),
    rotation=(0.0, 0.0),
    zoom=(0.0, 0.0),
    perspective=(0.0, 0.0),
    smoothness=(3.0, 6.0),
    jerk_rate=0.0,
    pause_probability=0.0,
    foreground_probability=0.0,
    sharp_probability=0.0,
)
_MODERATE = ShakeConfig(
    motion=(4.0, 14.0),
    exposure=(0.4, 0.95),
    rotation=(0.0, 0.2),
    zoom=(0.0, 0.1),
    perspective=(0.0, 0.05),
    smoothness=(1.5, 5.0),
    jerk_rate=0.05,
    pause_probability=0.3,
    foreground_probability=0.1,
    sharp_probability=0.03,
)
_FULL = ShakeConfig(motion=(3.0, 20.0))

PRESETS = {
    "tiny": Preset(
        model=TINY_MODEL,
        autoencoder=AutoencoderStage(steps=1500),
        joint=JointStage(
            steps=3000,
            data=DataConfig(crop=96, pair_shrinking=1.5, shake=_FULL),
            easy_data=DataConfig(
                crop=96,
                photo_share=0.85,
                clip_share=0.05,
                pair_shrinking=1.5,
                compressed_share=0.05,
                shake=_STRAIGHT,
            ),
        ),
    ),
    "tiny-further": Preset(
        model=TINY_MODEL,
        autoencoder=None,
        joint=JointStage(
            steps=6000,
            data=DataConfig(crop=96, pair_shrinking=1.5, shake=_FULL),
            easy_data=DataConfig(
                crop=96,
                photo_share=0.65,
                clip_share=0.2,
                pair_shrinking=1.5,
                compressed_share=0.1,
                shake=_MODERATE,
            ),
            learning_rate=5e-4,
            blur_encoder_rate=0.25,
            latent_floor=(0.1, 0.02),
            pixel_floor=(1e-3, 1e-4),
            mixed_from=0.9,
        ),
    ),
}
"""By name: "tiny" from scratch, "tiny-further" from a checkpoint that "tiny" gave."""
