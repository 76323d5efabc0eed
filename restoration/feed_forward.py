"""The engine of feed-forward networks: each frame from itself and its neighbours, at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..models.registry import FeedForwardNetwork
from .denoising.layout import is_out_of_memory
from .denoising.windows import Layout, Piece, Span, fuse, split
from .engine import Engine, Session
from .frames import DeviceFrames
from .phases import computing_in
from .progress import Work
from .settings import RestorationSettings
from .streaming.segments import Segment, SegmentGrid, frames_of_segment
from .streaming.segments import reach as borrowing_reach

logger = logging.getLogger(__name__)

_DEFAULT_TILE = 512
"""Side of the tiles of large frames, in pixels, where the user names none."""
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


class FeedForward(Engine):
    """The engine of a network that restores the middle one of some frames."""

    model: FeedForwardNetwork
    restores_singly = True
    _is_told = False

    @classmethod
    def grid(
        cls, config: Any, settings: RestorationSettings, height: int, width: int
    ) -> SegmentGrid:
        """See `Engine`: any frame may end a segment."""
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
    def restore_frame(self, around: Tensor, tile: int) -> Tensor:
        """Restore the middle one of some frames, tile by tile.

        Args:
            around: `[N, 3, H, W]`, float32 in 0..1, on the device.
            tile: Side in pixels; 0: the whole frame at once.

        Returns:
            `[3, H, W]`, float32, not clamped.

        Raises:
            FloatingPointError: If the network gives values that are not finite, in float32
                too.
        """
        reach = self.model.reach
        return (
            self._blended(around, tile) if reach is None else self._joined(around, tile, reach)
        )

    def _joined(self, around: Tensor, tile: int, reach: int) -> Tensor:
        """Join tiles that were computed with all that their pixels depend on."""
        height, width = around.shape[2:]
        restored = around.new_empty(3, height, width)
        for top, bottom in split(height, tile or height, 0):
            for left, right in split(width, tile or width, 0):
                first, last = max(top - reach, 0), min(bottom + reach, height)
                start, stop = max(left - reach, 0), min(right + reach, width)
                part = self._computed(around[:, :, first:last, start:stop])
                restored[:, top:bottom, left:right] = part[
                    :, top - first : bottom - first, left - start : right - start
                ]
        return restored

    def _blended(self, around: Tensor, tile: int) -> Tensor:
        """Blend overlapping tiles: what a network sees of a frame changes all of its result."""
        # A frame is a clip of one.
        layout = Layout(
            window=2, overlap=0, tile=tile, tile_overlap=min(_TILE_OVERLAP, tile // 4)
        )

        def predict(piece: Piece) -> Tensor:
            seen = around[:, :, slice(*piece.rows), slice(*piece.columns)]
            return rearrange(self._computed(seen), "c h w -> 1 c 1 h w")

        like = around.new_empty(1, 3, 1, *around.shape[2:])
        return rearrange(fuse(predict, layout, like), "1 c 1 h w -> c h w")

    def _computed(self, seen: Tensor) -> Tensor:
        with computing_in(self.dtype, self.device):
            part = self.model.restore_frame(seen).float()
        # One answer from the device for each tile: they take far longer than that.
        if bool(part.isfinite().all()):
            return part
        message = "the network gave values that are not finite"
        if self.dtype != torch.float32:
            if not self._is_told:
                self._is_told = True
                name = str(self.dtype).removeprefix("torch.")
                logger.warning("%s in %s: such tiles are computed in float32", message, name)
            part = self.model.restore_frame(seen).float()
            if bool(part.isfinite().all()):
                return part
        raise FloatingPointError(f"{message}: the checkpoint may be damaged")


class FeedForwardSession(Session):
    """Restore the frames of a clip one by one."""

    def __init__(self, engine: FeedForward, settings: RestorationSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._told: set[int] = set()

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
        reach = self._engine.config.num_frames // 2
        tile = tile_of(self._settings, *frames.size)
        held: dict[int, Tensor] = {}
        for index in range(*span):
            work.advance()
            # The ends of a shot are repeated.
            around = [
                min(max(index + step, 0), len(frames) - 1) for step in range(-reach, reach + 1)
            ]
            held = {
                each: held[each] if each in held else frames.colors(each, each + 1)[0]
                for each in around
            }
            if shares[index] == 0:
                yield held[index]
                continue
            stack = rearrange([held[each] for each in around], "n h w c -> n c h w")
            restored, tile = self._fitting(stack, tile)
            yield rearrange(restored, "c h w -> h w c")

    def _fitting(self, stack: Tensor, tile: int) -> tuple[Tensor, int]:
        """Restore a frame; out of memory, in smaller tiles, which the segment keeps."""
        while True:
            try:
                return self._engine.restore_frame(stack, tile), tile
            except (torch.OutOfMemoryError, RuntimeError) as error:
                smaller = (tile or max(stack.shape[2:])) // 2
                if not is_out_of_memory(error) or smaller < _SMALLEST_TILE:
                    raise
            tile = smaller
            if tile not in self._told:
                self._told.add(tile)
                logger.warning("out of memory: going on with tiles of %d pixels", tile)
