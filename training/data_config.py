"""What training batches are made of, and the check of numbers in the configs of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.config_fields import ConfigError
from ..synthesis.camera_shake import ShakeConfig


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
    noise_share: float = 0.6
    """Share of all clips, real pairs too, with sensor noise after the blur (the papers: 0)."""
    compressed_share: float = 0.15
    """Share of all clips that go through H.264 after that (the papers: 0)."""
    shake: ShakeConfig = field(default_factory=ShakeConfig)
    """The synthetic blur."""

    def __post_init__(self) -> None:
        check_numbers(self, 1, "num_frames", "crop", "clips_per_batch", "pair_shrinking")
        check_numbers(
            self, 0, "photo_share", "clip_share", "noise_share", "compressed_share", highest=1
        )
        if self.photo_share + self.clip_share > 1 + 1e-6:
            raise ConfigError(
                f"photo_share and clip_share add up to {self.photo_share + self.clip_share}, "
                "expected 1 or less"
            )


def phases_of(
    steps: int, early: Sequence[tuple[DataConfig | None, float]], last: DataConfig
) -> list[tuple[int, DataConfig]]:
    """Return from which update on which batches are drawn; the first from 0 on.

    Args:
        steps: Updates.
        early: Batches up to a point of the run, 0 to 1, in order; None: none.
        last: Batches after them.
    """
    phases, start = [], 0
    for data, until in early:
        end = int(until * steps)
        if data is not None and end > start:
            phases.append((start, data))
            start = end
    return [*phases, (start, last)] if start < steps else phases


def check_batches(accumulation: int, data: DataConfig, **early: DataConfig | None) -> None:
    """Check that a stage's batches are of one size, and that it can be computed in parts."""
    share = data.clips_per_batch
    if accumulation < 1 or share % accumulation:
        raise ConfigError(
            f"clips_per_batch ({share}) must be a multiple of accumulation ({accumulation})"
        )
    for name, other in early.items():
        if other is not None and other.clips_per_batch != share:
            raise ConfigError(
                f"{name}.clips_per_batch ({other.clips_per_batch}) must be that of data "
                f"({share}): a stage keeps its batch size"
            )


def check_numbers(
    config: Any,
    lowest: float,
    *names: str,
    highest: float = math.inf,
    above: bool = False,
    below: float | None = None,
) -> None:
    """Check finite numbers, or each of a tuple of numbers.

    Args:
        config: What they are fields of.
        lowest: Smallest allowed value.
        names: Of the fields.
        highest: Largest allowed value.
        above: Whether they must be above `lowest`.
        below: Bound that they must be below, instead of `highest`.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            low = number > lowest if above else number >= lowest
            high = number < below if below is not None else number <= highest
            # Not a number compares false, infinity is no number of anything.
            if low and high and number < math.inf:
                continue
            wanted = f"above {lowest}" if above else f"{lowest} or more"
            if below is not None:
                wanted += f" and below {below}"
            elif highest < math.inf:
                wanted = f"between {lowest} and {highest}"
            raise ConfigError(f"{name} must be {wanted}, got {value}")
