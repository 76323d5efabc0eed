"""The engine of feed-forward networks: each frame from itself and its neighbours, at once."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..models.registry import FeedForwardNetwork, RowNetwork
from .denoising.layout import is_out_of_memory
from .denoising.windows import Layout, Piece, Span, fuse, split
from .engine import Engine, Session
from .ensemble import Orientation, averaged
from .frames import DeviceFrames
from .phases import computed
from .progress import Work
from .settings import RestorationSettings
from .streaming.segments import Segment, SegmentGrid, frames_of_segment
from .streaming.segments import reach as borrowing_reach

logger = logging.getLogger(__name__)

_DEFAULT_TILE = 512
"""Side of the tiles of large frames, in pixels, where the user names none."""
_PIXELS_AT_ONCE = 512**2
"""Windows of small frames are computed together up to so many pixels, or one at a time."""
_MOST_WINDOWS = 16
"""A run is cancelled between two batches of windows."""
_SMALLEST_TILE = 64
"""Side, in pixels, below which out of memory is final."""
_TILE_OVERLAP = 64
"""Pixels over which neighbouring tiles are blended, at most a quarter of a tile, where a
network has no finite reach."""


def tile_of(settings: RestorationSettings, height: int, width: int) -> int:
    """Return the side of the tiles for frames of this size, in pixels; 0: whole frames."""
    if settings.tile == 0 and height * width > 2 * _DEFAULT_TILE**2:
        return _DEFAULT_TILE
    return settings.tile


def windows_at_once(model: Any, pixels: int) -> int:
    """Return how many windows of a tile (or frame) of some pixels are computed together."""
    if not isinstance(model, RowNetwork):
        return 1
    return min(max(1, _PIXELS_AT_ONCE // pixels), _MOST_WINDOWS)


def network_pixels(model: Any, settings: RestorationSettings, height: int, width: int) -> int:
    """Return how many pixels a network restores at once of frames of this size."""
    pixels = _tile_pixels(model, tile_of(settings, height, width), height, width)
    return pixels * windows_at_once(model, pixels)


def _tile_pixels(model: Any, tile: int, height: int, width: int) -> int:
    # Tiles of a network without a finite reach hold their overlap.
    side = (tile or max(height, width)) + 2 * (model.reach or 0)
    return min(height, side) * min(width, side)


def frames_around(index: int, count: int, num_frames: int) -> list[int]:
    """Return the frames that a network restores a frame from, mirrored at the ends of a shot.

    Args:
        index: The frame.
        count: Frames of the shot.
        num_frames: What the network looks at, an odd number.
    """
    return _row(index, index + 1, count, num_frames)


def _row(start: int, stop: int, count: int, num_frames: int) -> list[int]:
    """Return the frames that those from `start` to before `stop` are restored from."""
    near, period = num_frames // 2, 2 * (count - 1)
    if period == 0:
        return [0] * (stop - start + 2 * near)
    places = (abs(place) % period for place in range(start - near, stop + near))
    return [min(place, period - place) for place in places]


class FeedForward(Engine):
    """The engine of a network that restores the middle one of some frames."""

    model: FeedForwardNetwork
    restores_singly = True

    @classmethod
    def grid(
        cls, config: Any, settings: RestorationSettings, height: int, width: int
    ) -> SegmentGrid:
        """See `Engine`: any frame may end a segment."""
        # Segments are longer where a network takes many steps: this kind takes none.
        settings = dataclasses.replace(settings, steps=1)
        near, reach = config.num_frames // 2, borrowing_reach(settings)
        # As windows of one frame more than a frame sees ahead, one after each frame.
        context = max(0, near - 1 + 2 * reach)
        window = near + 1
        fewest = window + 2 + context
        return SegmentGrid(
            window=window,
            hop=1,
            length=max(fewest, frames_of_segment(settings, height, width)),
            context=context,
            reach=reach,
        )

    @classmethod
    def near(cls, config: Any) -> int:
        """See `Engine`."""
        return config.num_frames // 2

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
    ) -> FeedForwardSession:
        """See `Engine`."""
        return FeedForwardSession(self, settings)

    @torch.no_grad()
    def restore_frames(self, frames: Tensor, tile: int, count: int = 1) -> Tensor:
        """Restore frames in a row, tile by tile.

        Args:
            frames: `[N + num_frames - 1, 3, H, W]`, float32 in 0..1, on the device.
            tile: Side in pixels; 0: whole frames at once.
            count: Orientations to average; see `ensemble`.

        Returns:
            The N in the middle, `[N, 3, H, W]`, float32, not clamped.

        Raises:
            FloatingPointError: If the network gives values that are not finite, in float32
                too.
        """
        reach = self.model.reach
        if reach is None:
            return self._blended(frames, tile, count)
        return self._joined(frames, tile, reach, count)

    def _joined(self, frames: Tensor, tile: int, reach: int, count: int) -> Tensor:
        """Join tiles that were computed with all that their pixels depend on."""
        height, width = frames.shape[2:]
        restored = frames.new_empty(self._count(frames), 3, height, width)
        for top, bottom in split(height, tile or height, 0):
            for left, right in split(width, tile or width, 0):
                first, last = max(top - reach, 0), min(bottom + reach, height)
                start, stop = max(left - reach, 0), min(right + reach, width)
                part = self._computed(frames[:, :, first:last, start:stop], count)
                restored[:, :, top:bottom, left:right] = part[
                    :, :, top - first : bottom - first, left - start : right - start
                ]
        return restored

    def _blended(self, frames: Tensor, tile: int, count: int) -> Tensor:
        """Blend overlapping tiles: what a network sees of a frame changes all of its result."""
        # Each restored frame is a clip of one.
        layout = Layout(
            window=2, overlap=0, tile=tile, tile_overlap=min(_TILE_OVERLAP, tile // 4)
        )

        def predict(piece: Piece) -> Tensor:
            seen = frames[:, :, slice(*piece.rows), slice(*piece.columns)]
            return self._computed(seen, count)[:, :, None]

        like = frames.new_empty(self._count(frames), 3, 1, *frames.shape[2:])
        return fuse(predict, layout, like)[:, :, 0]

    def _count(self, frames: Tensor) -> int:
        return len(frames) - self.config.num_frames + 1

    def _computed(self, seen: Tensor, count: int) -> Tensor:
        def restore(orientation: Orientation) -> Tensor:
            laid = orientation.laid(seen)
            predict = partial(self._predicted, laid)
            return computed(predict, self.dtype, self.device, self.warn_once)

        return averaged(restore, count)

    def _predicted(self, seen: Tensor) -> Tensor:
        if self._count(seen) > 1:
            assert isinstance(self.model, RowNetwork)
            return self.model.restore_frames(seen).float()
        return self.model.restore_frame(seen).float()[None]


class FeedForwardSession(Session):
    """Restore the frames of a clip one by one."""

    def __init__(self, engine: FeedForward, settings: RestorationSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._orientations = settings.self_ensemble
        self._told: set[int] = set()
        self._one_by_one = False

    @property
    def state(self) -> bytes:
        """Nothing: a frame depends on frames alone."""
        return b""

    def skip(self, num_frames: int) -> None:
        """See `Session`."""

    def count(self, segment: Segment, span: Span) -> int:
        """See `Session`."""
        return span[1] - span[0]

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
        model, tile = self._engine.model, tile_of(self._settings, *frames.size)
        self._one_by_one = False
        held: dict[int, Tensor] = {}
        index = span[0]
        while index < span[1]:
            pixels = _tile_pixels(model, tile, *frames.size)
            windows = 1 if self._one_by_one else windows_at_once(model, pixels)
            stop = min(index + windows, span[1])
            kept = [each for each in range(index, stop) if shares[each] == 0]
            # Frames that stay as they are end a row.
            stop = max(index + 1, min([stop, *kept]))
            row = _row(index, stop, len(frames), self._engine.config.num_frames)
            held = {
                each: held[each] if each in held else frames.colors(each, each + 1)[0]
                for each in row
            }
            for _ in range(index, stop):
                work.advance()
            if shares[index] == 0:
                yield held[index]
            else:
                stack = rearrange([held[each] for each in row], "n h w c -> n c h w")
                restored, tile = self._fitting(stack, tile)
                yield from rearrange(restored, "n c h w -> n h w c")
            index = stop

    def _fitting(self, stack: Tensor, tile: int) -> tuple[Tensor, int]:
        """Restore frames; out of memory, one by one, then in smaller tiles.

        The segment stays at that.
        """
        while True:
            try:
                return self._engine.restore_frames(stack, tile, self._orientations), tile
            except (torch.OutOfMemoryError, RuntimeError) as error:
                side = max(stack.shape[2:])
                smaller = min(tile or side, side) // 2
                several = len(stack) > self._engine.config.num_frames
                if not is_out_of_memory(error) or (smaller < _SMALLEST_TILE and not several):
                    raise
            if several:
                self._one_by_one = True
                return self._singly(stack, tile)
            tile = smaller
            if tile not in self._told:
                self._told.add(tile)
                logger.warning("out of memory: going on with tiles of %d pixels", tile)

    def _singly(self, stack: Tensor, tile: int) -> tuple[Tensor, int]:
        num_frames = self._engine.config.num_frames
        restored = []
        for first in range(len(stack) - num_frames + 1):
            frame, tile = self._fitting(stack[first : first + num_frames], tile)
            restored.append(frame)
        return torch.cat(restored), tile
