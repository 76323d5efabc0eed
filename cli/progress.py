"""Show how far work is: a bar in a terminal, a line now and then everywhere else."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import timedelta

LINE_EVERY_S = 30
"""Between two lines where the output is no terminal."""
_CLEAR_REST = "\x1b[K"


class ProgressBar:
    """Called with (done, total or None) as work goes on."""

    def __init__(self, label: str, unit: str = "") -> None:
        """Start the clock.

        Args:
            label: What is worked on.
            unit: What is counted, such as "frames"; if given, lines are printed where the
                output is no terminal.
        """
        self._label = label
        self._unit = unit
        self._started = self._last_line = time.monotonic()
        self._first: tuple[float, float] | None = None

    def __call__(self, done: float, total: float | None) -> None:
        """Show that `done` of `total` is done."""
        now = time.monotonic()
        if self._first is None:
            # What an earlier run has done says nothing about the speed of this one.
            self._first = (now, done)
        if sys.stderr.isatty():
            if now - self._started >= 1:
                self._draw(done, total, now)
        elif self._unit and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            print(self._line(done, total, now), file=sys.stderr, flush=True)

    def _draw(self, done: float, total: float | None, now: float) -> None:
        if total:
            left_s = self._left_s(done, total, now) or 0
            draw_bar(self._label, min(done / total, 1.0), f"{left_s:5.0f} s left")
        else:
            _draw_line(f"{self._label} {done:.0f} frames, {now - self._started:.0f} s")

    def _line(self, done: float, total: float | None, now: float) -> str:
        if not total:
            elapsed = timedelta(seconds=round(now - self._started))
            return f"{self._label}: {int(done)} {self._unit} in {elapsed}"
        line = f"{self._label}: {int(done)} of {int(total)} {self._unit}"
        left_s = self._left_s(done, total, now)
        return line if left_s is None else f"{line}, {timedelta(seconds=round(left_s))} left"

    def _left_s(self, done: float, total: float, now: float) -> float | None:
        """Return the seconds that are left; None while nothing is known."""
        assert self._first is not None
        started, already = self._first
        if done <= already:
            return None
        return max(0.0, (total - done) * (now - started) / (done - already))


def draw_bar(label: str, share: float, more: str) -> None:
    """Draw a bar over the line of the one before, as wide as the terminal leaves it."""
    text = f"{100 * share:3.0f} %  {more}"
    width = min(30, shutil.get_terminal_size().columns - len(f"{label} []  {text}") - 1)
    bar = "#" * round(width * share)
    _draw_line(f"{label} [{bar:{width}}] {text}" if width >= 5 else f"{label}  {text}")


def _draw_line(text: str) -> None:
    # A line that wraps could not be drawn over.
    text = text[: shutil.get_terminal_size().columns - 1]
    print(f"\r{text}{_CLEAR_REST}", end="", file=sys.stderr, flush=True)


def end_progress_line() -> None:
    """Clear the line that a bar was drawn on."""
    print(cleared_line(), end="", file=sys.stderr, flush=True)


def cleared_line() -> str:
    """Return what clears the line of a bar: nothing where there are no bars."""
    return f"\r{_CLEAR_REST}" if sys.stderr.isatty() else ""
