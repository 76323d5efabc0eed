"""The stages that train a feed-forward network: by pixels, then against a discriminator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..models.config_fields import ConfigError
from ..models.dblrgan import DiscriminatorConfig
from .data_config import DataConfig, check_batches, check_numbers, phases_of


@dataclass(frozen=True, kw_only=True)
class ContentStage:
    """Training by the errors of pixels.

    Defaults are those of a network trained from scratch on two CPU cores.
    """

    steps: int
    """Updates."""
    data: DataConfig = field(default_factory=DataConfig)
    """Batches; of a clip every frame is restored that has all of its neighbours."""
    easy_data: DataConfig | None = None
    """Batches up to `easy_until`: moderate blur."""
    easy_until: float = 0.6
    """Point of the run, 0 to 1, up to which `easy_data` is drawn."""
    straight_data: DataConfig | None = None
    """Batches up to `straight_until`, before `easy_data`: straight motion, the blur that is
    learned first."""
    straight_until: float = 0.25
    """Point of the run, 0 to 1, up to which `straight_data` is drawn."""
    accumulation: int = 1
    """Parts that a process's share of an update is computed in, to save memory."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """"muon" for the convolutions between the first and the last and AdamW for the rest, or
    "adamw" for all."""
    learning_rate: float = 1e-3
    """Peak; linear warm-up, cosine to zero."""
    last_layer_rate: float = 0.1
    """Factor of the learning rate for the last convolution: its inputs are all positive, so
    that a step moves every pixel by the sum of them."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    warmup_steps: int = 60
    """Updates of linear warm-up."""
    weight_decay: float = 0.01
    """Of AdamW and Muon, on matrices."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are exported, per update; 0: no averaging."""
    pixel_loss: Literal["log", "mse", "charbonnier"] = "log"
    """"log": log10 of the mean square error of a frame, so that frames blurred past repair do
    not drown those that can be mended. "mse": the paper's. "charbonnier": a smooth L1."""
    pixel_floor: tuple[float, float] = (5e-3, 2e-4)
    """At the start and end of the run, for "log": added to the mean square error of a frame
    before its logarithm (values in -1..1: 29 and 43 dB)."""
    pixel_weight: float = 1.0
    """Weight of the pixel loss."""
    fft_weight: float = 0.1
    """Weight of the L1 between spectra."""
    high_frequency_weight: float = 0.0
    """Weight of the L1 between the levels of Laplacian pyramids."""
    lpips_weight: float = 0.0
    """Weight of LPIPS, which needs the weights of its network (`train --lpips-weights`)."""

    def __post_init__(self) -> None:
        check_numbers(self, 1, "steps")
        check_numbers(
            self, 0, "learning_rate", "last_layer_rate", "warmup_steps", "weight_decay"
        )
        check_numbers(self, 0, "pixel_weight", "fft_weight", "high_frequency_weight")
        check_numbers(self, 0, "lpips_weight")
        check_numbers(self, 0, "easy_until", "straight_until", highest=1)
        check_numbers(self, 0, "betas", "ema_decay", below=1)
        check_numbers(self, 0, "gradient_clip", "pixel_floor", above=True)
        if self.straight_data is not None and self.easy_data is not None:
            check_numbers(self, 0, "straight_until", highest=self.easy_until)
        check_batches(
            self.accumulation,
            self.data,
            easy_data=self.easy_data,
            straight_data=self.straight_data,
        )

    @property
    def phases(self) -> list[tuple[int, DataConfig]]:
        """From which update on which batches are drawn; the first from 0 on."""
        early = [(self.straight_data, self.straight_until), (self.easy_data, self.easy_until)]
        return phases_of(self.steps, early, self.data)


@dataclass(frozen=True, kw_only=True)
class AdversarialStage(ContentStage):
    """Training by pixels and against a discriminator.

    Both networks are updated at once, from the same frames.
    """

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """It starts untrained and is not exported."""
    adversarial_loss: Literal["relativistic", "non_saturating", "paper"] = "relativistic"
    """What both networks are trained by. "relativistic": which of two, a restored frame and the
    same frame sharp, is the sharp one (arXiv 1807.00734). The others, where D says of one frame
    how likely it is sharp: "non_saturating", -log D for the restored ones, and "paper",
    log(1 - D), whose gradient vanishes while the discriminator wins. What a frame shows differs
    far more between frames than sharp and restored do; a pair has it in common."""
    adversarial_weight: float = 0.4
    """Weight of it, beside the logarithm of the error. The paper's is not known for certain
    (2e-4, beside the mean square error)."""
    discriminator_rate: float = 1.0
    """Factor of the learning rate for the discriminator."""
    discriminator_betas: tuple[float, float] = (0.5, 0.9)
    """Of its AdamW."""
    r1_weight: float = 0.0
    """Gamma of the penalty: half of it weighs the squared gradient of D's logit at sharp frames
    (R1, arXiv 1801.04406), and at restored ones where the loss is "relativistic" (R2, arXiv
    2501.05440); 0: none."""
    r1_every: int = 1
    """Updates between those that R1 is computed in, its weight times as many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 0, "adversarial_weight", "discriminator_rate", "r1_weight")
        check_numbers(self, 0, "discriminator_betas", below=1)
        check_numbers(self, 1, "r1_every")
        if self.discriminator.batch_norm and self.r1_weight:
            raise ConfigError("r1_weight: R1 is of single frames, which batch_norm mixes")
