"""Register frames to their neighbours by optical flow.

Whatever has the size of a frame is computed in bands of rows: memory is bounded, and every band
comes out as it would of the whole frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .candidates import Frame
from .filters import bands, blurred, enlarged, positions, resized, shrunk_to
from .flows import Flow, Flows

_FLOW_ERROR = 2.0
"""Pixels that following the flow forth and back may miss its start by."""
_SOFTNESS = 2.5
"""Blur of the confidence, in coarse positions: a small difference decides less."""


class Match:
    """A neighbour registered to a frame.

    Args:
        neighbour: Which.
        flow: From the frame to it.
        keep: Whether there is memory to keep it aligned once it is read; else it is aligned
            again whenever it is read.
    """

    def __init__(self, neighbour: Frame, flow: Flow, keep: bool) -> None:
        self.neighbour = neighbour
        self._keep = keep
        self._flow = flow
        height, width = neighbour.size
        offsets = flow.on(neighbour.device)
        self._scale = width / offsets.shape[3], height / offsets.shape[2]
        self._offsets = _scaled(offsets, *self._scale)
        self._kept: Tensor | None = None
        self.confidence = offsets.new_empty(0)
        """`[1, 1, h, w]` in 0..1: how far to trust the neighbour; as coarse as
        `Frame.coarse`."""

    def shrunk(self, maps: Tensor) -> Tensor:
        """Align maps of the neighbour that are as coarse as `Frame.coarse`.

        Args:
            maps: `[1, C, h, w]`.
        """
        size = maps.shape[2], maps.shape[3]
        height, width = self.neighbour.size
        offsets = resized(self._offsets, size)
        return _sample(maps, _scaled(offsets, size[1] / width, size[0] / height), "bilinear")

    def _aligned_whole(self) -> Tensor:
        """Align the whole neighbour: faster than band by band where memory allows."""
        height, width = self.neighbour.size
        rows = self.neighbour.luma_rows(0, height)
        kept = torch.empty_like(rows)
        for first, last in bands(height, width):
            kept[:, :, first:last] = self._warped(rows, 0, first, last)
        return kept

    def aligned(self, first: int, last: int) -> Tensor:
        """Return the neighbour at some rows of the frame.

        Returns:
            Luma, green and blue, `[1, 3, last - first, W]`; not to be changed.
        """
        if self._keep:
            if self._kept is None:
                self._kept = self._aligned_whole()
            return self._kept[:, :, first:last]
        top, bottom = self._rows_read(first, last)
        return self._warped(self.neighbour.luma_rows(top, bottom), top, first, last)

    def _warped(self, rows: Tensor, top: int, first: int, last: int) -> Tensor:
        """Read `rows`, which begin at `top`, where the flow of other rows leads."""
        grid = enlarged(self._offsets, self.neighbour.size, first, last)
        return _sample(rows, grid, "bicubic", first - top)

    def _rows_read(self, first: int, last: int) -> tuple[int, int]:
        """Return the rows of the neighbour that rows of the frame are read from."""
        height = self.neighbour.size[0]
        scale = self._scale[1]
        lowest, highest = self._flow.vertical_range(
            (first + 0.5) / scale - 0.5, (last - 0.5) / scale - 0.5
        )
        # A tap of the bicubic kernel reaches two rows beyond the position.
        top = min(max(math.floor(lowest * scale + first) - 2, 0), height - 1)
        bottom = min(max(math.ceil(highest * scale + last - 1) + 3, top + 1), height)
        return top, bottom


def register(
    frame: Frame, neighbour: Frame, flows: Flows, trust: Callable[[Match], Tensor], keep: bool
) -> Match:
    """Register a neighbour to a frame.

    Args:
        frame: Where to.
        neighbour: What.
        flows: Between the two, and others.
        trust: From the aligned neighbour to how far to trust it, `[1, 1, h, w]` in 0..1.
        keep: As for `Match`.
    """
    there, back = flows.between(frame, neighbour), flows.between(neighbour, frame)
    match = Match(neighbour, there, keep)
    confidence = trust(match)
    valid = _consistent(there.on(frame.device), back.on(frame.device), frame.size)
    confidence *= (
        shrunk_to(valid.to(confidence), (confidence.shape[2], confidence.shape[3])) > 0.99
    )
    # Shrink by a position, then soften: nothing is taken from beside an occlusion.
    confidence = -F.max_pool2d(-confidence, 3, stride=1, padding=1)
    match.confidence = blurred(confidence, _SOFTNESS).contiguous()
    return match


def _consistent(there: Tensor, back: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell where flows there and back end near their start, inside: `[1, 1, h, w]`."""
    height, width = there.shape[2:]
    miss = _sample(back, there.clone(), "bilinear").add_(there)
    miss = _scaled(miss, size[1] / width, size[0] / height)
    near = miss.square_().sum(1, keepdim=True) < _FLOW_ERROR**2
    x, y = there.split(1, dim=1)
    columns = positions(width, there.device)
    rows = positions(height, there.device)[:, None]
    inside_x = (x >= -columns) & (x <= width - 1 - columns)
    return near & inside_x & (y >= -rows) & (y <= height - 1 - rows)


def _scaled(offsets: Tensor, horizontal: float, vertical: float) -> Tensor:
    return torch.cat([offsets[:, :1] * horizontal, offsets[:, 1:] * vertical], dim=1)


def _sample(picture: Tensor, offsets: Tensor, mode: str, row: int = 0) -> Tensor:
    """Read `[1, C, H, W]` at each position plus its offset.

    Args:
        picture: What to read.
        offsets: `[1, 2, rows, columns]`, in pixels; overwritten.
        mode: Of interpolation.
        row: Where the first row of the offsets lies in the picture.
    """
    height, width = picture.shape[2:]
    rows, columns = offsets.shape[2:]
    # From pixels to -1..1, in place.
    to_x, to_y = 2 / max(width - 1, 1), 2 / max(height - 1, 1)
    x = positions(columns, offsets.device).mul(to_x).sub_(1)
    y = positions(rows, offsets.device).add(row).mul_(to_y).sub_(1)
    offsets[:, 0].mul_(to_x).add_(x)
    offsets[:, 1].mul_(to_y).add_(y[:, None])
    grid = rearrange(offsets, "1 c h w -> 1 h w c")
    return F.grid_sample(picture, grid, mode, padding_mode="border", align_corners=True)
