"""Clips whose motion is known, encoded into memory, and what is to hold of their priors."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from video_deblur.video.coding_priors import CodingPriors, file_priors, gather_priors
from video_deblur.video.frames import VideoFrame
from video_deblur.video.reader import VideoReader


def canvas(seed: int = 0, grain: float = 2.5) -> np.ndarray:
    """Return smooth noise `[480, 640, 3]`, uint8, that no block of fits two places."""
    noise = np.random.default_rng(seed).normal(size=(480, 640, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain)
    return np.clip(smooth / smooth.std() * 45 + 128, 0, 255).astype(np.uint8)


def moving(
    step: tuple[float, float], num_frames: int = 7, size: tuple[int, int] = (96, 128)
) -> list[np.ndarray]:
    """Return frames of a window that moves by `step` (x, y) over a canvas.

    What a pixel shows was `step` further on in the frame before: the motion of every frame.
    """
    big, (height, width) = canvas(), size
    frames = []
    for index in range(num_frames):
        x, y = 200 + index * step[0], 150 + index * step[1]
        move = np.array([[1, 0, -x], [0, 1, -y]], np.float64)
        flags = cv2.INTER_CUBIC
        frames.append(cv2.warpAffine(big, move, (width, height), flags=flags))
    return frames


def encoded(
    frames: list[np.ndarray],
    codec: str = "libx264",
    *,
    file_format: str = "mp4",
    pix_fmt: str = "yuv420p",
    matrix: bytes | None = None,
    **options: str,
) -> io.BytesIO:
    """Encode a clip into memory."""
    file = io.BytesIO()
    with av.open(file, "w", format=file_format) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    return file


def x264(frames: list[np.ndarray], params: str, **options: Any) -> io.BytesIO:
    options = {"qp": "12", **options}
    return encoded(frames, **options, **{"x264-params": f"threads=1:scenecut=0:{params}"})


def of_file(
    file: io.BytesIO, *, from_stream: bool = True, expect_vectors: bool = True
) -> tuple[list[VideoFrame], CodingPriors]:
    with VideoReader(file, vectors=True) as reader:
        assert reader.has_vectors == expect_vectors
        pairs = list(file_priors(reader, from_stream))
    return [frame for frame, _ in pairs], gather_priors(each for _, each in pairs)


def share_within(priors: CodingPriors, step: tuple[float, float], tolerance: float) -> float:
    """Return the share of valid pixels, after the first frame, whose motion is `step`."""
    error = np.abs(priors.motion[1:] - np.array(step).reshape(2, 1, 1)).max(axis=1)
    valid = priors.valid[1:, 0]
    assert valid.mean() > 0.7
    return float((error[valid] <= tolerance).mean())


def warped(before: np.ndarray, motion: np.ndarray) -> np.ndarray:
    height, width = before.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + motion[0], y + motion[1]
    return cv2.remap(before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def assert_warping_gains(
    frames: list[np.ndarray], priors: CodingPriors, factor: float = 0.5
) -> None:
    """Assert that motion makes frames out of those before far better than no motion does."""
    for index in range(1, len(frames)):
        valid, frame = priors.valid[index, 0], frames[index].astype(np.float32)
        before = frames[index - 1].astype(np.float32)
        still = np.abs(before - frame)[valid].mean()
        moved = np.abs(warped(before, priors.motion[index]) - frame)[valid].mean()
        assert moved < factor * still, index


def assert_empty(priors: CodingPriors, index: int) -> None:
    assert not priors.valid[index].any()
    assert not priors.motion[index].any()
    assert not priors.residual[index].any()


STREAMS = {
    "one reference": "bframes=0:ref=1:weightp=0",
    "three references": "bframes=0:ref=3",
    "two B-frames": "bframes=2:ref=3:b-adapt=0:b-pyramid=none",
    "a pyramid of B-frames": "bframes=3:ref=4:b-adapt=0:b-pyramid=normal",
}
