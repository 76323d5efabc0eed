"""Register frames to their neighbours by optical flow, and compare them.

Frames are `[H, W, 3]`, float32 in 0..1; while they wait they are kept in 16 bits. Whatever has
the size of a frame is computed in bands of rows, with as many rows more as the result depends
on: the memory is that of the frames at hand, and every band comes out as it would of the whole
frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

_FLOW_PIXELS = 640 * 360
"""Optical flow is computed on frames shrunk to at most this many pixels, and by at least 2:
blur hides finer motion anyway."""
_FLOW_ERROR = 2.0
"""Pixels that following the flow forth and back may miss its start by."""
_COARSE = 4
"""Agreement and sharpness are compared on pictures shrunk by this factor."""
_SOFTNESS = 2.5
"""Blur of the confidence, in coarse positions; for the same reason."""
BAND_PIXELS = 2**18
"""Pixels that are compared at once: bounds memory, and is faster than more."""
_BAND_MARGIN = 12
"""Rows around a band on which its detail depends (8 of a blur, 1 of a change), a multiple of
`_COARSE`."""
_DIRECTIONS = torch.tensor(
    [
        [[0, 0, 0], [-1, 0, 1], [0, 0, 0]],
        [[0, -1, 0], [0, 0, 0], [0, 1, 0]],
        [[-0.7, 0, 0], [0, 0, 0], [0, 0, 0.7]],
        [[0, 0, -0.7], [0, 0, 0], [0.7, 0, 0]],
    ]
)[:, None]
"""Kernels of the changes along rows, columns and diagonals, `[4, 1, 3, 3]`."""
LUMA = torch.tensor([0.299, 0.587, 0.114])
"""Weights of red, green and blue (Rec. 601)."""


@dataclass(eq=False)
class Frame:
    """A frame and what is compared of it."""

    packed: Tensor
    """`[1, 3, H, W]` int16 on the device: colours in steps of 1/65535, from -32768."""
    small: np.ndarray
    """Luma, uint8, at the size of the flow."""
    taken: Tensor | None
    """`[1, 1, h, w]` in 0..1: how far a neighbour was trusted in the pass before, if any; as
    coarse as `coarse`."""

    @classmethod
    def of(cls, pixels: Tensor, taken: Tensor | None, device: str | torch.device) -> Frame:
        """Prepare a frame `[H, W, 3]`; values beyond 0..1 are clamped."""
        height, width = pixels.shape[:2]
        packed = torch.empty((1, 3, height, width), dtype=torch.int16, device=device)
        luma = np.empty((height, width), np.uint8)
        for first, last in _bands(height, width):
            band = pixels[first:last].float().clamp(0, 1)
            eight_bits = (band.cpu().numpy() * 255).round().astype(np.uint8)
            luma[first:last] = cv2.cvtColor(eight_bits, cv2.COLOR_RGB2GRAY)
            steps = rearrange(band, "h w c -> 1 c h w") * 65535
            packed[:, :, first:last] = steps.round_().sub_(32768).to(packed)
        scale = min(0.5, math.sqrt(_FLOW_PIXELS / (height * width)))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
        # Noise and compression mislead the flow more than the loss of fine detail does.
        small = cv2.GaussianBlur(small, (0, 0), 1.0)
        return cls(packed, small, None if taken is None else taken.to(device))

    @cached_property
    def coarse(self) -> Tensor:
        """The colours shrunk, `[1, 3, h, w]`."""
        return torch.cat([_shrunk(self.rows(*band)) for band in _bands(*self.size)], dim=2)

    @cached_property
    def changes(self) -> Tensor:
        """`[1, 4, h, w]`; see `change_energies`."""
        return compared(self.rows, self.size, change_energies)[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.packed.shape[2], self.packed.shape[3]

    def rows(self, first: int, last: int) -> Tensor:
        """Return the colours of some rows, `[1, 3, last - first, W]` in 0..1."""
        return _unpacked(self.packed, first, last)

    def pixels(self) -> Tensor:
        """Return the frame, `[H, W, 3]` in 0..1 on the CPU."""
        pixels = torch.empty((*self.size, 3))
        for first, last in _bands(*self.size):
            pixels[first:last] = rearrange(self.rows(first, last), "1 c h w -> h w c")
        return pixels

    def move(self, device: str | torch.device) -> None:
        """Move what lies on a device to another."""
        self.packed = self.packed.to(device)
        self.taken = None if self.taken is None else self.taken.to(device)
        for derived in ("coarse", "changes"):
            self.__dict__.pop(derived, None)


class Flows:
    """Optical flow between pairs of frames, each computed once."""

    def __init__(self) -> None:
        self._method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._known: dict[tuple[int, int], np.ndarray] = {}

    def between(self, first: Frame, second: Frame) -> np.ndarray:
        """Return where each position of `first` is in `second`, as offsets `[h, w, 2]`."""
        key = (id(first), id(second))
        if key not in self._known:
            start = np.zeros((*first.small.shape, 2), np.float32)
            self._known[key] = self._method.calc(first.small, second.small, start)
        return self._known[key]

    def forget(self, frame: Frame) -> None:
        """Let go of what concerns a frame."""
        self._known = {key: f for key, f in self._known.items() if id(frame) not in key}


@dataclass(eq=False)
class Match:
    """A neighbour registered to a frame."""

    neighbour: Frame
    flow: Tensor
    """`[1, 2, h, w]`, in pixels of the frame, at the size of the flow."""
    confidence: Tensor
    """`[1, 1, h, w]` in 0..1: how far to trust the neighbour; as coarse as `Frame.coarse`."""

    def aligned(self, first: int, last: int) -> Tensor:
        """Return the neighbour's colours at some rows of the frame, `[1, 3, rows, W]`."""
        height, width = self.neighbour.size
        flow = enlarged(self.flow, (height, width), first, last)
        # A tap of the bicubic kernel reaches two rows beyond the position.
        low, high = flow[:, 1].amin() + first, flow[:, 1].amax() + last - 1
        top = min(max(math.floor(low) - 2, 0), height - 1)
        bottom = min(max(math.ceil(high) + 3, top + 1), height)
        return _sample(self.neighbour.rows(top, bottom), flow, "bicubic", first - top)


