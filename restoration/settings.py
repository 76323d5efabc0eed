"""What a user chooses, checked once for every door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..models.config import SamplingConfig
from .denoising.sampler import SOLVERS
from .ensemble import COUNTS

PRESET_NAMES = ("fast", "detailed", "paper")
"""`fast`: the checkpoint's own steps. `detailed`: the mean of four orientations where a network
takes no steps, else as `fast`. `paper`: DDIM with 50 steps (Wang & Long)."""

NETWORK_INPUTS = ("blurry", "first_stage")

MAX_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class RestorationSettings:
    """How a clip is restored. Units are frames and pixels."""

    steps: int = 1
    """Denoising steps, 1 to 1000."""
    solver: str = "ddim"
    """`ddim` or `dpmpp_2m`."""
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 means none and halves the work."""
    strength: float = 1.0
    """0 returns the input, 1 the restored clip; between, a mix in pixels."""
    seed: int = 0
    """Seed of the start noise."""
    window: int = 16
    """Frames restored together, at least 2."""
    overlap: int = 8
    """Frames shared by neighbouring windows, at most half a window."""
    tile: int = 0
    """Side of a spatial tile in pixels; 0 chooses by the size of the frames."""
    borrow: bool = True
    """Whether restored frames take detail from sharper neighbours; see `borrowing`."""
    color_match: bool = False
    """Take the low frequencies from the input."""
    scene_cuts: bool = True
    """Find scene cuts and end windows there, so that nothing of one scene shows in the next."""
    skip_sharp: bool = False
    """Leave frames alone that are sharp already."""
    self_ensemble: int = 1
    """Orientations that a network without steps restores and averages: 1, 2, 4 or 8; see
    `ensemble`."""
    network_input: str = "blurry"
    """What the network restores: `blurry` frames, or what the `first_stage` made of them."""

    @property
    def passes(self) -> int:
        """How often the network sees each window."""
        return self.steps * (1 if self.guidance_scale == 1 else 2)

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps must be between 1 and 1000, got {self.steps}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        if self.self_ensemble not in COUNTS:
            raise ValueError(
                f"self ensemble must be one of {', '.join(map(str, COUNTS))}, "
                f"got {self.self_ensemble}"
            )
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be between 0 and 1, got {self.strength}")
        if not 0 <= self.guidance_scale <= 100:
            raise ValueError(
                f"guidance scale must be between 0 and 100, got {self.guidance_scale}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must be between 0 and 2**64 - 1, got {self.seed}")
        if self.network_input not in NETWORK_INPUTS:
            raise ValueError(
                f"network input must be one of {', '.join(NETWORK_INPUTS)}, "
                f"got {self.network_input!r}"
            )
        if self.window < 2:
            raise ValueError(f"window must be at least 2 frames, got {self.window}")
        if not 0 <= 2 * self.overlap <= self.window:
            raise ValueError(
                f"overlap must be between 0 and {self.window // 2} for a window of "
                f"{self.window} frames, got {self.overlap}"
            )
        if self.tile and self.tile < 64:
            raise ValueError(
                f"tile must be 0 (automatic) or at least 64 pixels, got {self.tile}"
            )


def takes_steps(config: Any) -> bool:
    """Return whether a network denoises in steps; others heed no setting of them."""
    return getattr(config, "takes_steps", False)


def preset_settings(
    config: Any, preset: str, **overrides: float | str | bool | None
) -> RestorationSettings:
    """Return the settings of a preset for a checkpoint.

    Args:
        config: Of the checkpoint.
        preset: One of `PRESET_NAMES`.
        **overrides: Fields of `RestorationSettings`; None keeps the preset's value.

    Raises:
        ValueError: If the preset is unknown or a value is out of range.
    """
    if preset not in PRESET_NAMES:
        raise ValueError(f"preset must be one of {', '.join(PRESET_NAMES)}, got {preset!r}")
    # Networks that restore single frames have no such defaults, and heed none.
    sampling = getattr(config, "sampling", SamplingConfig())
    values: dict = {
        "steps": 50 if preset == "paper" else sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "window": sampling.window,
        "overlap": sampling.overlap,
    }
    if preset == "detailed" and not takes_steps(config):
        values["self_ensemble"] = 4
    values.update({name: value for name, value in overrides.items() if value is not None})
    # A smaller window given alone takes a fitting overlap with it.
    if overrides.get("overlap") is None:
        values["overlap"] = min(values["overlap"], values["window"] // 2)
    return RestorationSettings(**values)
