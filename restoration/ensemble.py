"""Geometric self-ensemble: the mean of what becomes of a picture in several orientations.

After Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution" (EDSR,
arXiv 1707.02921, section 3.4). A network does not treat a picture and its mirror image quite
alike; what differs is error, and some of it averages out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

COUNTS = (1, 2, 4, 8)
"""Orientations: as it is; mirrored left to right; top to bottom as well; and transposed."""


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a picture on its grid."""

    transposed: bool
    """Rows and columns change places, before anything is mirrored."""
    mirrored: tuple[int, ...]
    """Axes that run backwards: -1 columns, -2 rows."""

    def laid(self, maps: Tensor) -> Tensor:
        """Bring maps `[..., H, W]` into this orientation."""
        maps = maps.transpose(-2, -1) if self.transposed else maps
        return maps.flip(self.mirrored) if self.mirrored else maps

    def laid_back(self, maps: Tensor) -> Tensor:
        """Undo `laid`."""
        maps = maps.flip(self.mirrored) if self.mirrored else maps
        return maps.transpose(-2, -1) if self.transposed else maps

    def laid_motion(self, motion: Tensor) -> Tensor:
        """Bring motion `[B, 2, ..., H, W]`, x before y, into this orientation."""
        across, down = motion.unbind(1)
        if self.transposed:
            across, down = down, across
        signs = (-1 if axis in self.mirrored else 1 for axis in (-1, -2))
        parts = [sign * part for sign, part in zip(signs, (across, down), strict=True)]
        return self.laid(torch.stack(parts, dim=1))


_ALL = tuple(
    Orientation(transposed, mirrored)
    for transposed in (False, True)
    for mirrored in ((), (-1,), (-2,), (-2, -1))
)


def averaged(
    restore: Callable[[Orientation], Tensor],
    count: int,
    before: Callable[[], Any] = lambda: None,
) -> Tensor:
    """Return the mean of what a network makes of a picture in several orientations.

    Args:
        restore: Restores the picture as laid in an orientation, `[..., H, W]`.
        count: Of orientations, one of `COUNTS`.
        before: Called before each but the first; may raise to cancel.
    """
    total = restore(_ALL[0])
    for orientation in _ALL[1:count]:
        before()
        total = total + orientation.laid_back(restore(orientation))
    return total if count == 1 else total / count
