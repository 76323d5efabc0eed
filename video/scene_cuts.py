"""Find where one shot ends and the next begins, one frame ahead of the work.

Two pictures differ by the geometric mean of two numbers in 0..1, both from thumbnails: the
distance of their colour histograms, which ignores motion, and the mean difference of their
pixels, which sees where things are. Over 2,072 neighbours in 13 clips of the training data it
is at most 0.034; between frames of different clips, or different photos, it is at least 0.132
(3,000 draws each, by `benchmarks/scene_cuts.py`).

Whether a frame starts a shot depends on two frames before it and one after, on nothing else:
so a clip gives the same cuts in one piece, streamed, and resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .pixels import to_float

FRAMES_BEFORE = 2
"""How many frames before a frame its decision looks at."""

_CHANGE = 0.1
"""Difference of two pictures from which they may belong to different shots."""
_OVER_MOTION = 2.0
"""Factor by which a cut stands out from the change of its neighbours: a whip pan of 60 of 256
pixels per frame reaches 0.2, frame after frame."""
_THUMBNAIL = 48
_COARSE = 16
"""Sides of the thumbnails for the histogram and for the pixels; fixed, whatever the frame's
shape, so that every size has the same figures."""
_BINS = 16


def mark_cuts(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Tell for each frame whether a new shot starts with it.

    A single frame unlike its neighbours, which are alike, is a flash and no shot: nothing is
    cut there. The first frame counts as no cut.

    Args:
        frames: `[H, W, 3 or more]`, uint8, uint16, or float32 in 0..1; of any size.

    Yields:
        Each frame and its answer, one frame late.
    """
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for frame in frames:
        held.append((frame, thumbnail(frame)))
        if len(held) > 1:
            yield held[-2][0], _starts_shot([small for _, small in held], len(held) - 2)
        del held[: -FRAMES_BEFORE - 1]
    if held:
        yield held[-1][0], _starts_shot([small for _, small in held], len(held) - 1)


def find_cuts(frames: Iterable[np.ndarray]) -> tuple[int, ...]:
    """Return the indices of the frames that start a new shot; see `mark_cuts`."""
    return tuple(index for index, (_, cut) in enumerate(mark_cuts(frames)) if cut)


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """Shrink a frame to float32 `[48, 48, 3]` in 0..1."""
    # Not at start-up: ComfyUI loads this module, and OpenCV takes a while.
    import cv2

    color = frame[..., :3]
    # Through float, so that a file and the same frames in ComfyUI give the same cuts.
    color = color if color.dtype == np.float32 else to_float(color)
    size = (_THUMBNAIL, _THUMBNAIL)
    return cv2.resize(np.ascontiguousarray(color), size, interpolation=cv2.INTER_AREA)


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Return how much two thumbnails differ, 0 to 1."""
    histograms = np.abs(_histogram(before) - _histogram(after)).sum() / 6
    return float(np.sqrt(histograms * np.abs(_coarse(before) - _coarse(after)).mean()))


def _starts_shot(small: list[np.ndarray], index: int) -> bool:
    if index == 0:
        return False
    now = change(small[index - 1], small[index])
    if now < _CHANGE:
        return False
    motion = []
    if index >= 2:
        if change(small[index - 2], small[index]) < _CHANGE:
            return False  # The frame after a flash.
        motion.append(change(small[index - 2], small[index - 1]))
    if index + 1 < len(small):
        if change(small[index - 1], small[index + 1]) < _CHANGE:
            return False  # A flash.
        motion.append(change(small[index], small[index + 1]))
    # The lesser of both: a shot of one frame has a cut on either side.
    return not motion or now > _OVER_MOTION * min(motion)


def _histogram(small: np.ndarray) -> np.ndarray:
    """Return `[3, bins]` that sum to 1, blurred so that a slight change of light is slight."""
    rows = []
    for channel in np.moveaxis(small, -1, 0):
        counts, _ = np.histogram(channel, bins=_BINS, range=(0.0, 1.0))
        rows.append(np.convolve(counts / channel.size, (0.25, 0.5, 0.25), "same"))
    return np.stack(rows)


def _coarse(small: np.ndarray) -> np.ndarray:
    ratio = _THUMBNAIL // _COARSE
    return small.reshape(_COARSE, ratio, _COARSE, ratio, 3).mean(axis=(1, 3))
