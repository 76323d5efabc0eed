"""The engine of networks that restore whole windows of a clip with a codec's priors.

Windows are those of the diffusion model's grid, so that a clip comes out the same whether it
is restored at once or segment by segment. The priors of a window are those of its own frames,
encoded from its first one on, for the same reason, unless those of the whole clip are given.
Where windows meet, frames are crossfaded.
A second stage, if the network has one, samples each tile of a window from noise that belongs to
its frames. Changes of a level or two of 255 are left out of the result (`coring`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..models.cpgd_control import query_prior
from ..models.cpgd_priors import SCALE, ClipPriors, no_priors
from ..models.registry import ClipNetwork
from .clip_priors import as_pictures, laid_priors, priors_of_frames
from .coring import cored
from .denoising.layout import in_smaller_pieces, make_layout
from .denoising.noise import IndexedNoise
from .denoising.windows import Layout, Piece, Span, crossfade_weights, fuse, split
from .engine import Engine, Session
from .ensemble import Orientation, averaged
from .frames import DeviceFrames
from .phases import computed
from .progress import Work
from .refinement import refine
from .settings import RestorationSettings
from .streaming.segments import Segment, SegmentGrid, segment_grid

_TILE_STEP = 8
"""What sides of tiles and their overlaps are multiples of, so that each tile starts at a
position of the priors, however often tiles were halved."""

_WINDOW_BYTES = 28
"""Memory of a window beside the network's, per pixel of its frames: as it came, its tiles
fused and their weights."""
_KEPT_BYTES = 12
"""The same of a window that is kept for the next segment."""

_WINDOW_PIXELS = 24 * 1920 * 1088
"""Of a window's frames; larger frames come in shorter windows."""
_FEWEST_FRAMES = 6
"""Of a window, however large its frames are: as many as networks are trained on."""


