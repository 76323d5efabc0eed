"""What multi-frame fusion keeps of each frame, and which neighbours are candidates for it.

Frames are `[H, W, 3]`, float32 in 0..1; while they wait they are kept on the device in 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .comparison import NOISE_ENERGY, compared, energies_of
from .filters import bands, to_luma_

_WORTH_FLOW = 1.05
"""A neighbour is registered if any block of it has this times the frame's energy."""
_GRAY = (9798, 19235, 3735)
"""Weights of red, green and blue in OpenCV's 8-bit luma, of 2**15."""


@dataclass(frozen=True, eq=False)
class Panel:
    """What there is of a frame before fusion, `[H, W, 3]` each, float32, on the device."""

    blurry: Tensor
    """The frame as it came."""
    restored: Tensor
    """What the checkpoint's network made of it."""
    first: Tensor | None = None
    """What the first stage made of it."""

    def on(self, device: torch.device) -> Panel:
        """Return them on a device, float32 in 0..1."""
        first = None if self.first is None else _limited(self.first, device)
        return Panel(_limited(self.blurry, device), _limited(self.restored, device), first)


@dataclass(frozen=True, eq=False)
class Passed:
    """A frame between two passes."""

    pixels: Tensor
    """`[H, W, 3]`, float32 in 0..1."""
    taken: Tensor | None = None
    """See `Frame`, as the others."""
    seen: Tensor | None = None
    rest: Tensor | None = None


@dataclass(eq=False)
class Frame:
    """A frame and what is compared of it."""

    packed: Tensor
    """`[1, 3, H, W]` int16 on the device: colours in steps of 1/65535, from -32768."""
    luma: Tensor
    """`[H, W]` uint8, on the device: what optical flow is computed of."""
    taken: Tensor | None = None
    """`[1, 1, h, w]` in 0..1: how far neighbours were trusted in the passes before; as coarse
    as `coarse`. None: nowhere, or there was no pass before."""
    seen: Tensor | None = None
    """`[1, 4, h, w]`: `changes` of the frame as it came, blurry. A network may have sharpened
    it; what it lost still shows there. None: it is compared as it is."""
    rest: Tensor | None = None
    """int16 `[1, 3, H, W]`, in steps of 1/32767: what is added in the end where no neighbour
    was trusted. None: nothing."""

    @classmethod
    def of(cls, passed: Passed, device: str | torch.device) -> Frame:
        """Prepare a frame of any device; values beyond 0..1 are clamped."""
        pixels = passed.pixels
        height, width = pixels.shape[:2]
        packed = torch.empty((1, 3, height, width), dtype=torch.int16, device=device)
        luma = torch.empty((height, width), dtype=torch.uint8, device=device)
        for first, last in bands(height, width):
            band = rearrange(pixels[first:last], "h w c -> 1 c h w").to(device, torch.float32)
            band = band.clamp(0, 1)
            luma[first:last] = _eight_bit_luma(band)
            packed[:, :, first:last] = (band * 65535).round_().sub_(32768)
        kept = (passed.taken, passed.seen, passed.rest)
        return cls(packed, luma, *(each if each is None else each.to(device) for each in kept))

    @cached_property
    def _compared(self) -> tuple[Tensor, Tensor]:
        return compared(self.luma_rows, self.size, energies_of)

    @property
    def coarse(self) -> Tensor:
        """The colours shrunk, `[1, 3, h, w]`."""
        return self._compared[0]

    @property
    def changes(self) -> Tensor:
        """`[1, 4, h, w]`; see `filters.change_energies`."""
        return self._compared[1]

    @property
    def evidence(self) -> Tensor:
        """By what sharpness is judged, `[1, 4 or 8, h, w]`: `changes`, then `seen`."""
        both = [self.changes] if self.seen is None else [self.changes, self.seen]
        return torch.cat(both, dim=1)

    @cached_property
    def blocks(self) -> Tensor:
        """`evidence` in blocks of 8 x 8 coarse positions."""
        return F.avg_pool2d(self.evidence + NOISE_ENERGY, 8, ceil_mode=True)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.packed.shape[2], self.packed.shape[3]

    @property
    def device(self) -> torch.device:
        """Where the frame is kept."""
        return self.packed.device

    def rows(self, first: int, last: int) -> Tensor:
        """Return the colours of some rows, `[1, 3, last - first, W]` in 0..1."""
        return self.packed[:, :, first:last].float().add_(32768).div_(65535)

    def luma_rows(self, first: int, last: int) -> Tensor:
        """Return luma, green and blue of some rows, `[1, 3, last - first, W]`."""
        return to_luma_(self.rows(first, last))

    def move(self, device: torch.device) -> None:
        """Move what lies on a device to another; what was derived is computed there."""
        self.packed, self.luma = self.packed.to(device), self.luma.to(device)
        for name in ("taken", "seen", "rest"):
            kept = getattr(self, name)
            setattr(self, name, None if kept is None else kept.to(device))
        for derived in ("_compared", "blocks"):
            self.__dict__.pop(derived, None)


def sharper(pairs: Sequence[tuple[Frame, Frame]]) -> list[bool]:
    """Tell of pairs (neighbour, frame) whether the neighbour is sharper anywhere.

    Most pairs that fail this need no optical flow. One read from the device.
    """
    if not pairs:
        return []
    found = []
    for neighbour, frame in pairs:
        # What is sharp there may have moved by a block or two.
        theirs = F.max_pool2d(neighbour.blocks, 3, stride=1, padding=1)
        found.append((theirs > frame.blocks * _WORTH_FLOW).any())
    return torch.stack(found).cpu().tolist()


def _limited(pixels: Tensor, device: torch.device) -> Tensor:
    return pixels.to(device, torch.float32).clamp(0, 1)


def _eight_bit_luma(color: Tensor) -> Tensor:
    """Return what OpenCV's `COLOR_RGB2GRAY` makes of `[1, 3, H, W]` rounded to 8 bits."""
    red, green, blue = (color[0] * 255).round_()
    # Whole numbers below 2**24, which float32 holds.
    total = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return total.add_(2**14).mul_(2**-15).floor_()
