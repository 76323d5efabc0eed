"""The network as a sampler sees it: clean estimates of a clip, fused from those of pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor, zeros_like

from ..settings import RestorationSettings
from .sampler import DenoisedFn
from .windows import Layout, Piece, Span, fuse


class WindowCache:
    """Clean estimates of windows, for the next segment, which begins with them.

    Keyed by first frame, tile and strength of the tokens; in one step a window depends on
    nothing else.
    """

    def __init__(self, known: dict | None = None, keep_from: int | None = None) -> None:
        self.known: dict[tuple[int, Span, Span, float], Tensor] = known or {}
        """Of windows at the start."""
        self.keep_from = keep_from
        """First frame whose windows go into `kept`, where it becomes frame 0."""
        self.kept: dict[tuple[int, Span, Span, float], Tensor] = {}

    def look_up(self, piece: Piece, scale: float) -> Tensor | None:
        """Return what is known of a piece."""
        known = self.known.get((piece.frames[0], piece.rows, piece.columns, scale))
        # Out of memory, windows may have become shorter.
        length = piece.frames[1] - piece.frames[0]
        return known if known is not None and known.shape[2] == length else None

    def add(self, piece: Piece, scale: float, estimate: Tensor) -> None:
        """Keep the estimate of a piece if it belongs to a window to keep."""
        if self.keep_from is not None and piece.frames[0] >= self.keep_from:
            start = piece.frames[0] - self.keep_from
            self.kept[start, piece.rows, piece.columns, scale] = estimate


class Estimates:
    """The network as a sampler sees it: clean estimates of a clip, fused from pieces."""

    def __init__(
        self,
        predict: Callable[[Tensor, Tensor, Tensor, int], Tensor],
        condition: Tensor,
        tokens_of: Callable[[int], Tensor],
        settings: RestorationSettings,
        needed: Sequence[float] | None,
        cache: WindowCache | None,
    ) -> None:
        """Take what does not change from step to step.

        Args:
            predict: `Deblurrer.predict`.
            condition: Blur latents, `[1, C, T, h, w]`.
            tokens_of: From a frame to its image tokens, `[1, M, D]`; asked for the centre
                frames of windows, once each.
            settings: What the user chose.
            needed: For each frame, 0 where its result is not needed.
            cache: Estimates that are known or will be asked for again.
        """
        self._predict = predict
        self._condition = condition
        self._tokens_of = lru_cache(maxsize=None)(tokens_of)
        self._guidance_scale = settings.guidance_scale
        # More steps carry information from window to window.
        self._needed = needed if settings.steps == 1 else None
        self._cache = cache if settings.steps == 1 else None

    def denoised_fn(self, layout: Layout, before_piece: Callable[[], None]) -> DenoisedFn:
        """Return what a sampler calls, for pieces of this layout."""

        def denoised_fn(x: Tensor, timestep: int) -> Tensor:
            def fused(scale: float) -> Tensor:
                return fuse(
                    lambda piece: self._estimate(piece, x, timestep, scale),
                    layout,
                    x,
                    before_piece,
                )

            cond = fused(1.0)
            if self._guidance_scale == 1:
                return cond
            uncond = fused(0.0)
            return uncond + self._guidance_scale * (cond - uncond)

        return denoised_fn

    def _estimate(self, piece: Piece, x: Tensor, timestep: int, scale: float) -> Tensor:
        if self._needed is not None and not any(self._needed[slice(*piece.frames)]):
            return zeros_like(piece.cut(x))
        known = self._cache and self._cache.look_up(piece, scale)
        if known is None:
            context = self._tokens_of(piece.centre_frame) * scale
            condition = piece.cut(self._condition)
            known = self._predict(piece.cut(x), condition, context, timestep)
        if self._cache:
            self._cache.add(piece, scale, known)
        return known
