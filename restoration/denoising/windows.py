"""Cut a clip of latents into overlapping windows and tiles, and fuse what comes back.

Windows run over time, tiles over height and width; all are half-open ranges of positions.
Every shot has windows of its own: across a cut there is nothing to borrow, only ghosts.
The library's sampler and the ComfyUI model call the same code at every denoising step, with
a clean estimate per piece, so that neighbours agree on the borders before the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Span = tuple[int, int]

_ALIGNED = 8
"""Latent positions that sides of tiles are multiples of. Networks shrink latents by 4 or 8:
tiles that begin between two of their positions differ more from the whole frame (2.1 instead
of 0.3 levels of 255 on a gradient, `tests/restoration/denoising/test_seams.py`)."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One window of one tile, in latent positions."""

    frames: Span
    """First frame, and one past the last."""
    rows: Span
    """First row, and one past the last."""
    columns: Span
    """First column, and one past the last."""
    shot: Span
    """First frame of the shot the window lies in, and one past the last."""

    @property
    def centre_frame(self) -> int:
        """The frame whose image tokens the window uses."""
        return (self.frames[0] + self.frames[1]) // 2

    def cut(self, latents: Tensor) -> Tensor:
        """Return this piece of `[B, C, T, h, w]`."""
        return latents[:, :, slice(*self.frames), slice(*self.rows), slice(*self.columns)]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a clip of latents is cut. Sizes are in frames and latent positions."""

    window: int
    """Frames of a window."""
    overlap: int
    """Frames shared by neighbouring windows."""
    tile: int
    """Largest side of a tile; 0 means the whole frame."""
    tile_overlap: int
    """Positions shared by neighbouring tiles, at least."""
    cuts: tuple[int, ...] = ()
    """Frames that start a new shot, rising. No window reaches over one."""

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window must be at least 2 frames, got {self.window}")
        if not 0 <= 2 * self.overlap <= self.window:
            raise ValueError(
                f"overlap must be between 0 and {self.window // 2} for a window of "
                f"{self.window} frames, got {self.overlap}"
            )
        if self.tile and not 0 <= 2 * self.tile_overlap <= self.tile:
            raise ValueError(
                f"tile overlap must be between 0 and {self.tile // 2} for a tile of "
                f"{self.tile} positions, got {self.tile_overlap}"
            )

    def pieces(self, num_frames: int, height: int, width: int) -> Iterator[Piece]:
        """Yield the pieces of a clip, window by window."""
        rows = split_evenly(height, self.tile or height, self.tile_overlap)
        columns = split_evenly(width, self.tile or width, self.tile_overlap)
        for shot in shots(num_frames, self.cuts):
            first, last = shot
            for start, stop in split(last - first, self.window, self.overlap):
                frames = (first + start, first + stop)
                for row in rows:
                    for column in columns:
                        yield Piece(frames=frames, rows=row, columns=column, shot=shot)

    def count(self, num_frames: int, height: int, width: int) -> int:
        """Return the number of pieces of a clip."""
        return sum(1 for _ in self.pieces(num_frames, height, width))


def shots(num_frames: int, cuts: Sequence[int]) -> list[Span]:
    """Return the spans between cuts; those outside the clip do not count."""
    bounds = [0, *(cut for cut in cuts if 0 < cut < num_frames), num_frames]
    return list(pairwise(bounds))


def split(length: int, size: int, overlap: int) -> list[Span]:
    """Cut a range into spans of `size` that share `overlap`; the last one ends at the end.

    Args:
        length: Positions to cover, at least 1.
        size: Positions of a span; a shorter range is one span.
        overlap: Positions shared by neighbours, at most half of `size`. The last two spans
            may share more.

    Returns:
        Half-open spans in order, all of the same size.
    """
    if length <= size:
        return [(0, length)]
    hop = size - overlap
    starts = [*range(0, length - size, hop), length - size]
    return [(start, start + size) for start in starts]


def split_evenly(length: int, size: int, overlap: int) -> list[Span]:
    """Cut a range into as few spans of at most `size` as `split`, but no larger than needed.

    180 positions in spans of 128 that share 16 are two of 104, not of 128: what neighbours
    share is computed twice. Arguments and result as for `split`.
    """
    if length <= size:
        return [(0, length)]
    count = -(-(length - overlap) // (size - overlap))
    needed = -(-(length + (count - 1) * overlap) // count)
    return split(length, min(size, -(-needed // _ALIGNED) * _ALIGNED), overlap)


def crossfade_weights(span: Span, whole: Span, overlap: int) -> Tensor:
    """Weight the positions of a span so that it fades where a neighbour takes over.

    Args:
        span: What is weighted.
        whole: The shot, height or width it is a part of.
        overlap: Positions shared by neighbours.

    Returns:
        float32 `[size]` above 0: 1 in the middle and at the ends of `whole`, linear ramps
        over `overlap` positions elsewhere. `fuse` divides by the sum.
    """
    size = span[1] - span[0]
    weights = torch.ones(size)
    # Half-step offsets keep the ends above zero.
    ramp = (torch.arange(overlap) + 0.5) / max(overlap, 1)
    if span[0] > whole[0]:
        weights[:overlap] = torch.minimum(weights[:overlap], ramp)
    if span[1] < whole[1]:
        weights[size - overlap :] = torch.minimum(weights[size - overlap :], ramp.flip(0))
    return weights


def fuse(
    predict: Callable[[Piece], Tensor],
    layout: Layout,
    like: Tensor,
    before_piece: Callable[[], None] | None = None,
) -> Tensor:
    """Predict each piece and return the weighted mean.

    Args:
        predict: From a piece to `[B, C, t, h, w]` of its size.
        layout: How to cut.
        like: `[B, C, T, h, w]`: size, dtype and device of the result.
        before_piece: Called before each piece; may raise to cancel.

    Returns:
        `[B, C, T, h, w]`.
    """
    size = like.shape[2:]
    pieces = list(layout.pieces(*size))
    if len(pieces) == 1:
        if before_piece is not None:
            before_piece()
        return predict(pieces[0])
    total = torch.zeros_like(like)
    weight_sum = torch.zeros(size, device=like.device, dtype=like.dtype)
    overlaps = (layout.overlap, layout.tile_overlap, layout.tile_overlap)
    for piece in pieces:
        if before_piece is not None:
            before_piece()
        spans = (piece.frames, piece.rows, piece.columns)
        wholes = (piece.shot, (0, size[1]), (0, size[2]))
        along = [
            crossfade_weights(span, whole, overlap).to(like)
            for span, whole, overlap in zip(spans, wholes, overlaps, strict=True)
        ]
        weights = along[0][:, None, None] * along[1][:, None] * along[2]
        piece.cut(total).add_(predict(piece) * weights)
        weight_sum[tuple(slice(*span) for span in spans)] += weights
    return total.div_(weight_sum)
