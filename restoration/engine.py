"""Restore a clip held in memory: pad, encode, sample, decode, crop.

Frames are `[T, H, W, C]`, float32 in 0..1, C = 3, or 4 with alpha, which passes through.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise

import torch
from einops import rearrange
from torch import Tensor

from ..models.divd import Divd
from ..models.schedule import clean_from_velocity
from .color import match_color
from .denoising.coding import decode_tiled, encode_tiled, frames_at_once, frames_to_video
from .denoising.estimates import Estimates, WindowCache
from .denoising.layout import halve, in_halves, is_out_of_memory, make_layout
from .denoising.noise import FrameNoise
from .denoising.sampler import SOLVERS
from .denoising.windows import Layout, Span, shots
from .settings import RestorationSettings

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int], None]
"""Called with (pieces of work done, pieces in all); may raise to cancel."""


class Work:
    """Count pieces of work for a callback."""

    def __init__(self, callback: ProgressCallback | None, total: int) -> None:
        self._callback = callback
        self.done = 0
        self.total = total

    def advance(self) -> None:
        """Report before a piece; whatever the callback raises goes through."""
        if self._callback is not None:
            self._callback(self.done, self.total)
        self.done += 1

    def finish(self) -> None:
        """Report that all is done."""
        if self._callback is not None:
            self._callback(self.total, self.total)


class Deblurrer:
    """The engine around a loaded model.

    Args:
        model: In evaluation mode, already on `device`. Autoencoder and blur encoder in
            float32: residual decoding subtracts two nearly equal pictures. UNet and image
            tower in float32 or `dtype`.
        device: Where to compute.
        dtype: Dtype the UNet computes in.
    """

    def __init__(
        self,
        model: Divd,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.dtype = dtype
        self._fitting: dict[tuple[Layout, tuple[int, ...]], Layout] = {}

    # Not inference mode: callers may change the result in place.
    @torch.no_grad()
    def restore(
        self,
        frames: Tensor,
        settings: RestorationSettings,
        callback: ProgressCallback | None = None,
    ) -> Tensor:
        """Restore a clip.

        Args:
            frames: `[T, H, W, C]`, float32 in 0..1; any T, H, W from 1 up, C = 3 or 4.
            settings: What the user chose.
            callback: Progress; may raise to cancel.

        Returns:
            The same shape, float32 in 0..1, on the CPU.

        Raises:
            ValueError: If the frames are not of that form.
        """
        # Not at the top: ComfyUI loads this file at start-up and does not need that one.
        from .streaming.footage import survey_clip

        check_frames(frames)
        if settings.strength == 0:
            return frames.clone()
        num_frames, height, width = frames.shape[:3]
        size = self.latent_size(height, width)
        cuts, shares = survey_clip(frames.float().cpu().numpy(), settings)
        if not any(shares):
            return frames.clone()
        layout = dataclasses.replace(self.layout(settings, height, width), cuts=cuts)
        layout = self.fitting(layout, num_frames, *size)
        groups = self.groups(num_frames, height, width)
        pieces = settings.passes * layout.count(num_frames, *size)
        work = Work(callback, 2 * len(groups) + pieces + settings.borrow * num_frames)
        parts = []
        for start, stop in groups:
            work.advance()
            parts.append(self.encode(frames[start:stop]))
        condition = torch.cat([part[0] for part in parts], dim=2)
        tokens = torch.cat([part[1] for part in parts])
        noise = FrameNoise(settings.seed).draw(num_frames, condition.shape[1], *size)
        latents = self.denoise(
            (condition, tokens), noise, settings, layout, work, needed=shares
        )
        restored = frames.float().clone()
        for start, stop in shots(num_frames, cuts):
            decoded = self._decoded(latents, frames, shares, start, stop, work)
            for index, pixels in enumerate(self.finish(decoded, settings, work), start=start):
                frame = slice(index, index + 1)
                restored[frame] = blend(
                    frames[frame],
                    pixels[None],
                    settings.strength,
                    settings.color_match,
                    shares[frame],
                )
        work.finish()
        return restored

    def _decoded(
        self,
        latents: Tensor,
        frames: Tensor,
        shares: Sequence[float],
        start: int,
        stop: int,
        work: Work,
    ) -> Iterator[Tensor]:
        """Yield the frames of a shot as the network restored them, sharp ones as they are."""
        height, width = frames.shape[1:3]
        for first, last in self.groups(stop - start, height, width):
            part = slice(start + first, start + last)
            work.advance()
            yield from self.decode(latents[:, :, part], frames[part], shares[part])

    def finish(
        self,
        decoded: Iterable[Tensor],
        settings: RestorationSettings,
        work: Work,
        wanted: Span | None = None,
    ) -> Iterator[Tensor]:
        """Do what follows decoding: let frames borrow from each other.

        Args:
            decoded: `[H, W, 3]` each, of one shot.
            settings: What the user chose.
            work: Counts each frame that borrows.
            wanted: Frames to yield; None: all.
        """
        if settings.borrow:
            from .borrowing.passes import borrow_stream

            return borrow_stream(decoded, self.device, wanted, work.advance)
        return islice(decoded, *(wanted or (0, None)))

    def latent_size(self, height: int, width: int) -> Span:
        """Return height and width of the latents of frames of this size."""
        downscale = self.model.downscale
        return -(-height // downscale), -(-width // downscale)

    def layout(self, settings: RestorationSettings, height: int, width: int) -> Layout:
        """Return how a shot of frames of `height` x `width` pixels is cut."""
        rows, columns = self.latent_size(height, width)
        return make_layout(
            settings.window,
            settings.overlap,
            settings.tile,
            rows * self.model.downscale,
            columns * self.model.downscale,
            self.model.config.sampling,
            self.model.downscale,
        )

    def groups(
        self, num_frames: int, height: int, width: int, bounds: Sequence[int] = ()
    ) -> list[Span]:
        """Cut frames into groups that are encoded or decoded at once.

        Args:
            num_frames: To cut.
            height: Pixels.
            width: Pixels.
            bounds: Frames at which a group must end.
        """
        size = frames_at_once(self.model.config.autoencoder, height, width)
        edges = sorted({0, num_frames, *(b for b in bounds if 0 < b < num_frames)})
        return [
            (start, min(start + size, stop))
            for first, stop in pairwise(edges)
            for start in range(first, stop, size)
        ]

    def fitting(self, layout: Layout, num_frames: int, height: int, width: int) -> Layout:
        """Return `layout`, or what it had to shrink to for such latents before."""
        return self._fitting.get((layout, (num_frames, height, width)), layout)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode frames `[T, H, W, C]`: blur latents `[1, C, T, h, w]`, tokens `[T, M, D]`."""
        config = self.model.config.autoencoder

        def encode(start: int, stop: int) -> tuple[Tensor, Tensor]:
            part = frames[start:stop, ..., :3]
            images = rearrange(self._on_device(part), "1 c t h w -> t c h w")
            tokens = self._tokens(images)
            del images
            latents = encode_tiled(
                lambda video: self.model.encode_blur(video.to(self.device)), part, config
            )
            return latents, tokens

        parts = in_halves(encode, 0, frames.shape[0])
        return torch.cat([part[0] for part in parts], 2), torch.cat([part[1] for part in parts])

    def _tokens(self, images: Tensor) -> Tensor:
        # The tower computes in the dtype it is kept in, whatever the UNet does.
        dtype = next(self.model.image_encoder.parameters()).dtype
        with self._computing_in(dtype):
            return self.model.encode_tokens(images).float()

    def _computing_in(self, dtype: torch.dtype) -> torch.autocast:
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    @torch.no_grad()
    def decode(
        self, latents: Tensor, frames: Tensor, shares: Sequence[float] | None = None
    ) -> Tensor:
        """Decode latents onto the frames they belong to.

        Args:
            latents: `[1, C, T, h, w]`, normalised.
            frames: `[T, H, W, C]`, blurry.
            shares: 0 for frames that are to stay as they are; their latents are not read.

        Returns:
            `[T, H, W, 3]`, not clamped, on the CPU.
        """
        config = self.model.config.autoencoder
        color = frames[..., :3].float()
        shares = shares or [1.0] * len(frames)
        if not any(shares):
            return color

        def decode_tile(part: Tensor, video: Tensor) -> Tensor:
            return self.model.decode_restored(part, video.to(self.device))

        def decode(start: int, stop: int) -> Tensor:
            return decode_tiled(
                decode_tile, latents[:, :, start:stop], color[start:stop], config
            )

        parts = in_halves(decode, 0, len(frames))
        restored = parts[0] if len(parts) == 1 else torch.cat(parts)
        for index, share in enumerate(shares):
            if share == 0:
                restored[index] = color[index]
        return restored

    def _on_device(self, frames: Tensor) -> Tensor:
        return frames_to_video(frames, self.model.downscale).to(self.device)

    @torch.no_grad()
    def denoise(
        self,
        encoded: tuple[Tensor, Tensor],
        noise: Tensor,
        settings: RestorationSettings,
        layout: Layout,
        work: Work,
        *,
        needed: Sequence[float] | None = None,
        cache: WindowCache | None = None,
    ) -> Tensor:
        """Sample clean latents; out of memory, with smaller pieces from then on.

        Args:
            encoded: From `encode`.
            noise: Like the blur latents.
            settings: What the user chose.
            layout: How to cut, from `fitting`.
            work: Counts each piece of `layout`, once per pass.
            needed: For each frame, 0 where its result is not needed. In one step, windows
                of such frames alone are left out, and undefined.
            cache: Estimates that are known or will be asked for again; for one step.

        Returns:
            `[1, C, T, h, w]`, normalised.
        """
        size = tuple(noise.shape[2:])
        wanted, done = layout, work.done
        estimates = Estimates(self.predict, encoded, settings, needed, cache)
        while True:
            try:
                return SOLVERS[settings.solver](
                    estimates.denoised_fn(layout, work.advance),
                    noise.to(self.device),
                    self.model.config.schedule,
                    settings.steps,
                )
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = halve(layout, size, self.model.downscale)
                if smaller is None:
                    raise
            # Outside the handler, so that the failed attempt's tensors are let go.
            work.done = done
            work.total += settings.passes * (smaller.count(*size) - layout.count(*size))
            layout = self._fitting[wanted, size] = smaller

    def predict(self, x: Tensor, condition: Tensor, context: Tensor, timestep: int) -> Tensor:
        """Return the clean estimate of a piece from its noisy and its blur latents."""
        timesteps = torch.tensor([timestep], device=self.device)
        network_input = torch.cat([x, condition], dim=1)
        with self._computing_in(self.dtype):
            v = self.model.unet(network_input, timesteps, context)
        return clean_from_velocity(self.model.config.schedule, x, v.float(), timesteps)


