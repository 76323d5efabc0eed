"""Leave out of a restored frame what changes it by a level or two of 255.

A network that was trained on noisy frames smooths fine texture of sharp ones by as much; what
blur takes is many times that. So changes are weighed by their own local energy, as coring does
with coefficients of a transform (Wiener's gain, with a fixed level in place of the noise's).
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

LEVEL = 2 / 255
"""Changes of this size count half, those of three times that 90 %."""

_SIDE = 9
"""Of the square, in pixels, over which a change is averaged."""


def cored(restored: Tensor, frame: Tensor) -> Tensor:
    """Return a restored frame without its smallest changes.

    Args:
        restored: `[H, W, 3]` in 0..1.
        frame: What it was restored from, the same shape.
    """
    change = restored - frame
    energy = reduce(change.square(), "h w c -> 1 1 h w", "mean")
    energy = F.avg_pool2d(energy, _SIDE, 1, _SIDE // 2, count_include_pad=False)
    gain = rearrange(energy / (energy + LEVEL**2), "1 1 h w -> h w 1")
    return frame + change * gain
