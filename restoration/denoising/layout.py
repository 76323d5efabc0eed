"""Choose how a clip is cut for the memory at hand."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from ...models.config import SamplingConfig
from .windows import Layout

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


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


def halve(layout: Layout, size: tuple[int, ...], downscale: int) -> Layout | None:
    """Return a layout of half the memory, or None when it cannot shrink further.

    Tiles shrink first, down to 128 pixels: they cost only their overlap, while shorter
    windows also see fewer frames.

    Args:
        layout: What was too large.
        size: Frames, height and width of the latents.
        downscale: Pixels per latent position.
    """
    # Of a tile larger than the frame, only what the frame fills was too large.
    largest = max(size[1:])
    side = min(layout.tile or largest, largest)
    if side * downscale >= 256:
        tile = side // 2
        overlap = min(layout.tile_overlap or 64 // downscale, tile // 4)
        smaller = dataclasses.replace(layout, tile=tile, tile_overlap=overlap)
    else:
        window = min(layout.window, size[0]) // 2
        if window < 2:
            return None
        overlap = min(layout.overlap, window // 2)
        smaller = dataclasses.replace(layout, window=window, overlap=overlap)
    return smaller


def in_smaller_pieces(
    attempt: Callable[[Layout], Result],
    layout: Layout,
    size: tuple[int, ...],
    downscale: int,
    told: set[Layout],
) -> tuple[Result, Layout]:
    """Call `attempt`; out of memory, with ever smaller windows and tiles, and say so.

    Args:
        attempt: From a layout to a result.
        layout: To begin with.
        size: Frames, height and width of the latents.
        downscale: Pixels per latent position.
        told: Layouts that this run has spoken of; grows.

    Returns:
        The result, and the layout that fitted.

    Raises:
        Exception: What `attempt` raised, when nothing can shrink further or memory is not
            the cause.
    """
    while True:
        try:
            return attempt(layout), layout
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            smaller = halve(layout, size, downscale)
            if smaller is None:
                raise
        # Outside the handler: the exception holds the failed attempt's tensors.
        layout = smaller
        if layout not in told:
            told.add(layout)
            space = (
                f"tiles of {layout.tile * downscale} pixels" if layout.tile else "whole frames"
            )
            logger.warning(
                "out of memory: going on with windows of %d frames and %s", layout.window, space
            )


_OUT_OF_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory"),  # torch
    "Insufficient memory",  # OpenCV
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def in_halves(function: Callable[[int, int], Result], start: int, stop: int) -> list[Result]:
    """Call `function` on a range; out of memory, on its halves, down to single positions."""
    try:
        return [function(start, stop)]
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if stop - start == 1 or not is_out_of_memory(error):
            raise
    middle = (start + stop) // 2
    return [*in_halves(function, start, middle), *in_halves(function, middle, stop)]