def blend(
    frames: Tensor,
    restored: Tensor,
    strength: float,
    color_match: bool = False,
    shares: Sequence[float] | None = None,
) -> Tensor:
    """Mix restored colours into the frames they were made from, the last step of all.

    Args:
        frames: `[T, H, W, C]`, blurry.
        restored: `[T, H, W, 3]`.
        strength: 0 returns the blurry frames, 1 the restored ones.
        color_match: Whether to take the low frequencies from the blurry frames.
        shares: Factor on the strength for each frame, less than 1 where it is sharp already.

    Returns:
        `[T, H, W, C]` in 0..1.
    """
    color = frames[..., :3].float()
    if color_match:
        restored = match_color(restored, color)
    amount = strength * torch.tensor(shares or [1.0])[:, None, None, None]
    mixed = (color + amount * (restored - color)).clamp_(0, 1)
    return torch.cat([mixed, frames[..., 3:].float()], dim=-1)


def check_frames(frames: Tensor) -> None:
    """Raise ValueError unless `frames` is `[T, H, W, 3 or 4]` with at least one frame."""
    if frames.ndim != 4 or frames.shape[-1] not in (3, 4) or min(frames.shape) < 1:
        raise ValueError(
            f"frames must be [T, H, W, C] with at least one frame and C = 3 or 4, "
            f"got {list(frames.shape)}"
        )
