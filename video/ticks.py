"""Fit the time stamps of pictures to a container that counts in milliseconds."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

MILLISECOND = Fraction(1, 1000)


class MillisecondTicks:
    """Round time stamps to whole milliseconds, each picture after the one before it.

    libav writes Matroska in ticks of 1 ms and no finer, and refuses a stamp twice.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self.num_moved = 0
        """Pictures that had to wait for a tick of their own."""
        self.furthest = Fraction(0)
        """Seconds that one of them is late."""

    def place(self, packet: Any) -> None:
        """Change the stamps of a packet, which are those of its display."""
        time = packet.pts * packet.time_base
        tick = math.floor(time / MILLISECOND + Fraction(1, 2))
        if self._last is not None and tick <= self._last:
            tick = self._last + 1
            self.num_moved += 1
            self.furthest = max(self.furthest, tick * MILLISECOND - time)
        duration = max(1, round((packet.duration or 0) * packet.time_base / MILLISECOND))
        packet.time_base = MILLISECOND
        packet.pts = packet.dts = self._last = tick
        packet.duration = duration
