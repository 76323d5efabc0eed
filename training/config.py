"""What a training run does: the stages and their presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..models.config import DivdConfig, ImageEncoderConfig
from ..models.config_fields import ConfigError
from ..models.cpgd_config import CpgdConfig
from ..models.dblrnet import DblrNetConfig
from .data_config import DataConfig, check_batches, phases_of
from .data_config import check_numbers as _check
from .feed_forward_config import AdversarialStage, ContentStage

DIFFUSION_STAGES = ("joint", "stage1", "stage2")
"""Fields of `Preset` in the order in which they run, after stage 0."""
FEED_FORWARD_STAGES = ("content", "adversarial")
"""The same of a feed-forward network, which has no other stages."""
CPGD_STAGES = ("cpfp", "cpc")
"""The same of CPGD-Net."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderStage:
    """Stage 0: the autoencoder alone, on single sharp frames."""

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

    def __post_init__(self) -> None:
        _check(self, 1, "steps", "batch_size", "crop")
        _check(self, 0, "learning_rate", "fft_weight", "kl_weight", "latent_noise")


@dataclass(frozen=True, kw_only=True)
class DiffusionStage:
    """Training of the latent diffusion model, all of it or parts.

    Defaults are those of a small model trained from scratch; the paper's stages set their
    own.
    """

    steps: int
    """Updates."""
    trains: tuple[str, ...] = ("unet.", "blur_encoder.", "image_encoder.")
    """Prefixes of the parameters that are trained; the rest stays as it is."""
    data: DataConfig = field(default_factory=DataConfig)
    """Batches."""
    easy_data: DataConfig | None = None
    """Batches up to `easy_until`: blur that can be mended, so that there is something to
    learn from at once."""
    easy_until: float = 0.6
    """Point of the run, 0 to 1, up to which `easy_data` is drawn."""
    accumulation: int = 1
    """Parts that a process's share of an update is computed in, to save memory."""
    gradient_checkpointing: bool = False
    """Compute the UNet's levels again on the way back instead of storing them."""
    optimizer: Literal["muon", "adamw"] = "muon"
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
    """Decay of the averaged weights that are exported, per update; 0: no averaging."""
    coherence_weight: float = 0.1
    """Weight of the temporal coherence loss (Wang & Long: 0.1)."""
    relative: bool = True
    """Divide a clip's latent losses by the error of copying its blurry latents. Without it
    clips blurred past repair drown those that can be mended."""
    latent_floor: tuple[float, float] = (0.2, 0.03)
    """At the start and end of the run: added to that error. With a small floor at the start
    sharp clips drown the rest, and the network learns to leave everything alone."""
    min_snr_gamma: float | None = None
    """Weigh timesteps by min(SNR, gamma) / (SNR + 1) (arXiv 2303.09556, for v); None: evenly.
    The last timestep, without signal, then has weight 0: before `mixed_from` the pixel loss
    alone trains."""
    offset_noise: float = 0.0
    """Standard deviation of noise that is the same over each channel of a frame."""
    pixel_loss: Literal["off", "last", "decoder"] = "last"
    """"last": through residual decoding, at the last timestep, for everything trained.
    "decoder": at every timestep, for the decoder alone (the latents are not reached)."""
    pixel_floor: tuple[float, float] = (5e-3, 2e-4)
    """At the start and end of the run: added to the mean square error of a frame before its
    logarithm (values in -1..1: 29 and 43 dB)."""
    pixel_weight: float = 2.0
    """Weight of the pixel loss (log10 of the mean square error, and spectra)."""
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

    def __post_init__(self) -> None:
        _check(self, 1, "steps", "pixel_frames")
        _check(self, 0, "learning_rate", "blur_encoder_rate", "warmup_steps", "weight_decay")
        _check(self, 0, "coherence_weight", "pixel_weight", "fft_weight", "offset_noise")
        _check(self, 0, "easy_until", "token_dropout", "mixed_from", highest=1)
        _check(self, 0, "last_timestep_share", "high_timestep_share", highest=1)
        _check(self, 0, "betas", "ema_decay", below=1)
        _check(self, 0, "gradient_clip", "latent_floor", "pixel_floor", above=True)
        if self.min_snr_gamma is not None:
            _check(self, 0, "min_snr_gamma", above=True)
        shares = self.last_timestep_share + self.high_timestep_share
        if shares > 1 + 1e-6:
            raise ConfigError(
                f"last_timestep_share and high_timestep_share add up to {shares:g}, expected "
                "1 or less"
            )
        if self.min_snr_gamma is not None and self.mixed_from and self.pixel_loss != "last":
            raise ConfigError(
                f"min_snr_gamma gives the last timestep weight 0, and up to mixed_from "
                f"({self.mixed_from:g}) there is no other: set mixed_from to 0, or pixel_loss "
                'to "last"'
            )
        check_batches(self.accumulation, self.data, easy_data=self.easy_data)
        if not self.trains:
            raise ConfigError("trains names nothing to train")

    @property
    def phases(self) -> list[tuple[int, DataConfig]]:
        """From which update on which batches are drawn; the first from 0 on."""
        return phases_of(self.steps, [(self.easy_data, self.easy_until)], self.data)


