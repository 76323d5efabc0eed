"""How far an aligned neighbour is trusted: it must agree, and be sharper or alike.

Pictures come as bands of rows, with as many rows more as the result depends on: memory does not
grow with the frame, and every band comes out as it would of the whole frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .filters import (
    BAND_MARGIN,
    COARSE,
    bands,
    blurred,
    change_energies,
    detail,
    shrunk,
    to_red_,
)

if TYPE_CHECKING:
    from .candidates import Frame
    from .registration import Match

_DISAGREEMENT = 12 / 255
"""Low-pass difference at which confidence falls to 1/e, where the frame is flat."""
_CONTRAST_TOLERANCE = 0.2
"""Share of the local contrast that is added to it."""
NOISE_ENERGY = 8 / 255**2
"""Energy between two pass bands that is taken for noise and not for detail."""
_NOISE_PRODUCT = 2 / 255**2
"""What noise adds to the product of the details of two pictures."""
_NO_GAIN, _FULL_GAIN = 1.05, 1.9
"""A neighbour is not used, and fully used, where it has this times the frame's energy. The
steeper, the more a small difference of the input (the tiles of the network) changes."""
_NO_CORRELATION, _FULL_CORRELATION = 0.6, 0.9
"""A neighbour does not even a frame out, and does so fully, where the correlation of their
detail is this."""


class Reference:
    """A frame that neighbours are compared with: what of it is the same for all of them."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._coarse = blurred(frame.coarse, 1.0)
        gray = self._coarse.mean(1, keepdim=True)
        variance = blurred(gray.square(), 3.0) - blurred(gray, 3.0).square()
        deviation = variance.clamp_min_(0).sqrt_()
        self._tolerance = tolerance(deviation)

    def agreement(self, aligned: Tensor) -> Tensor:
        """Compare low frequencies, which blur leaves alone: `[1, 1, h, w]` in 0..1.

        Args:
            aligned: `[1, 3, h, w]`, colours of the neighbour, shrunk.
        """
        difference = blurred(aligned, 1.0) - self._coarse
        distance = difference.square_().mean(1, keepdim=True).sqrt_()
        return distance.div_(self._tolerance).square_().neg_().exp_()


class Advantage(Reference):
    """Trust a neighbour as far as it is sharper in its best direction, restored or as it came.

    Frames blurred along different directions help each other, and a network that sharpened a
    frame has not brought back what its neighbour still has. What is compared is shrunk before
    it is aligned: that costs little, and an aligned neighbour is no softer for being resampled.
    """

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        self._evidence = frame.evidence + NOISE_ENERGY

    def __call__(self, match: Match) -> Tensor:
        """Return how far to trust a registered neighbour, `[1, 1, h, w]` in 0..1."""
        neighbour = match.neighbour
        aligned = match.shrunk(torch.cat([neighbour.coarse, neighbour.evidence], dim=1))
        coarse, evidence = aligned[:, :3], aligned[:, 3:]
        ratio = evidence.add_(NOISE_ENERGY).div_(self._evidence)
        gain = ratio.amax(1, keepdim=True)
        return self.agreement(coarse) * ramp(gain, _NO_GAIN, _FULL_GAIN)


class Resemblance(Reference):
    """Trust a neighbour as far as its detail is the frame's, where the frame took detail.

    Elsewhere, in sharp clips above all, there is nothing to even out but noise.
    """

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        height, width = frame.size
        self._detail = frame.packed.new_empty((1, 1, height, width), dtype=torch.float32)
        for first, last in bands(height, width):
            top = max(first - BAND_MARGIN, 0)
            luma = frame.luma_rows(top, min(last + BAND_MARGIN, height))[:, :1]
            self._detail[:, :, first:last] = detail(luma)[:, :, first - top : last - top]
        energy = [shrunk(self._detail[:, :, a:b].square()) for a, b in bands(height, width)]
        self._energy = blurred(torch.cat(energy, dim=2), 2.0)

    def __call__(self, match: Match) -> Tensor:
        """Return how far to trust an aligned neighbour, `[1, 1, h, w]` in 0..1."""

        def products(theirs: Tensor, first: int, last: int) -> Tensor:
            return torch.cat([theirs.square(), theirs * self._detail[:, :, first:last]], dim=1)

        assert self.frame.taken is not None
        coarse, compared_products = compared(match.aligned, self.frame.size, products)
        theirs, both = compared_products.split(1, dim=1)
        correlation = both / (theirs * self._energy).sqrt_().add_(_NOISE_PRODUCT)
        alike = ramp(correlation, _NO_CORRELATION, _FULL_CORRELATION)
        return self.agreement(coarse) * alike * self.frame.taken


def compared(
    rows: Callable[[int, int], Tensor],
    size: tuple[int, int],
    measure: Callable[[Tensor, int, int], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return what is compared of a picture.

    Args:
        rows: From the first row and one past the last to luma, green and blue,
            `[1, 3, rows, W]`.
        size: Height and width of the picture, in pixels.
        measure: From the detail of its luma, `[1, 1, rows, W]`, the first row and one past the
            last, to what is wanted of it, `[1, C, rows, W]`.

    Returns:
        The colours shrunk, `[1, 3, h, w]`, and what is wanted, averaged around each position,
        `[1, C, h, w]`.
    """
    coarse, measures = [], []
    for first, last in bands(*size):
        top, bottom = max(first - BAND_MARGIN, 0), min(last + BAND_MARGIN, size[0])
        band = rows(top, bottom)
        inner = slice((first - top) // COARSE, -(-(last - top) // COARSE))
        coarse.append(shrunk(band[:, :, first - top : last - top]))
        wanted = measure(detail(band[:, :1]), top, bottom)
        measures.append(shrunk(wanted)[:, :, inner])
    return to_red_(torch.cat(coarse, dim=2)), blurred(torch.cat(measures, dim=2), 2.0)


def energies_of(picture: Tensor, first: int, last: int) -> Tensor:
    """Measure `filters.change_energies`, wherever the rows lie."""
    return change_energies(picture)


def tolerance(deviation: Tensor) -> Tensor:
    """Return by how much pictures may differ where a frame has this deviation; changes it."""
    return deviation.mul_(_CONTRAST_TOLERANCE).add_(_DISAGREEMENT)


def ramp(values: Tensor, low: float, high: float) -> Tensor:
    """Rise from 0 at `low` to 1 at `high`."""
    return ((values - low) / (high - low)).clamp_(0, 1)