class ClipRestorer(Engine):
    """The engine of a `registry.ClipNetwork`."""

    model: ClipNetwork

    @classmethod
    def grid(
        cls, config: Any, settings: RestorationSettings, height: int, width: int
    ) -> SegmentGrid:
        """See `Engine`: segments end where windows do."""
        settings = cls.fitted(settings, height, width)
        # There are no steps that carry anything from window to window.
        return segment_grid(dataclasses.replace(settings, steps=1), height, width)

    @classmethod
    def fitted(
        cls, settings: RestorationSettings, height: int, width: int
    ) -> RestorationSettings:
        """See `Engine`: windows of large frames would else fill the memory.

        24 of 3840x2160 take 8 GB.
        """
        most = max(_FEWEST_FRAMES, _WINDOW_PIXELS // (height * width))
        if settings.window <= most:
            return settings
        overlap = min(settings.overlap, most // 3)
        return dataclasses.replace(settings, window=most, overlap=overlap)

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
        settings = self.fitted(settings, height, width)
        return ClipSession(self, settings, (height, width))

    def memory_bytes(
        self,
        settings: RestorationSettings,
        height: int,
        width: int,
        num_frames: int | None = None,
    ) -> float:
        """Return the working memory on frames of this size, in bytes.

        Args:
            settings: What the user chose.
            height: Of the frames, in pixels.
            width: Of the frames, in pixels.
            num_frames: Of a clip that is restored at once; None: in segments.
        """
        settings = self.fitted(settings, height, width)
        tile = self.layout(settings, height, width).tile or max(height, width)
        at_once = self.model.bytes_per_pixel * min(height, tile) * min(width, tile)
        beside, window = _WINDOW_BYTES, settings.window
        if num_frames is None:
            grid = self.grid(self.config, settings, height, width)
            beside += _KEPT_BYTES * (1 + grid.context // grid.hop)
        else:
            window = min(window, num_frames)
        return window * (at_once + beside * height * width)

    def layout(self, settings: RestorationSettings, height: int, width: int) -> Layout:
        """Return how one window of frames of `height` x `width` pixels is cut."""
        sampling = self.config.sampling
        return aligned(
            make_layout(
                settings.window, settings.overlap, settings.tile, height, width, sampling, 1
            )
        )

    @torch.no_grad()
    def restore_piece(
        self,
        video: Tensor,
        priors: ClipPriors,
        count: int = 1,
        before: Callable[[], Any] = lambda: None,
    ) -> Tensor:
        """Restore a part of a window.

        Args:
            video: `[1, 3, T, H, W]` in -1..1, on the device.
            priors: Of the same part.
            count: Orientations to average; see `ensemble`.
            before: Called before each but the first; may raise to cancel.

        Returns:
            The same shape, float32.

        Raises:
            FloatingPointError: If the network gives values that are not finite.
        """

        def restore(orientation: Orientation) -> Tensor:
            seen, known = orientation.laid(video), laid_priors(priors, orientation)
            return computed(
                lambda: self.model(seen, known), self.dtype, self.device, self.warn_once
            )

        return averaged(restore, count, before)


def aligned(layout: Layout) -> Layout:
    """Return a layout whose tiles start at positions of the priors, where frames do."""
    return dataclasses.replace(
        layout,
        tile=layout.tile // _TILE_STEP * _TILE_STEP,
        tile_overlap=layout.tile_overlap // _TILE_STEP * _TILE_STEP,
    )


class ClipSession(Session):
    """Restore the segments of a clip, window by window."""

    def __init__(
        self, engine: ClipRestorer, settings: RestorationSettings, size: tuple[int, int]
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._size = size
        cpc = engine.model.cpc
        # Latents may be coarser than priors.
        step = SCALE if cpc is None else math.lcm(SCALE, cpc.divd.downscale)
        self._padded = tuple(-(-side // step) * step for side in size)
        # Detail is sampled once, on top of what one pass restored.
        self._orientations = settings.self_ensemble if cpc is None else 1
        self._passes = self._orientations if cpc is None else 1 + settings.passes
        self._layout = engine.layout(settings, *size)
        self._told: set[Layout] = set()
        self._kept: dict[Span, Tensor] = {}
        """Windows of the segment before that the next one holds too, by place in the clip."""

    @property
    def state(self) -> bytes:
        """Nothing: a frame depends on frames alone."""
        return b""

    def skip(self, num_frames: int) -> None:
        """See `Session`."""

    def count(self, segment: Segment, span: Span) -> int:
        """See `Session`."""
        windows = self._windows(segment.context_stop - segment.context_start, span)
        return sum(map(self._pieces, windows))

    def _pieces(self, window: Span) -> int:
        # One for the priors, so that the bar moves before the first tile is done.
        return 1 + self._passes * self._layout.count(window[1] - window[0], *self._padded)

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
        num_frames, start = len(frames), segment.context_start
        windows = self._windows(num_frames, span)
        self._kept = {place: video for place, video in self._kept.items() if place[0] >= start}
        # Sums of the frames that more windows may add to, and of their weights.
        sums: dict[int, tuple[Tensor, float]] = {}
        for number, window in enumerate(windows):
            weights = crossfade_weights(window, (0, num_frames), self._settings.overlap)
            wanted = [i for i in range(*window) if span[0] <= i < span[1] and shares[i] > 0]
            video = None
            if wanted:
                video = self._window_once(frames, window, start, next_context, work)
            for index in wanted:
                assert video is not None
                weight = float(weights[index - window[0]])
                total, whole = sums.get(index, (0.0, 0.0))
                sums[index] = total + weight * video[:, index - window[0]], whole + weight
            done = windows[number + 1][0] if number + 1 < len(windows) else span[1]
            for index in range(max(window[0], span[0]), min(done, span[1])):
                frame = frames.colors(index, index + 1)[0]
                if index in sums:
                    total, whole = sums.pop(index)
                    restored = rearrange(total / whole * 0.5 + 0.5, "c h w -> h w c")
                    yield cored(restored, frame)
                else:
                    yield frame

    def _windows(self, num_frames: int, span: Span) -> list[Span]:
        """Return the windows of a context that frames of a span lie in."""
        windows = split(num_frames, self._settings.window, self._settings.overlap)
        return [each for each in windows if each[0] < span[1] and each[1] > span[0]]

    def _window_once(
        self, frames: DeviceFrames, window: Span, start: int, next_context: int, work: Work
    ) -> Tensor:
        """Restore a window, unless the segment before did; keep it if the next one needs it.

        Arguments and result as for `_window`; `next_context` is in the clip.
        """
        place = (start + window[0], start + window[1])
        video = self._kept.pop(place, None)
        if video is None:
            video = self._window(frames, window, start, work)
        else:
            work.total -= self._pieces(window)
        if place[0] >= next_context:
            self._kept[place] = video
        return video

    def _window(self, frames: DeviceFrames, window: Span, start: int, work: Work) -> Tensor:
        """Restore a window; out of memory, in smaller tiles.

        Args:
            frames: Of the context.
            window: In the context.
            start: Of the context, in the clip.
            work: To count with.

        Returns:
            `[3, T, H, W]` in -1..1.
        """
        video = self._padded_video(frames, window)
        work.advance()
        priors = self._priors(video, start + window[0])
        size, done, counted = tuple(video.shape[2:]), work.done, self._layout

        refined = self._refinement(video, priors, start + window[0], work)

        def predict(piece: Piece) -> Tensor:
            known = ClipPriors(*map(_coarser(piece, SCALE).cut, priors))
            first = self._engine.restore_piece(
                piece.cut(video),
                known.to(self._engine.device),
                self._orientations,
                work.advance,
            )
            return refined(piece, first)

        def attempt(pieces: Layout) -> Tensor:
            nonlocal counted
            pieces = aligned(pieces)
            work.done = done
            work.total += self._passes * (pieces.count(*size) - counted.count(*size))
            counted = pieces
            return fuse(predict, pieces, video, work.advance)

        restored = in_smaller_pieces(attempt, self._layout, size, 1, self._told)[0]
        return restored[0, ..., : self._size[0], : self._size[1]]

    def _priors(self, video: Tensor, frame: int) -> ClipPriors:
        """Return the priors of a window.

        Args:
            video: The window, padded.
            frame: Its first frame, in the clip.
        """
        given = self._engine.priors
        if not self._engine.config.reads_priors:
            return no_priors(video)
        if given is None:
            # One frame alone has no motion.
            if video.shape[2] == 1:
                return no_priors(video)
            return priors_of_frames(as_pictures(video[0]))
        height, width = self._size
        pictures = list(as_pictures(video[0, ..., :height, :width]))
        return given.of_window(frame, pictures, self._padded)

    def _refinement(
        self, video: Tensor, priors: ClipPriors, frame: int, work: Work
    ) -> Callable[[Piece, Tensor], Tensor]:
        """Return what refines the first stage's result of a piece of a window.

        Args:
            video: The window, padded.
            priors: Of it.
            frame: Its first frame, in the clip.
            work: To count with.
        """
        engine, cpc = self._engine, self._engine.model.cpc
        if cpc is None:
            return lambda piece, first: first
        factor = cpc.divd.downscale
        sides = (side // factor for side in video.shape[3:])
        channels = cpc.divd.config.autoencoder.latent_channels
        # Each frame's own, the same in every window and segment that holds it.
        noise = IndexedNoise(self._settings.seed, frame).draw(video.shape[2], channels, *sides)
        prior = query_prior(priors, engine.config.cpfp.priors)

        def refined(piece: Piece, first: Tensor) -> Tensor:
            return refine(
                cpc,
                piece.cut(video),
                first,
                _coarser(piece, SCALE).cut(prior).to(engine.device),
                _coarser(piece, factor).cut(noise).to(engine.device),
                self._settings,
                engine.dtype,
                work.advance,
            )

        return refined

    def _padded_video(self, frames: DeviceFrames, window: Span) -> Tensor:
        """Return frames as video `[1, 3, T, H, W]` in -1..1, sides multiples of `SCALE`."""
        below, right = (a - b for a, b in zip(self._padded, self._size, strict=True))
        shape = (1, 3, window[1] - window[0], *self._padded)
        video = torch.empty(shape, device=self._engine.device)
        # Frame by frame, as copies of a whole window take more memory than all that follows.
        for place, index in enumerate(range(*window)):
            colors = rearrange(frames.colors(index, index + 1), "1 h w c -> c h w") * 2 - 1
            video[0, :, place] = F.pad(colors, (0, right, 0, below), mode="replicate")
        return video


def _coarser(piece: Piece, factor: int) -> Piece:
    """Return where a piece lies in maps with `factor` pixels per position."""
    return dataclasses.replace(
        piece,
        rows=(piece.rows[0] // factor, -(-piece.rows[1] // factor)),
        columns=(piece.columns[0] // factor, -(-piece.columns[1] // factor)),
    )
