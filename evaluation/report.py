"""Measure restored sequences against their sharp ones.

Figures are on RGB frames rounded to 8 bits, all frames, no border cropped. `mean` is over
all frames of all sequences; `mean_of_sequences` gives each sequence the same weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..video.datasets import PairedSequence
from ..video.frames import SUFFIXES, read_image
from .fidelity import psnr, ssim

RestoreFn = Callable[[PairedSequence, np.ndarray], np.ndarray]
"""From a sequence and its blurry frames, uint8 `[T, H, W, 3]`, to the restored ones."""
METRICS = ("psnr", "ssim", "input_psnr", "input_ssim")


def evaluate_sequences(
    sequences: Iterable[PairedSequence],
    restore: RestoreFn,
    callback: Callable[[str, dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Restore and measure sequences.

    Args:
        sequences: What to measure on.
        restore: The method.
        callback: Called with the name and the means of each finished sequence.

    Returns:
        JSON values: `sequences` (per frame and mean of each), `mean`, `mean_of_sequences`.
    """
    results: dict[str, Any] = {}
    for sequence in sequences:
        blurry = np.stack([_read_rgb(path) for path in sequence.blurry])
        sharp = np.stack([_read_rgb(path) for path in sequence.sharp])
        restored = restore(sequence, blurry)
        frames = [
            {"frame": path.stem, **_measure(pred, target, source)}
            for path, pred, target, source in zip(
                sequence.sharp, restored, sharp, blurry, strict=True
            )
        ]
        results[sequence.name] = {"mean": _mean(frames), "frames": frames}
        if callback is not None:
            callback(sequence.name, results[sequence.name]["mean"])
    every_frame = [frame for result in results.values() for frame in result["frames"]]
    return {
        "protocol": "rgb8: RGB, 8 bits, all frames, no border",
        "sequences": results,
        "mean": _mean(every_frame),
        "mean_of_sequences": _mean([result["mean"] for result in results.values()]),
    }


def read_predictions(folder: str | Path, sequence: PairedSequence) -> np.ndarray:
    """Read results `<folder>/<sequence>/<frame>` made by any method, uint8 `[T, H, W, 3]`.

    Raises:
        FileNotFoundError: If a frame is missing.
    """
    root = Path(folder) / sequence.name
    frames = []
    for path in sequence.sharp:
        found = [root / f"{path.stem}{suffix}" for suffix in SUFFIXES]
        match = next((file for file in found if file.is_file()), None)
        if match is None:
            raise FileNotFoundError(f"{root}: holds no result for frame {path.stem}")
        frames.append(_read_rgb(match))
    return np.stack(frames)


def _measure(pred: np.ndarray, target: np.ndarray, source: np.ndarray) -> dict[str, float]:
    if pred.shape != target.shape:
        raise ValueError(
            f"result is {list(pred.shape)}, but the sharp frame is {list(target.shape)}"
        )
    return {
        "psnr": psnr(pred, target, data_range=255),
        "ssim": ssim(pred, target, data_range=255),
        "input_psnr": psnr(source, target, data_range=255),
        "input_ssim": ssim(source, target, data_range=255),
    }


def _mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}


def _read_rgb(path: Path) -> np.ndarray:
    pixels = read_image(path)[..., :3]
    return pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8)
