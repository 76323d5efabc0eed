"""Frames to measure with where there is no video reader: those of pairs, or made up."""

from __future__ import annotations

import cv2
import numpy as np

from ..images.datasets import load_dataset
from ..images.reading import read_image
from ..video.pixels import to_float, to_uint8
from .clips import looped

_MOST_READ = 24


def moving_frames(
    num_frames: int, width: int, height: int, pairs: str | None
) -> list[np.ndarray]:
    """Return frames of one scene that moves, uint8 `[height, width, 3]`.

    Args:
        num_frames: How many; a sequence that is shorter goes to and fro.
        width: Pixels.
        height: Pixels.
        pairs: Data set of which the first sequence's blurry frames are taken, resized; None:
            waves that pass.
    """
    if pairs is None:
        return [_waves(index, width, height) for index in range(num_frames)]
    paths = load_dataset(pairs, "test")[0].blurry[: min(num_frames, _MOST_READ)]
    pictures = [to_uint8(to_float(read_image(path)[..., :3])) for path in paths]
    resized = [cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC) for p in pictures]
    return list(looped(resized, num_frames))


def _waves(index: int, width: int, height: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    passing = [np.sin((columns + speed * index) / 7) for speed in (3, 4, 5)]
    return (127 + 100 * np.stack(passing, axis=-1) * np.cos(rows / 9)[..., None]).astype(
        np.uint8
    )