@dataclass(frozen=True, kw_only=True)
class CpcStage(DiffusionStage):
    """CPGD-Net's second stage: a diffusion model with a control branch.

    Its clips are those that the first stage has restored.
    """

    trains: tuple[str, ...] = ("cpc.control.",)
    """As for every stage. The first stage cannot be trained with it."""
    diffusion: str | None = None
    """Checkpoint of the diffusion model to begin from, unless `--diffusion` names one; not read
    where the checkpoint of `--init` has a second stage."""
    control_channels: tuple[int, ...] = ()
    """Width of the branch on each level of the UNet; empty: the UNet's, and its weights."""
    image_encoder: ImageEncoderConfig | None = None
    """An image tower in place of the diffusion model's, whose tokens are zeros until it is
    trained; None: the diffusion model's."""
    unet_rate: float = 0.25
    """Factor of the learning rate for the UNet, which starts out trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, 0, "unet_rate")
        if any(prefix.startswith("cpfp") for prefix in self.trains):
            raise ConfigError(
                "trains: stage cpc takes the first stage as it is; leave out cpfp"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and the stages that make it, in order; a stage that is None is left out."""

    preset: str = ""
    """Name of the preset that this is, or is a change of."""
    model: DivdConfig | None = None
    """Networks and sampling defaults, for training from scratch; a checkpoint to start from
    brings its own."""
    autoencoder: AutoencoderStage | None = None
    """Stage 0; without it the run needs a checkpoint to start from."""
    joint: DiffusionStage | None = None
    """Everything at once, for a small model from scratch."""
    stage1: DiffusionStage | None = None
    """The paper's first stage: the blur encoder alone."""
    stage2: DiffusionStage | None = None
    """The paper's second stage: blur encoder, UNet, token projection and decoder."""
    generator: DblrNetConfig | None = None
    """The feed-forward network that `content` trains from scratch."""
    content: ContentStage | None = None
    """DBLRNet: a feed-forward network by its pixels."""
    adversarial: AdversarialStage | None = None
    """DBLRGAN: the same against a discriminator."""
    cpgd_model: CpgdConfig | None = None
    """The network that `cpfp` trains from scratch."""
    cpfp: ContentStage | None = None
    """CPGD-Net's first stage: propagation along coding priors, by its pixels."""
    cpc: CpcStage | None = None
    """CPGD-Net's second stage: a diffusion model that refines what the first one made."""
    precision: Literal["auto", "bf16", "no"] = "auto"
    """Autocast of networks: "bf16", or "no" to compute in float32. "auto" takes bf16 where the
    device multiplies it natively."""
    seed: int = 0
    """Seed of weights, data and noise."""

    def __post_init__(self) -> None:
        if (self.model is None) != (self.autoencoder is None):
            raise ConfigError("model and autoencoder (stage 0) come together or not at all")
        if not self.stages:
            raise ConfigError("names no stage to run")
        if self.generator is not None and self.content is None:
            raise ConfigError("generator, a new network, needs the stage content")
        if self.cpgd_model is not None and self.cpfp is None:
            raise ConfigError("cpgd_model, a new network, needs the stage cpfp")
        for own in (FEED_FORWARD_STAGES, CPGD_STAGES):
            if {*own} & {*self.stages} and not {*self.stages} <= {*own}:
                raise ConfigError(
                    f"{self.stages[-1]} trains another network than {self.stages[0]}"
                )
        if not 0 <= self.seed < 2**62:
            raise ConfigError(f"seed must be between 0 and 2^62, got {self.seed}")

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of its stages, in order."""
        names = ("autoencoder", *DIFFUSION_STAGES, *FEED_FORWARD_STAGES, *CPGD_STAGES)
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def is_feed_forward(self) -> bool:
        """Whether its stages train a feed-forward network, not a diffusion model."""
        return any(getattr(self, name) is not None for name in FEED_FORWARD_STAGES)

    @property
    def is_cpgd(self) -> bool:
        """Whether its stages train CPGD-Net."""
        return any(getattr(self, name) is not None for name in CPGD_STAGES)

    def data_seed(self, stage: int) -> int:
        """Return the seed of a stage's clips, another one for every stage and every seed."""
        return 1000 * self.seed + stage

    def only(self, names: Sequence[str]) -> Preset:
        """Return the preset with some of its stages alone.

        Raises:
            ConfigError: If it does not have one of them.
        """
        for name in names:
            if name not in self.stages:
                raise ConfigError(
                    f"stage {name!r} is none of this preset's: {', '.join(self.stages)}"
                )
        dropped: dict[str, None] = {n: None for n in self.stages if n not in names}
        if "autoencoder" in dropped:
            dropped["model"] = None
        if "content" in dropped:
            dropped["generator"] = None
        if "cpfp" in dropped:
            dropped["cpgd_model"] = None
        return dataclasses.replace(self, **dropped)


def flat_fields(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value below nested dictionaries with its dotted path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
