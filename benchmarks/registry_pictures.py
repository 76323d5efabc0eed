"""Draw the registry's icon and banner from the bundled clip and what becomes of it.

    python -m video_deblur.benchmarks.registry_pictures --out docs/images

The left of each picture is blurry, the right is restored by the default checkpoint with its
default settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from ..evaluation.demo import CLIPS
from ..models.bundled import DEFAULT
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings
from ..video.pixels import to_float, to_uint8

ICON_SIDE = 400
"""Pixels; the registry takes squares of up to 400."""
BANNER_SIZE = (540, 1260)
"""Height and width in pixels; the registry wants 21:9."""
_ICON_CROP, _BANNER_CROP = (16, 60, 128), (0, 30, 160)
"""Left, top and side in the frame, in pixels: the sign lies in the middle."""
_DARK, _LIGHT, _PALE = (24, 28, 36), (245, 245, 245), (165, 175, 190)
_TITLE = (("Video", 2.6), ("Deblur", 2.6))
_LINES = ("Motion blur out of videos,", "for ComfyUI, the command line", "and Python")


def main() -> None:
    """Restore the clip and write both pictures."""
    parser = argparse.ArgumentParser(description="Draw the registry's icon and banner.")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    blurry, restored = _frames()
    for name, picture in (
        ("icon", icon(blurry, restored)),
        ("banner", banner(blurry, restored)),
    ):
        path = args.out / f"{name}.jpg"
        options = [cv2.IMWRITE_JPEG_QUALITY, 92]
        if not cv2.imwrite(str(path), picture[..., ::-1], options):
            raise OSError(f"{path}: could not be written")
        print(path)


def icon(blurry: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """Draw the icon.

    Args:
        blurry: A frame, uint8 `[H, W, 3]` RGB.
        restored: The same frame, restored.

    Returns:
        uint8 `[ICON_SIDE, ICON_SIDE, 3]` RGB.
    """
    return _split(blurry, restored, _ICON_CROP, ICON_SIDE)


def banner(blurry: np.ndarray, restored: np.ndarray) -> np.ndarray:
    """Draw the banner, uint8 `[*BANNER_SIZE, 3]` RGB, from the frames that `icon` takes."""
    height, width = BANNER_SIZE
    picture = np.full((height, width, 3), _DARK, np.uint8)
    picture[:, width - height :] = _split(blurry, restored, _BANNER_CROP, height)
    y = 150
    for text, scale in _TITLE:
        _write(picture, text, (60, y), scale, _LIGHT, 6)
        y += 105
    y += 20
    for text in _LINES:
        _write(picture, text, (64, y), 1.05, _PALE, 2)
        y += 48
    return picture


def _frames() -> tuple[np.ndarray, np.ndarray]:
    clip = CLIPS[0]
    with clip.read("blurry") as reader:
        blurry = np.stack([frame.pixels for frame in reader])
    deblurrer = load_deblurrer(DEFAULT)
    settings = preset_settings(deblurrer.config, "fast")
    restored = deblurrer.restore(torch.from_numpy(to_float(blurry)), settings)
    return blurry[clip.frame], to_uint8(restored[clip.frame].numpy())


def _split(
    blurry: np.ndarray, restored: np.ndarray, crop: tuple[int, int, int], side: int
) -> np.ndarray:
    """Put the left half of a square crop of one frame beside the right half of another."""
    left, top, small = crop
    picture, other = (
        cv2.resize(
            frame[top : top + small, left : left + small],
            (side, side),
            interpolation=cv2.INTER_CUBIC,
        )
        for frame in (blurry, restored)
    )
    picture[:, side // 2 :] = other[:, side // 2 :]
    picture[:, side // 2 - 2 : side // 2 + 2] = _LIGHT
    return picture


def _write(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    scale: float,
    color: tuple[int, int, int],
    thickness: int,
) -> None:
    cv2.putText(
        picture, text, place, cv2.FONT_HERSHEY_DUPLEX, scale, color, thickness, cv2.LINE_AA
    )


if __name__ == "__main__":
    main()
