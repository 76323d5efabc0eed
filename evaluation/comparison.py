"""Pictures of two clips against each other, frame by frame.

Clips are float32 `[T, H, W, 3]` in 0..1, pictures float32 `[h, w, 3]` in 0..1. Labels stand in
bars above the frames, so that they hide nothing. Frames with even sides give pictures with even
sides, which video codecs want.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .crops import crop_size

DIFFERENCE_SCALE = 8
"""Factor on the differences that `difference` shows."""
NUM_CROPS = 3
"""Places that `crops` shows, at most."""

_GAP = 1.0
"""Brightness of what lies between two pictures."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How a picture is laid out."""

    position: float = 0.5
    """Where the wipe changes from one clip to the other, 0 (left) to 1 (right)."""
    labels: bool = True
    """Whether bars say which is which."""
    places: tuple[tuple[int, int], ...] = ()
    """Top and left of the squares that `crops` shows, from `largest_changes`."""


def split(before: np.ndarray, after: np.ndarray, view: View) -> np.ndarray:
    """Put both frames side by side, with a gap."""
    return _in_a_row(
        [_labelled(before, "before", view), _labelled(after, "after", view)],
        _gap_of(before),
    )


def wipe(before: np.ndarray, after: np.ndarray, view: View) -> np.ndarray:
    """Show one frame left of a line and the other right of it."""
    height, width = before.shape[:2]
    edge = round(view.position * width)
    picture = np.concatenate([before[:, :edge], after[:, edge:]], axis=1)
    half = max(_gap_of(before) // 8, 1)
    if 0 < edge < width:
        picture[:, max(edge - half, 0) : edge + half] = _GAP
    if not view.labels:
        return picture
    bar = _bar(width, height)
    _write(bar, "before", "left")
    _write(bar, "after", "right")
    return np.concatenate([bar, picture])


def difference(before: np.ndarray, after: np.ndarray, view: View) -> np.ndarray:
    """Show how much each value changed, times `DIFFERENCE_SCALE`; black: not at all."""
    change = np.minimum(np.abs(after - before) * DIFFERENCE_SCALE, 1)
    return _labelled(change, f"difference x {DIFFERENCE_SCALE}", view)


def crops(before: np.ndarray, after: np.ndarray, view: View) -> np.ndarray:
    """Show the squares at `view.places` enlarged, before above after."""
    height, width = before.shape[:2]
    side = crop_size(height, width)
    factor = max(2, round(height / (2 * side)))
    gap = _gap_of(before)
    rows = []
    for frame, label in ((before, "before"), (after, "after")):
        squares = [
            np.kron(frame[top : top + side, left : left + side], np.ones((factor, factor, 1)))
            for top, left in view.places
        ]
        rows.append(_labelled(_in_a_row(squares, gap).astype(np.float32), label, view))
    between = np.full((gap, rows[0].shape[1], 3), _GAP, np.float32)
    return np.concatenate([rows[0], between, rows[1]])


VIEWS: dict[str, Callable[[np.ndarray, np.ndarray, View], np.ndarray]] = {
    "split": split,
    "wipe": wipe,
    "difference": difference,
    "crops": crops,
}
"""From a frame of each clip and the layout to a picture, by the name that users choose."""


def largest_changes(change: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Find the squares that changed most, up to `NUM_CROPS` that do not overlap.

    Args:
        change: Squared change of each pixel, `[H, W]`.

    Returns:
        Top and left of each square of side `crop_size`, the largest change first.
    """
    side = crop_size(*change.shape)
    sums = cv2.integral(change.astype(np.float64))
    score = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side]
    score += sums[:-side, :-side]
    places: list[tuple[int, int]] = []
    while len(places) < NUM_CROPS and np.isfinite(score).any():
        top, left = (int(i) for i in np.unravel_index(int(score.argmax()), score.shape))
        places.append((top, left))
        rows, columns = (slice(max(start - side + 1, 0), start + side) for start in (top, left))
        score[rows, columns] = -np.inf
    return tuple(places)


def _gap_of(frame: np.ndarray) -> int:
    return 2 * max(4, frame.shape[1] // 128)


def _in_a_row(pictures: list[np.ndarray], gap: int) -> np.ndarray:
    between = np.full((pictures[0].shape[0], gap, 3), _GAP, np.float32)
    row = [pictures[0]]
    for picture in pictures[1:]:
        row += [between, picture]
    return np.concatenate(row, axis=1)


def _labelled(picture: np.ndarray, label: str, view: View) -> np.ndarray:
    if not view.labels:
        return picture
    bar = _bar(picture.shape[1], picture.shape[0])
    _write(bar, label, "left")
    return np.concatenate([bar, picture])


def _bar(width: int, height: int) -> np.ndarray:
    return np.zeros((2 * max(10, height // 40), width, 3), np.float32)


def _write(bar: np.ndarray, text: str, side: str) -> None:
    """Write white text into a black bar, as large as fits."""
    height, width = bar.shape[:2]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, height / 36
    thickness = max(1, round(height / 24))
    (length, above), _ = cv2.getTextSize(text, font, scale, thickness)
    margin = height // 3
    if length + 2 * margin > width:
        return
    left = margin if side == "left" else width - margin - length
    # Smooth edges are drawn on 8 bits alone.
    ink = np.zeros((height, width), np.uint8)
    place = (left, (height + above) // 2)
    cv2.putText(ink, text, place, font, scale, 255, thickness, cv2.LINE_AA)
    bar += ink[..., None] / np.float32(255)
