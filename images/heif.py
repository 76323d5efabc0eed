"""Decode the picture of a HEIF file (HEIC, AVIF), all of its tiles, with its transparency.

Every tile is decoded by itself, with libav, and put where it belongs: libav shows a file of
tiles as as many small videos.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .heif_boxes import HeifLayer, HeifPicture, HeifTags, heif_image
from .tiff import Data

_FULL, _LIMITED = 2, 1
_UNSPECIFIED = 2
_USUAL_MATRIX = 6
"""What a picture is coded with that does not say: BT.601, in full range."""


def decode_heif(data: Data) -> np.ndarray:
    """Decode the primary picture of a file, not turned yet.

    Returns:
        `[H, W, 3 or 4]` RGB(A), uint8; uint16 over 0 to 65535 from more than 8 bits.

    Raises:
        ValueError: If it is damaged, or coded in a way that cannot be decoded here.
    """
    image = heif_image(data)
    if image.colour is None:
        raise ValueError(f"is a {image.kind} with {image.missing}, which cannot be read")
    pixels = _put_together(data, image.colour, image.kind, image.tags)
    if image.alpha is None:
        return pixels
    alpha = _put_together(data, image.alpha, image.kind, None)[..., :1]
    if alpha.shape[:2] != pixels.shape[:2]:
        raise ValueError("is damaged (its transparency has another size)")
    if alpha.dtype != pixels.dtype:
        wide = alpha.dtype == np.uint16
        alpha = (alpha >> 8).astype(np.uint8) if wide else alpha.astype(np.uint16) * 257
    return np.concatenate([pixels, alpha], axis=2)


def _put_together(data: Data, layer: HeifLayer, kind: str, tags: HeifTags | None) -> np.ndarray:
    first = _decode(data, layer.tiles[0], kind, tags)
    height, width = first.shape[:2]
    rows = len(layer.tiles) // layer.columns
    if rows * height < layer.height or layer.columns * width < layer.width:
        raise ValueError("is damaged (its tiles do not cover it)")
    whole = np.empty((rows * height, layer.columns * width, 3), first.dtype)
    for index, tile in enumerate(layer.tiles):
        pixels = _decode(data, tile, kind, tags) if index else first
        if (pixels.shape, pixels.dtype) != (first.shape, first.dtype):
            raise ValueError("is damaged (its tiles differ in size)")
        row, column = divmod(index, layer.columns)
        whole[row * height :, column * width :][:height, :width] = pixels
    return np.ascontiguousarray(whole[: layer.height, : layer.width])


def _decode(data: Data, tile: HeifPicture, kind: str, named: HeifTags | None) -> np.ndarray:
    """Decode one coded picture as RGB; what the file names goes before what the coding says."""
    import av
    from av.error import FFmpegError

    from ..video.color import PixelConverter, array_format, bit_depth, decoded_pixels
    from ..video.color_tags import ColorTags

    coded = b"".join(bytes(data[start : start + size]) for start, size in tile.extents)
    try:
        context: Any = av.CodecContext.create(tile.codec, "r")
        context.extradata = tile.setup
        context.thread_count = 1
        frames = [*context.decode(av.Packet(coded)), *context.decode(None)]
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"is a {kind} that cannot be decoded ({reason})") from error
    if not frames:
        raise ValueError("is damaged (a part of it cannot be decoded)")
    frame = frames[0]
    if named is not None:
        _, _, space, is_full = named
        coded_range = _FULL if is_full else _LIMITED
    else:
        space, coded_range = int(frame.colorspace), int(frame.color_range) or _FULL
    # Not by size, as for videos: readers of photos take BT.601 for all.
    tags = ColorTags(space=_USUAL_MATRIX if space == _UNSPECIFIED else space, range=coded_range)
    tags = tags.decided(frame.width, frame.height, frame.format.name)
    converter = PixelConverter(
        frame.width,
        frame.height,
        frame.format.name,
        array_format(bit_depth(frame.format.name), False),
        tags,
    )
    return decoded_pixels(frame, frame.format.name, converter)
