"""Restore a clip held in memory: pad, encode, sample, decode, crop.

Frames are `[T, H, W, C]`, float32 in 0..1, C = 3, or 4 with alpha, which passes through.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..models.config import SamplingConfig
from ..models.divd import Divd
from ..models.schedule import clean_from_velocity
from .color import match_color
from .noise import FrameNoise
from .sampler import SOLVERS
from .settings import RestorationSettings
from .windows import Layout, Piece, fuse

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int], None]
"""Called with (pieces of work done, pieces in all); may raise to cancel."""

_ENCODE_FRAMES = 8
"""Frames that are encoded or decoded at once: bounds memory, costs no speed."""


class Deblurrer:
    """The engine around a loaded model.

    Args:
        model: Weights in float32, in evaluation mode, already on `device`.
        device: Where to compute.
        dtype: Dtype the UNet computes in. Encoders and decoder stay in float32: residual
            decoding subtracts two nearly equal pictures.
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

    # Not inference mode: callers may change the result in place.
    @torch.no_grad()
    def restore(
        self,
        frames: Tensor,
        settings: RestorationSettings,
        callback: ProgressCallback | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Restore a clip.

        Args:
            frames: `[T, H, W, C]`, float32 in 0..1; any T, H, W from 1 up, C = 3 or 4.
            settings: What the user chose.
            callback: Progress; may raise to cancel.
            noise: Start noise `[1, C, T, h, w]` of the padded size, where it is not the
                first of its seed.

        Returns:
            The same shape, float32 in 0..1, on the CPU.

        Raises:
            ValueError: If the frames are not of that form.
        """
        check_frames(frames)
        color = frames[..., :3]
        if settings.strength == 0:
            return frames.clone()
        video = frames_to_video(color, self.model.downscale)
        layout = self.layout(settings, video.shape[3], video.shape[4])
        while True:
            try:
                restored = self._restore(video, color, settings, layout, callback, noise)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                smaller = halve(layout, video.shape, self.model.downscale)
                if smaller is None:
                    raise
            # Outside the handler, so that the failed attempt's tensors are let go.
            layout = smaller
            logger.warning(
                "out of memory: going on with windows of %d frames and tiles of %d pixels",
                layout.window,
                layout.tile * self.model.downscale,
            )
        if settings.color_match:
            restored = match_color(restored, color)
        restored = (color + settings.strength * (restored - color)).clamp_(0, 1)
        return torch.cat([restored, frames[..., 3:]], dim=-1)

    def layout(self, settings: RestorationSettings, height: int, width: int) -> Layout:
        """Return how a clip of padded size `height` x `width` pixels is cut."""
        return make_layout(
            settings.window,
            settings.overlap,
            settings.tile,
            height,
            width,
            self.model.config.sampling,
            self.model.downscale,
        )

    def _restore(
        self,
        video: Tensor,
        color: Tensor,
        settings: RestorationSettings,
        layout: Layout,
        callback: ProgressCallback | None,
        noise: Tensor | None,
    ) -> Tensor:
        num_frames = video.shape[2]
        chunks = math.ceil(num_frames / _ENCODE_FRAMES)
        size = tuple(extent // self.model.downscale for extent in video.shape[3:])
        passes = settings.steps * (1 if settings.guidance_scale == 1 else 2)
        total = 2 * chunks + passes * layout.count(num_frames, *size)
        done = 0

        def advance() -> None:
            nonlocal done
            if callback is not None:
                callback(done, total)
            done += 1

        condition, tokens = self._encode(video, advance)
        if noise is None:
            noise = FrameNoise(settings.seed).draw(num_frames, condition.shape[1], *size)
        latents = SOLVERS[settings.solver](
            self._denoised_fn(condition, tokens, layout, settings.guidance_scale, advance),
            noise.to(self.device),
            self.model.config.schedule,
            settings.steps,
        )
        restored = self._decode(latents, video, advance)
        if callback is not None:
            callback(total, total)
        return video_to_frames(restored, color.shape[1], color.shape[2])

    def _encode(self, video: Tensor, advance: Callable[[], None]) -> tuple[Tensor, Tensor]:
        condition, tokens = [], []
        for part in video.split(_ENCODE_FRAMES, dim=2):
            advance()
            part = part.to(self.device)
            condition.append(self.model.encode_blur(part))
            tokens.append(self.model.encode_tokens(rearrange(part, "1 c t h w -> t c h w")))
        return torch.cat(condition, dim=2), torch.cat(tokens)

    def _decode(self, latents: Tensor, video: Tensor, advance: Callable[[], None]) -> Tensor:
        parts = []
        pairs = zip(
            latents.split(_ENCODE_FRAMES, dim=2),
            video.split(_ENCODE_FRAMES, dim=2),
            strict=True,
        )
        for part, blurry in pairs:
            advance()
            parts.append(self.model.decode_restored(part, blurry.to(self.device)).cpu())
        return torch.cat(parts, dim=2)

    def _denoised_fn(
        self,
        condition: Tensor,
        tokens: Tensor,
        layout: Layout,
        guidance_scale: float,
        advance: Callable[[], None],
    ) -> Callable[[Tensor, int], Tensor]:
        def denoised_fn(x: Tensor, timestep: int) -> Tensor:
            def predict(piece: Piece, scale: float) -> Tensor:
                context = tokens[piece.centre_frame][None] * scale
                return self._predict(piece.cut(x), piece.cut(condition), context, timestep)

            cond = fuse(lambda piece: predict(piece, 1.0), layout, x, advance)
            if guidance_scale == 1:
                return cond
            uncond = fuse(lambda piece: predict(piece, 0.0), layout, x, advance)
            return uncond + guidance_scale * (cond - uncond)

        return denoised_fn

    def _predict(self, x: Tensor, condition: Tensor, context: Tensor, timestep: int) -> Tensor:
        timesteps = torch.tensor([timestep], device=self.device)
        network_input = torch.cat([x, condition], dim=1)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            v = self.model.unet(network_input, timesteps, context)
        return clean_from_velocity(self.model.config.schedule, x, v.float(), timesteps)


def check_frames(frames: Tensor) -> None:
    """Raise ValueError unless `frames` is `[T, H, W, 3 or 4]` with at least one frame."""
    if frames.ndim != 4 or frames.shape[-1] not in (3, 4) or min(frames.shape) < 1:
        raise ValueError(
            f"frames must be [T, H, W, C] with at least one frame and C = 3 or 4, "
            f"got {list(frames.shape)}"
        )


def frames_to_video(frames: Tensor, multiple: int) -> Tensor:
    """Turn frames `[T, H, W, 3]` in 0..1 into padded video `[1, 3, T, H', W']` in -1..1.

    H' and W' are the next multiples of `multiple`; the last row and column are repeated.
    """
    video = rearrange(frames.float() * 2 - 1, "t h w c -> t c h w")
    height, width = video.shape[-2:]
    pad = (0, -width % multiple, 0, -height % multiple)
    if any(pad):
        video = F.pad(video, pad, mode="replicate")
    return rearrange(video, "t c h w -> 1 c t h w")


def video_to_frames(video: Tensor, height: int, width: int) -> Tensor:
    """Undo `frames_to_video`, cropping to `height` x `width`; not clamped."""
    return rearrange(video[..., :height, :width] * 0.5 + 0.5, "1 c t h w -> t h w c")


def make_layout(
    window: int,
    overlap: int,
    tile: int,
    height: int,
    width: int,
    sampling: SamplingConfig,
    downscale: int,
) -> Layout:
    """Turn a window in frames and a tile in pixels into a layout of latents.

    Args:
        window: Frames of a window.
        overlap: Frames shared by neighbours.
        tile: Side of a tile in pixels; 0 takes whole frames where they hold at most twice
            the pixels of the checkpoint's tile, else that tile.
        height: Padded height of the frames, in pixels.
        width: Padded width, in pixels.
        sampling: The checkpoint's `SamplingConfig`.
        downscale: Pixels per latent position.
    """
    default_tile = sampling.tile
    tile_overlap = sampling.tile_overlap
    if tile == 0 and height * width > 2 * default_tile**2:
        tile = default_tile
    return Layout(
        window=window,
        overlap=overlap,
        tile=tile // downscale,
        tile_overlap=min(tile_overlap, tile // 4) // downscale,
    )


def halve(layout: Layout, shape: torch.Size, downscale: int) -> Layout | None:
    """Return a layout of half the memory, or None when it cannot shrink further.

    Tiles shrink first, down to 128 pixels: they cost only their overlap, while shorter
    windows also see fewer frames.
    """
    side = layout.tile or max(shape[3:]) // downscale
    if side * downscale >= 256:
        tile = side // 2
        return Layout(
            window=layout.window,
            overlap=layout.overlap,
            tile=tile,
            tile_overlap=min(layout.tile_overlap or 64 // downscale, tile // 4),
        )
    window = min(layout.window, shape[2]) // 2
    if window < 2:
        return None
    return Layout(
        window=window,
        overlap=min(layout.overlap, window // 2),
        tile=layout.tile,
        tile_overlap=layout.tile_overlap,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "out of memory" in str(error) or "not enough memory" in str(error)
