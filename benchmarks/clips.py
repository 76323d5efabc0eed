"""Clips of any length to measure with, made from real ones; PyAV where a video is needed."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np


def read_frames(path: str | Path, width: int, height: int, most: int) -> list[np.ndarray]:
    """Return up to `most` frames of a video, shrunk to uint8 `[height, width, 3]`."""
    from ..video.reader import VideoReader

    frames = []
    with VideoReader(path) as reader:
        for frame in reader:
            small = cv2.resize(frame.pixels, (width, height), interpolation=cv2.INTER_AREA)
            frames.append(small[..., :3])
            if len(frames) == most:
                break
    return frames


def decoded(path: Path) -> np.ndarray:
    """Return all frames of a video, `[T, H, W, C]`."""
    from ..video.reader import VideoReader

    with VideoReader(path) as reader:
        return np.stack([frame.pixels for frame in reader])


def looped(frames: list[np.ndarray], num_frames: int) -> Iterator[np.ndarray]:
    """Yield frames to and fro, so that the clip has any length and no cut."""
    period = frames + frames[-2:0:-1]
    return (period[index % len(period)] for index in range(num_frames))


def write_looped(
    path: Path, sources: list[str], num_frames: int, width: int, height: int
) -> Path:
    """Write a clip of `num_frames` at 25 per second: equal shares of each source."""
    from ..video.writer import VideoWriter

    share = -(-num_frames // len(sources))
    written = 0
    with VideoWriter(
        path,
        width=width,
        height=height,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        crf=10,
    ) as writer:
        for source in sources:
            frames = read_frames(source, width, height, 60)
            for pixels in looped(frames, min(share, num_frames - written)):
                writer.write(pixels, written)
                written += 1
    return path


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height from text such as "96x64"."""
    width, _, height = text.partition("x")
    return int(width), int(height)
