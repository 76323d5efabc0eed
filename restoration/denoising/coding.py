"""Encode and decode frames, in tiles where they are large.

The `local` autoencoder sees only so far: a tile with as many pixels around it as its layers
reach comes out as it would of the whole frame, to float rounding, and memory does not grow
with the frame. The `kl` kind attends over the whole frame and is not cut.

Frames are `[T, H, W, 3]` in 0..1, `video` is `[1, 3, T, H', W']` in -1..1, H' and W' the next
multiples of the autoencoder's `downscale`; latents are `[1, C, T, h, w]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...models.config import AutoencoderConfig
from .windows import Span

_MOST_FRAMES = 8
_MOST_VALUES = 8 * 1280 * 720
"""Frames, and values of their finest features, that are encoded or decoded at once: bounds
memory (about 6 float32 copies of the values), costs no speed."""


@dataclass(frozen=True, kw_only=True)
class CodingTile:
    """A part of a frame, in latent positions."""

    rows: Span
    """First row that counts, and one past the last."""
    columns: Span
    """First column that counts, and one past the last."""
    seen_rows: Span
    """The rows that are coded, margin included."""
    seen_columns: Span
    """The columns that are coded."""

    def seen(self, scale: int = 1) -> tuple[slice, slice]:
        """Return the rows and columns that are coded, `scale` pixels to a position."""
        return _scaled(self.seen_rows, scale), _scaled(self.seen_columns, scale)

    def kept(self, scale: int = 1) -> tuple[slice, slice]:
        """Return the rows and columns that count."""
        return _scaled(self.rows, scale), _scaled(self.columns, scale)

    def kept_of_seen(self, scale: int = 1) -> tuple[slice, slice]:
        """Return the rows and columns that count, within those that are coded."""
        top, left = self.seen_rows[0], self.seen_columns[0]
        rows = (self.rows[0] - top, self.rows[1] - top)
        return _scaled(rows, scale), _scaled(
            (self.columns[0] - left, self.columns[1] - left), scale
        )


def coding_tiles(
    config: AutoencoderConfig, height: int, width: int, reach: int
) -> list[CodingTile]:
    """Cut a frame into tiles that are coded one after the other.

    Args:
        config: Of the autoencoder.
        height: Of the latents.
        width: Of the latents.
        reach: Latent positions around each that its result depends on.
    """
    most = _MOST_VALUES / config.values_per_pixel / config.downscale**2
    rows, columns = [(0, height)], [(0, width)]
    if config.kind == "local" and height * width > most:
        # Near squares have the smallest margins.
        high = max(min(height, int(most**0.5)), int(most / width))
        rows = _spans(height, high - 2 * reach if high < height else height)
        wide = int(most / high)
        columns = _spans(width, wide - 2 * reach if wide < width else width)
    return [
        CodingTile(
            rows=row,
            columns=column,
            seen_rows=(max(row[0] - reach, 0), min(row[1] + reach, height)),
            seen_columns=(max(column[0] - reach, 0), min(column[1] + reach, width)),
        )
        for row, column in product(rows, columns)
    ]


def encode_tiled(
    encode: Callable[[Tensor], Tensor], frames: Tensor, config: AutoencoderConfig
) -> Tensor:
    """Encode frames tile by tile.

    Args:
        encode: From video to latents `[..., h, w]`, on the device of the frames.
        frames: Blurry.
        config: Of the autoencoder.

    Returns:
        What `encode` gives for whole frames.
    """
    height, width = (-(-length // config.downscale) for length in frames.shape[1:3])
    latents: Tensor | None = None
    for tile in coding_tiles(config, height, width, encoder_reach(config)):
        seen = frames[(slice(None), *tile.seen(config.downscale))]
        part = encode(frames_to_video(seen, config.downscale))
        if latents is None:
            latents = part.new_empty(*part.shape[:-2], height, width)
        latents[(..., *tile.kept())] = part[(..., *tile.kept_of_seen())]
    assert latents is not None
    return latents


def decode_tiled(
    decode: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    frames: Tensor,
    config: AutoencoderConfig,
) -> Tensor:
    """Decode latents onto the frames they belong to, tile by tile.

    Args:
        decode: From latents and blurry video to restored video.
        latents: On the device of `decode`.
        frames: Blurry; on the same device.
        config: Of the autoencoder.

    Returns:
        Frames, not clamped, on the device.
    """
    decoded, scale = torch.empty_like(frames), config.downscale
    # What is decoded depends on the blurry frames by way of their latents as well.
    for tile in coding_tiles(config, *latents.shape[3:], reach=2 * encoder_reach(config)):
        seen = frames[(slice(None), *tile.seen(scale))]
        video = decode(latents[(..., *tile.seen())], frames_to_video(seen, scale))
        pixels = video_to_frames(video, *seen.shape[1:3])
        decoded[(slice(None), *tile.kept(scale))] = pixels[
            (slice(None), *tile.kept_of_seen(scale))
        ]
    return decoded


def encoder_reach(config: AutoencoderConfig) -> int:
    """Return how many latent positions away the `local` encoder sees, or the decoder."""
    pixels = 2 ** len(config.blocks)
    for level, count in enumerate(config.blocks, start=1):
        pixels += 2**level * (1 + 2 * count)
    # One more, as every level has a grid of its own.
    return -(-pixels // config.downscale) + 1


def frames_at_once(config: AutoencoderConfig, height: int, width: int) -> int:
    """Return how many frames of a size, in pixels, are encoded or decoded at once."""
    affordable = _MOST_VALUES / (height * width * config.values_per_pixel)
    return max(1, min(_MOST_FRAMES, int(affordable)))


def pixels_at_once(config: AutoencoderConfig, num_frames: int, height: int, width: int) -> int:
    """Return the pixels of a clip that are encoded or decoded at once."""
    frames = min(num_frames, frames_at_once(config, height, width))
    if config.kind == "kl":
        return frames * height * width
    return min(frames * height * width, int(_MOST_VALUES / config.values_per_pixel))


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


def _scaled(span: Span, scale: int) -> slice:
    return slice(span[0] * scale, span[1] * scale)


def _spans(length: int, size: int) -> list[Span]:
    """Cut a range into spans of at most `size`, as equal as may be."""
    count = -(-length // max(size, 1))
    return list(pairwise(length * index // count for index in range(count + 1)))
