"""The engine of networks that restore whole windows of a clip with a codec's priors.

Windows are those of the diffusion model's grid, so that a clip comes out the same whether it
is restored at once or segment by segment. The priors of a window are those of its own frames,
encoded from its first one on, for the same reason. Where windows meet, frames are crossfaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..models.cpgd_priors import SCALE, ClipPriors
from ..models.registry import ClipNetwork
from .clip_priors import as_pictures, priors_of_frames
from .denoising.layout import in_smaller_pieces, make_layout
from .denoising.windows import Layout, Piece, Span, crossfade_weights, fuse, split
from .engine import Engine, Session
from .frames import DeviceFrames
from .phases import computed
from .progress import Work
from .settings import RestorationSettings
from .streaming.segments import Segment, SegmentGrid, segment_grid

_TILE_STEP = 16
"""Sides of tiles are multiples of this, so that their overlaps, a quarter at most, are
multiples of `SCALE` and each tile starts at a position of the priors."""


class ClipRestorer(Engine):
    """The engine of a `registry.ClipNetwork`."""

    model: ClipNetwork

    @classmethod
    def grid(
        cls, config: Any, settings: RestorationSettings, height: int, width: int
    ) -> SegmentGrid:
        """See `Engine`: segments end where windows do."""
        # There are no steps that carry anything from window to window.
        return segment_grid(dataclasses.replace(settings, steps=1), height, width)

    @classmethod
    def noise_shape(cls, config: Any, height: int, width: int) -> None:
        """See `Engine`: no noise."""

    def session(
        self,
        settings: RestorationSettings,
        height: int,
        width: int,
        state: bytes | None = None,
        *,
        grid: SegmentGrid | None = None,
    ) -> ClipSession:
        """See `Engine`."""
        return ClipSession(self, settings, (height, width))

    def layout(self, settings: RestorationSettings, height: int, width: int) -> Layout:
        """Return how one window of frames of `height` x `width` pixels is cut."""
        tile = settings.tile // _TILE_STEP * _TILE_STEP
        return make_layout(
            settings.window, settings.overlap, tile, height, width, self.config.sampling, 1
        )

    @torch.no_grad()
    def restore_piece(self, video: Tensor, priors: ClipPriors) -> Tensor:
        """Restore a part of a window.

        Args:
            video: `[1, 3, T, H, W]` in -1..1, on the device.
            priors: Of the same part.

        Returns:
            The same shape, float32.

        Raises:
            FloatingPointError: If the network gives values that are not finite.
        """
        return computed(
            lambda: self.model(video, priors), self.dtype, self.device, self.warn_once
        )


class ClipSession(Session):
    """Restore the segments of a clip, window by window."""

    def __init__(
        self, engine: ClipRestorer, settings: RestorationSettings, size: tuple[int, int]
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._size = size
        self._padded = tuple(-(-side // SCALE) * SCALE for side in size)
        self._layout = engine.layout(settings, *size)
        self._told: set[Layout] = set()

    @property
    def state(self) -> bytes:
        """Nothing: a frame depends on frames alone."""
        return b""

    def skip(self, num_frames: int) -> None:
        """See `Session`."""

    def count(self, segment: Segment, span: Span) -> int:
        """See `Session`."""
        windows = self._windows(segment.context_stop - segment.context_start, span)
        return sum(self._layout.count(stop - start, *self._padded) for start, stop in windows)

    def restored(
        self,
        frames: DeviceFrames,
        shares: Sequence[float],
        segment: Segment,
        span: Span,
        next_context: int,
        work: Work,
    ) -> Iterator[Tensor]:
        """See `Session`."""
        num_frames = len(frames)
        windows = self._windows(num_frames, span)
        # Sums of the frames that more windows may add to, and of their weights.
        sums: dict[int, tuple[Tensor, float]] = {}
        for number, window in enumerate(windows):
            weights = crossfade_weights(window, (0, num_frames), self._settings.overlap)
            wanted = [i for i in range(*window) if span[0] <= i < span[1] and shares[i] > 0]
            video = self._window(frames, window, work) if wanted else None
            for index in wanted:
                assert video is not None
                weight = float(weights[index - window[0]])
                total, whole = sums.get(index, (0.0, 0.0))
                sums[index] = total + weight * video[:, index - window[0]], whole + weight
            done = windows[number + 1][0] if number + 1 < len(windows) else span[1]
            for index in range(max(window[0], span[0]), min(done, span[1])):
                if index in sums:
                    total, whole = sums.pop(index)
                    yield rearrange(total / whole * 0.5 + 0.5, "c h w -> h w c")
                else:
                    yield frames.colors(index, index + 1)[0]

    def _windows(self, num_frames: int, span: Span) -> list[Span]:
        """Return the windows of a context that frames of a span lie in."""
        windows = split(num_frames, self._settings.window, self._settings.overlap)
        return [each for each in windows if each[0] < span[1] and each[1] > span[0]]

    def _window(self, frames: DeviceFrames, window: Span, work: Work) -> Tensor:
        """Restore a window; out of memory, in smaller tiles: `[3, T, H, W]` in -1..1."""
        video = self._padded_video(frames, window)
        priors = priors_of_frames(as_pictures(video[0, ..., : self._size[0], : self._size[1]]))
        size, done, counted = tuple(video.shape[2:]), work.done, self._layout

        def predict(piece: Piece) -> Tensor:
            device = self._engine.device
            known = (
                _at_quarter(piece).cut(part).to(device, non_blocking=True) for part in priors
            )
            return self._engine.restore_piece(piece.cut(video), ClipPriors(*known))

        def attempt(pieces: Layout) -> Tensor:
            nonlocal counted
            work.done = done
            work.total += pieces.count(*size) - counted.count(*size)
            counted = pieces
            return fuse(predict, pieces, video, work.advance)

        restored = in_smaller_pieces(attempt, self._layout, size, 1, self._told)[0]
        return restored[0, ..., : self._size[0], : self._size[1]]

    def _padded_video(self, frames: DeviceFrames, window: Span) -> Tensor:
        """Return frames as video `[1, 3, T, H, W]` in -1..1, sides multiples of `SCALE`."""
        parts = [frames.colors(index, index + 1) for index in range(*window)]
        images = rearrange(torch.cat(parts), "t h w c -> t c h w") * 2 - 1
        below, right = (a - b for a, b in zip(self._padded, self._size, strict=True))
        images = F.pad(images, (0, right, 0, below), mode="replicate")
        return rearrange(images, "t c h w -> 1 c t h w")


def _at_quarter(piece: Piece) -> Piece:
    """Return where a piece lies in the priors."""
    return dataclasses.replace(
        piece,
        rows=(piece.rows[0] // SCALE, -(-piece.rows[1] // SCALE)),
        columns=(piece.columns[0] // SCALE, -(-piece.columns[1] // SCALE)),
    )
