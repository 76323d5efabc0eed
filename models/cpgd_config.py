"""Configuration of CPGD-Net; see `cpgd`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .config import DivdConfig, SamplingConfig, UNet3DConfig
from .config_fields import ConfigError, check_choice, check_positive, check_range

PRIOR_KINDS = ("none", "motion", "motion_residual")

_MOST_BLOCKS = 64
_MOST_GROUPS = 256


@dataclass(frozen=True, kw_only=True)
class CpfpConfig:
    """Stage 1: propagation of features along the motion that a codec found.

    Defaults have the widths of the published network. Resolutions are 1, 1/2 and 1/4.
    """

    channels: tuple[int, int, int] = (64, 64, 192)
    """Width at each resolution; what is propagated has the last."""
    encoder_blocks: tuple[int, int, int] = (1, 2, 2)
    """Blocks of the encoder at each resolution."""
    decoder_blocks: tuple[int, int, int] = (1, 2, 8)
    """The same of the decoder; those at 1/4 see what all passes found."""
    pass_blocks: int = 2
    """Blocks after each alignment."""
    offset_groups: int = 16
    """Groups of channels that are sampled at places of their own: half of them in the frame
    before, half in the one before that."""
    max_offset: float = 5.0
    """How far from the codec's motion a place may lie, in positions at 1/4."""
    priors: Literal["none", "motion", "motion_residual"] = "motion_residual"
    """What of the coding priors is used. The layers are the same, so that networks with more
    and with less can be compared."""

    def __post_init__(self) -> None:
        check_positive(self, "channels")
        for name in ("encoder_blocks", "decoder_blocks", "pass_blocks"):
            check_range(self, name, 0, _MOST_BLOCKS)
        check_range(self, "offset_groups", 2, _MOST_GROUPS)
        width = self.channels[-1]
        if self.offset_groups % 2 or width % (self.offset_groups // 2):
            raise ConfigError(
                f"offset_groups must be even, and half of them divide the {width} channels at "
                f"1/4, got {self.offset_groups}"
            )
        if not 0 < self.max_offset <= 1024:
            raise ConfigError(
                f"max_offset must be above 0, at most 1024, got {self.max_offset}"
            )
        check_choice("priors", self.priors, PRIOR_KINDS)


@dataclass(frozen=True, kw_only=True)
class CpcConfig:
    """Stage 2: a diffusion model with a control branch. Defaults are of the full size."""

    divd: DivdConfig = field(default_factory=DivdConfig)
    """The diffusion model."""
    control_channels: tuple[int, ...] = ()
    """Width of the branch on each level of the UNet; empty: those of the UNet."""

    def __post_init__(self) -> None:
        levels = len(self.divd.unet.block_channels)
        if len(self.control_channels) not in (0, levels):
            raise ConfigError(
                f"control_channels needs one entry per level ({levels}), "
                f"got {len(self.control_channels)}"
            )
        # Made, so that what does not fit is found.
        _ = self.control

    @property
    def control(self) -> UNet3DConfig:
        """The structure of the branch, which reads three kinds of latents."""
        unet = self.divd.unet
        return replace(
            unet,
            in_channels=3 * unet.out_channels,
            block_channels=self.control_channels or unet.block_channels,
            latent_skip=False,
        )


@dataclass(frozen=True, kw_only=True)
class CpgdConfig:
    """The whole network."""

    cpfp: CpfpConfig = field(default_factory=CpfpConfig)
    cpc: CpcConfig | None = None
    """Without it the result is that of the first stage."""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(window=24, overlap=4, tile=256)
    )
    """How clips are cut unless the user says otherwise."""

    @property
    def takes_steps(self) -> bool:
        """Whether the number of denoising steps changes results."""
        return self.cpc is not None

    @property
    def reads_priors(self) -> bool:
        """Whether results depend on coding priors."""
        return self.cpfp.priors != "none"
