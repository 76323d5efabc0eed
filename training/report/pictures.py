"""Validation clips as one picture: blurry, restored, sharp, with the PSNR of each.

Frames are `[H, W, 3]` RGB in 0 to 1 here; PSNR is on what the picture shows, 8-bit RGB
without a border cropped, as `evaluate` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from einops import repeat

from ...video.atomic import write_file
from ...video.pixels import to_uint8

COLUMNS = ("blurry", "restored", "sharp")

_LEAST_WIDTH = 192
"""Narrower frames are enlarged: what a caption needs, and what an eye does."""
_GAP = 6
_STRIP = 24
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.45
_BACKGROUND = (24, 24, 26)
_TEXT = (225, 225, 228)
_BETTER = (110, 215, 130)
_WORSE = (255, 135, 120)


def picture_grid(
    blurry: Sequence[np.ndarray],
    restored: Sequence[np.ndarray],
    sharp: Sequence[np.ndarray],
    labels: Sequence[str] | None = None,
) -> np.ndarray:
    """Put one row per clip: blurry, restored, sharp.

    Args:
        blurry: One frame `[H, W, 3]` per clip; clips may differ in size. Values outside
            0..1 are clipped, those that are not finite shown black.
        restored: The same number of frames, each of its blurry frame's size.
        sharp: The same.
        labels: Name of each clip, written under its sharp frame.

    Returns:
        uint8 RGB `[H, W, 3]`. Narrow frames are enlarged by a whole factor.

    Raises:
        ValueError: If there is no clip, or lengths or shapes differ.
    """
    labels = [""] * len(blurry) if labels is None else labels
    _check_lengths(blurry, restored, sharp, labels)
    rows = list(zip(blurry, restored, sharp, labels, strict=True))
    for index, (*frames, label) in enumerate(rows):
        _check_shapes(f"clip {label or index}", frames)
    column = max(frame.shape[1] * _zoom(frame) for frame in sharp)
    strips = [_beside([_caption(name, column) for name in COLUMNS])]
    for first, second, third, label in rows:
        captions = (
            _psnr_caption(first, third),
            _psnr_caption(second, third, before=first),
            (label, _TEXT),
        )
        strips.append(_beside([_picture(f, column) for f in (first, second, third)]))
        strips.append(_beside([_caption(text, column, color) for text, color in captions]))
    return np.concatenate(strips, axis=0)


def write_picture(path: str | Path, pixels: np.ndarray) -> None:
    """Write a PNG, whole or not at all; makes missing folders and replaces the file.

    Args:
        path: Ends in `.png`.
        pixels: uint8 RGB `[H, W, 3]`.

    Raises:
        ValueError: If the pixels are of another kind or the name of another ending.
        OSError: If the disk is full or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are written as PNG, name the file .png")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"{path}: must be [H, W, 3] uint8, got {list(pixels.shape)} {pixels.dtype}"
        )
    written, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert written
    write_file(path, data.tobytes())


def _check_lengths(
    blurry: Sequence[np.ndarray],
    restored: Sequence[np.ndarray],
    sharp: Sequence[np.ndarray],
    labels: Sequence[str],
) -> None:
    if not len(blurry):
        raise ValueError("a picture needs at least one clip, got none")
    counts = [len(blurry), len(restored), len(sharp), len(labels)]
    if len(set(counts)) > 1:
        raise ValueError(
            "blurry, restored, sharp and labels must be of one length, got "
            + ", ".join(map(str, counts))
        )


def _check_shapes(name: str, frames: Sequence[np.ndarray]) -> None:
    shapes = [list(frame.shape) for frame in frames]
    if len(shapes[0]) != 3 or shapes[0][2] != 3 or 0 in shapes[0]:
        raise ValueError(f"{name}: frames must be [H, W, 3], got {shapes[0]}")
    if shapes[1:] != shapes[:1] * 2:
        raise ValueError(
            f"{name}: blurry, restored and sharp must be of one size, got "
            + ", ".join(map(str, shapes))
        )


def _zoom(frame: np.ndarray) -> int:
    return -(-_LEAST_WIDTH // frame.shape[1])


def _shown(frame: np.ndarray) -> np.ndarray:
    return to_uint8(np.nan_to_num(frame, nan=0.0))


def _psnr(frame: np.ndarray, sharp: np.ndarray) -> float:
    """Return PSNR in dB; inf when equal, nan for a frame that is not finite."""
    if not np.isfinite(frame).all():
        return float("nan")
    pred, target = _shown(frame), _shown(sharp)
    return float("inf") if np.array_equal(pred, target) else cv2.PSNR(pred, target)


def _psnr_caption(
    frame: np.ndarray, sharp: np.ndarray, before: np.ndarray | None = None
) -> tuple[str, tuple[int, int, int]]:
    """Write the PSNR, and its gain over the frame `before`, coloured by its sign."""
    value = _psnr(frame, sharp)
    if np.isnan(value):
        return "not finite", _WORSE
    if np.isinf(value):
        return "equal to sharp", _TEXT
    text = f"{value:.2f} dB"
    gain = value - _psnr(before, sharp) if before is not None else float("nan")
    if not np.isfinite(gain):
        return text, _TEXT
    # The sign as it is written: +0.00 is neither better nor worse.
    rounded = round(gain, 2)
    color = _BETTER if rounded > 0 else _WORSE if rounded < 0 else _TEXT
    return f"{text}  {rounded:+.2f}", color


def _picture(frame: np.ndarray, column: int) -> np.ndarray:
    zoom = _zoom(frame)
    large = repeat(_shown(frame), "h w c -> (h zy) (w zx) c", zy=zoom, zx=zoom)
    canvas = _canvas(large.shape[0], column)
    canvas[:, : large.shape[1]] = large
    return canvas


def _caption(text: str, column: int, color: tuple[int, int, int] = _TEXT) -> np.ndarray:
    strip = _canvas(_STRIP, column)
    text = _fitted(text.encode("ascii", "replace").decode(), column)
    cv2.putText(strip, text, (1, 16), _FONT, _FONT_SCALE, color, 1, cv2.LINE_AA)
    return strip


def _fitted(text: str, width: int) -> str:
    """Cut a text that is wider than `width` pixels."""
    cut = text
    while cut and cv2.getTextSize(cut, _FONT, _FONT_SCALE, 1)[0][0] > width - 2:
        text = text[:-1]
        cut = f"{text}..."
    return cut


def _canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _BACKGROUND, np.uint8)


def _beside(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Join cells of one height, with a gap around each."""
    gap = _canvas(cells[0].shape[0], _GAP)
    return np.concatenate([gap, *(part for cell in cells for part in (cell, gap))], axis=1)