def register(
    frame: Frame, neighbour: Frame, flows: Flows, trust: Callable[[Frame, Match], Tensor]
) -> Match:
    """Register a neighbour to a frame."""
    forth = _as_tensor(flows.between(frame, neighbour), frame.coarse)
    back = _as_tensor(flows.between(neighbour, frame), frame.coarse)
    height, width = frame.size
    # In pixels of the frame, for the limit and for the warp.
    scale = torch.tensor([width / forth.shape[3], height / forth.shape[2]]).to(forth)
    miss = (forth + _sample(back, forth, "bilinear")) * scale[:, None, None]
    valid = (miss.square().sum(1, keepdim=True) < _FLOW_ERROR**2) & _inside(forth)
    match = Match(neighbour, forth * scale[:, None, None], torch.empty(0))
    confidence = trust(frame, match)
    valid = F.interpolate(valid.to(confidence), size=confidence.shape[2:], mode="area")
    confidence = confidence * (valid > 0.99)
    # Shrink by a position, then soften: nothing is taken from beside an occlusion.
    confidence = -F.max_pool2d(-confidence, 3, stride=1, padding=1)
    match.confidence = blurred(confidence, _SOFTNESS)
    return match


def compared(
    rows: Callable[[int, int], Tensor],
    size: tuple[int, int],
    compare: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return what is compared of pictures.

    Args:
        rows: From the first row and one past the last to colours, `[K, 3, rows, W]`.
        size: Height and width of the pictures, in pixels.
        compare: From the detail of their luma, `[K, 1, H, W]`, to what is wanted of it,
            `[1, C, H, W]`.

    Returns:
        The pictures shrunk, `[K, 3, h, w]`, and what is wanted, averaged around each position,
        `[1, C, h, w]`.
    """
    coarse, details = [], []
    for first, last in _bands(*size):
        top = max(first - _BAND_MARGIN, 0)
        band = rows(top, min(last + _BAND_MARGIN, size[0]))
        inner = slice((first - top) // _COARSE, -(-(last - top) // _COARSE))
        coarse.append(_shrunk(band)[:, :, inner])
        details.append(_shrunk(compare(_detail(band)))[:, :, inner])
    return torch.cat(coarse, 2), blurred(torch.cat(details, 2), 2.0)


def _detail(color: Tensor) -> Tensor:
    """Return a band of the luma's frequencies, `[K, 1, H, W]`."""
    luma = (color * LUMA.to(color)[:, None, None]).sum(1, keepdim=True)
    return blurred(luma, 0.8) - blurred(luma, 2.5)


def change_energies(detail: Tensor) -> Tensor:
    """Return the energy of changes along rows, columns and both diagonals, `[1, 4, H, W]`."""
    padded = F.pad(detail, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, _DIRECTIONS.to(detail)).square()


def detail_products(detail: Tensor) -> Tensor:
    """Return the squares of two pictures and their product, `[1, 3, H, W]`."""
    first, second = detail.split(1)
    return torch.cat([first.square(), second.square(), first * second], dim=1)


def enlarged(picture: Tensor, size: tuple[int, int], first: int, last: int) -> Tensor:
    """Return some rows of a `[1, C, h, w]` picture enlarged bilinearly to `size`."""
    height, width = size
    rows = torch.arange(first, last, device=picture.device)
    positions = ((rows + 0.5) * (picture.shape[2] / height) - 0.5).clamp_min(0)
    above = positions.floor().long().clamp_max(picture.shape[2] - 1)
    below = (above + 1).clamp_max(picture.shape[2] - 1)
    share = (positions - above).to(picture)[:, None]
    mixed = torch.lerp(picture[:, :, above], picture[:, :, below], share)
    return F.interpolate(mixed, size=(last - first, width), mode="bilinear")


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """Blur `[1, C, H, W]` with a Gaussian of `sigma` positions."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=picture.device)
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    line = (line / line.sum()).to(picture).expand(picture.shape[1], 1, 1, -1)
    groups = picture.shape[1]
    padded = F.pad(picture, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, line, groups=groups)
    return F.conv2d(rows, line.mT, groups=groups)


def _shrunk(picture: Tensor) -> Tensor:
    return F.avg_pool2d(picture, _COARSE, ceil_mode=True, count_include_pad=False)


def _bands(height: int, width: int) -> list[tuple[int, int]]:
    """Cut rows into bands to compare, which begin at whole coarse positions."""
    rows = max(BAND_PIXELS // (width * _COARSE), 2 * _BAND_MARGIN) * _COARSE
    return list(pairwise([*range(0, height, rows), height]))


def _unpacked(packed: Tensor, first: int, last: int) -> Tensor:
    return (packed[:, :, first:last].float() + 32768) / 65535


def _sample(picture: Tensor, flow: Tensor, mode: str, row: int = 0) -> Tensor:
    """Read `[1, C, H, W]` at each position plus its offset `[1, 2, rows, W]`, in pixels.

    `row` is where the first row of the flow lies in the picture.
    """
    height, width = picture.shape[2:]
    position = _positions(flow) + flow
    position[:, 1] += row
    limits = torch.tensor([max(width - 1, 1), max(height - 1, 1)]).to(flow)
    grid = rearrange(position, "1 c h w -> 1 h w c") * (2 / limits) - 1
    return F.grid_sample(picture, grid, mode, padding_mode="border", align_corners=True)


def _inside(flow: Tensor) -> Tensor:
    """Tell which positions have their counterpart inside the picture: `[1, 1, H, W]`."""
    x, y = (_positions(flow) + flow).split(1, dim=1)
    height, width = flow.shape[2:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _positions(flow: Tensor) -> Tensor:
    """Return x and y of each position, `[1, 2, H, W]`."""
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device),
        torch.arange(width, device=flow.device),
        indexing="ij",
    )
    return torch.stack([x, y])[None].to(flow)


def _as_tensor(flow: np.ndarray, like: Tensor) -> Tensor:
    return rearrange(torch.from_numpy(flow), "h w c -> 1 c h w").to(like)
