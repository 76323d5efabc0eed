"""What the threshold of sharp frames stands on: scores of photos by length of motion.

python -m video_deblur.benchmarks.blur_score --photos FOLDER [--pairs FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from ..images.folders import FrameFolder, read_image
from ..video.blur_score import SHARP_BELOW, measure_blur

_LENGTHS = (0, 1.5, 2, 3, 4, 6, 10, 20)
_MIDDLE = "10, middle"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Score photos by length of motion, for the threshold of sharp frames."
    )
    parser.add_argument("--photos", required=True, help="folder of sharp photos")
    parser.add_argument("--pairs", help="folder of <sequence>/{blur,sharp}")
    args = parser.parse_args()
    scores: dict[object, list[float]] = {}
    generator = np.random.default_rng(0)
    for name in FrameFolder(args.photos).names:
        picture = _shrunk(read_image(Path(args.photos) / name), generator)
        angle = generator.uniform(0, np.pi)
        for length in _LENGTHS:
            blurry = _moved(picture, length, angle)
            scores.setdefault(length, []).append(_score(blurry, generator))
        height, width = picture.shape[:2]
        middle = np.s_[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
        local = picture.copy()
        local[middle] = _moved(picture, 10, angle)[middle]
        scores.setdefault(_MIDDLE, []).append(_score(local, generator))
    print(f"{'motion, pixels':>16}{'median':>9}{'below ' + str(SHARP_BELOW):>12}")
    for length, values in scores.items():
        share = np.mean(np.array(values) < SHARP_BELOW)
        print(f"{length!s:>16}{np.median(values):9.2f}{share:12.1%}")
    for folder in sorted(Path(args.pairs).glob("*/*")) if args.pairs else []:
        values = [measure_blur(read_image(folder / name)) for name in FrameFolder(folder).names]
        kind = f"{folder.parent.name}/{folder.name}"
        print(f"{kind:24}{min(values):.2f} to {max(values):.2f}")


def _shrunk(photo: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shrink a photo, which hides its own softness; float32 in 0..1."""
    scale = 1 / generator.uniform(1.3, 2)
    small = cv2.resize(
        photo.astype(np.float32) / 255, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    )
    return small[:384, :512]


def _moved(picture: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Average a picture along a straight line of this length, in pixels."""
    if length == 0:
        return picture
    side = 2 * int(np.ceil(length)) + 5
    kernel = np.zeros((side, side), np.float32)
    for place in np.linspace(-length / 2, length / 2, 16 * int(np.ceil(length)) + 1):
        x = side // 2 + place * np.cos(angle)
        y = side // 2 + place * np.sin(angle)
        column, row = int(x), int(y)
        right, down = x - column, y - row
        kernel[row, column] += (1 - right) * (1 - down)
        kernel[row, column + 1] += right * (1 - down)
        kernel[row + 1, column] += (1 - right) * down
        kernel[row + 1, column + 1] += right * down
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)


def _score(picture: np.ndarray, generator: np.random.Generator) -> float:
    """Score a picture as cameras give it: with noise and JPEG artefacts."""
    noise = generator.normal(0, generator.uniform(0, 0.02), picture.shape)
    quality = int(generator.uniform(70, 98))
    pixels = (np.clip(picture + noise, 0, 1) * 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return measure_blur(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)))


if __name__ == "__main__":
    main()
