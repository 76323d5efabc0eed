"""Read an image file as upright RGB pixels."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import cv2
import numpy as np

from ..video.turning import exif_matrix, upright
from .facts import ImageFacts, facts_of
from .heif import decode_heif
from .tiff import ORIENTATION, Tiff


def read_image(path: Path) -> np.ndarray:
    """Read an image as `[H, W, 3 or 4]` RGB(A), uint8 or uint16, turned upright.

    Raises:
        OSError: If it cannot be read from the disk, with its name.
        ValueError: If it is no image, holds several, or its pixels are neither 8- nor 16-bit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        # A disk that fails while it is read does not say which file it was.
        error.filename = error.filename or str(path)
        raise
    facts = facts_of(path, data)
    if facts is not None and facts.num_pictures > 1:
        raise ValueError(
            f"{path}: holds {facts.num_pictures} pictures, expected one; restore it by itself, "
            "as a clip"
        )
    return decode_image(path, data, facts)


def decode_image(path: Path, data: bytes | bytearray, facts: ImageFacts | None) -> np.ndarray:
    """Return the pixels of the first picture of an image file; as `read_image` else.

    Args:
        path: What errors call it.
        data: Contents of the file.
        facts: What its headers say; None for a format without.
    """
    if facts is not None and facts.kind in ("HEIC", "AVIF"):
        try:
            pixels = decode_heif(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    else:
        pixels = _rgb(path, _decoded(path, data, facts))
    if facts is not None and facts.is_cmyk:
        pixels = pixels[..., :3]
    matrix = exif_matrix(facts.orientation if facts is not None else 1)
    return upright(pixels, matrix)


def _decoded(path: Path, data: bytes | bytearray, facts: ImageFacts | None) -> np.ndarray:
    if facts is not None and facts.is_lab:
        raise ValueError(f"{path}: has Lab pixels, which cannot be read; save it as RGB")
    if facts is not None and facts.kind == "TIFF" and facts.orientation != 1:
        data = _not_turned(data)
    pixels = None
    # A size that cannot be is an exception, all other damage is not. No other mode keeps
    # transparency and 16 bits.
    with contextlib.suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"{path}: cannot be read as an image")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: has {pixels.dtype} pixels, expected 8 or 16 bits")
    return pixels


def _rgb(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    codes = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    if pixels.shape[2] not in codes:
        raise ValueError(f"{path}: has {pixels.shape[2]} channels, expected grey, RGB or RGBA")
    return cv2.cvtColor(pixels, codes[pixels.shape[2]])


def _not_turned(data: bytes | bytearray) -> bytearray:
    """Return a TIFF file that says it is upright: OpenCV turns some kinds and not others."""
    tiff, copy = Tiff(data), bytearray(data)
    turned = tiff.main()[0].get(ORIENTATION)
    if turned is not None and turned.kind == 3:
        struct.pack_into(f"{tiff.order}H", copy, turned.start, 1)
    return copy
