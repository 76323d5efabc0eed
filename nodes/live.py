"""What Deblur Video shows while it works: the last frame before and after, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ..video.pixels import to_float
from .backend import picture, show_text
from .progress import ProgressFn

_PREVIEW_SIDE = 512
"""Longest side of each of the two pictures, in pixels."""
_READING = 0.02
"""Share of the work on a frame that the bar gives to reading it."""
_PREVIEW_INTERVAL_S = 0.5
"""Between two previews, so that they cost nothing beside the work."""


class LiveView:
    """The progress bar, picture and text of a node that restores frame by frame."""

    def __init__(
        self,
        advance: ProgressFn,
        node_id: str | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show that the work begins.

        Args:
            advance: Moves the node's bar.
            node_id: Of the node on the canvas; None: no text.
            now: A clock, in seconds.
        """
        self._advance = advance
        self._node_id = node_id
        self._now = now
        self._start: tuple[float, float] | None = None
        self._progress: tuple[float, float | None] = (0, None)
        self._before: int | None = None
        self._shown = -_PREVIEW_INTERVAL_S
        advance(0, 1)
        self._say("reading")

    def on_progress(self, done: float, total: float | None) -> None:
        """Take note of frames done, of how many; `FrameCallback` of the engine."""
        # A run that goes on where it was has not done the frames before.
        if self._start is None:
            self._start = (self._now(), done)
        self._progress = (done, total)
        self._advance(done, total or done + 1)
        self._say(self.text())

    def on_read(self, read: int, total: float | None) -> None:
        """Take note of frames that were read, which count a little until they are restored.

        Those before the first one were restored by a run before.
        """
        if self._before is None:
            self._before = read - 1
        done = max(self._before, self._progress[0])
        if total:
            self._advance(done + _READING * max(0, read - done), total)
        else:
            self._advance(0, 1)
        if self._start is None:
            self._say(f"reading frame {read}")

    def on_frame(self, blurry: np.ndarray, restored: np.ndarray) -> None:
        """Show a frame that was just restored."""
        if self._now() - self._shown < _PREVIEW_INTERVAL_S:
            return
        self._shown = self._now()
        done, total = self._progress
        both = np.concatenate([_small(blurry), _small(restored)], axis=1)
        preview = ("JPEG", picture(both), 2 * _PREVIEW_SIDE)
        self._advance(done, total or done + 1, preview)

    def text(self) -> str:
        """Return frames done, frames per second and time left, as far as known."""
        done, total = self._progress
        parts = [f"{int(done)} of {int(total)} frames" if total else f"{int(done)} frames"]
        began, before = self._start or (self._now(), done)
        seconds, fresh = self._now() - began, done - before
        if seconds > 0 and fresh > 0:
            rate = fresh / seconds
            parts.append(f"{rate:.2f}/s")
            if total:
                parts.append(f"{_duration((total - done) / rate)} left")
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        if self._node_id is not None:
            show_text(self._node_id, text)


def _small(pixels: np.ndarray) -> np.ndarray:
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, _PREVIEW_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    colors = np.ascontiguousarray(pixels[..., :3])
    return to_float(cv2.resize(colors, size, interpolation=cv2.INTER_AREA))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
