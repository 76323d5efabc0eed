"""How far a restoration is: pieces of work done, of how many."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with (pieces of work done, pieces in all); may raise to cancel."""


class Work:
    """Count pieces of work for a callback."""

    def __init__(self, callback: ProgressCallback | None, total: int) -> None:
        self._callback = callback
        self.done = 0
        self.total = total

    def advance(self) -> None:
        """Report before a piece; whatever the callback raises goes through."""
        if self._callback is not None:
            self._callback(self.done, self.total)
        self.done += 1

    def finish(self) -> None:
        """Report that all is done."""
        if self._callback is not None:
            self._callback(self.total, self.total)
