"""How long a network learns from a clip, and how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """Units are frames and pixels. The defaults are those of `benchmarks/adaptation.py`."""

    updates: int = 192
    """Of the weights: what bounds the time, so that the same seed gives the same result."""
    clips: int = 2
    """Crops per update."""
    frames: int = 8
    """Of a crop."""
    crop: int = 96
    """Side of a crop, a multiple of 32."""
    learning_rate: float = 7e-4
    reblurred_share: float = 0.25
    """Share of the crops whose sharp frames are blurred again, by kernels of the clip; the
    others, and those that nothing sharp is in, are blurry as they came."""
    least_gain_db: float = 0.5
    """What the network alone must gain in the columns held out for it to be used. Part of it is
    that of the mirror images whose mean is the target, and frames lend each other less where
    the sharp ones among them were changed (docs/adaptation.md)."""

    def __post_init__(self) -> None:
        for name in ("updates", "clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.frames < 2:
            raise ValueError(f"frames must be at least 2, got {self.frames}")
        if self.crop < 32 or self.crop % 32:
            raise ValueError(f"crop must be a multiple of 32, got {self.crop}")
        if not 0 <= self.reblurred_share <= 1:
            raise ValueError(
                f"reblurred_share must be between 0 and 1, got {self.reblurred_share}"
            )
