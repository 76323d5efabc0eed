"""Time stamps of packets that start anywhere, jump or repeat, put in order.

Everything that reads the packets of a file passes them through `JoinedClock` in the order of
the file, so that pictures and sound keep the same time line. `SteadyStamps` then makes those
of one stream fit for writing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

_RESTARTS = 0x200
"""AVFMT_TS_DISCONT: formats whose clock may be set anew in the middle."""
_JUMP = Fraction(1, 10)
"""Seconds back that are a new clock and not disorder; ffmpeg's choice as well."""
_MAY_RESTART = {"flv", "live_flv", "asf", "matroska,webm"}
"""Formats whose clock should go on, and may not: recordings that were joined or damaged."""
_FAR_BACK = 1
"""Seconds back that are a new clock in those, whose stamps may be in disorder for long."""
_MAX_GAP = 60
"""Seconds without anything, in any stream, that are a new clock and not a gap."""
_MAX_STAMP = 2**61
"""Ticks: libav adds to time stamps without a look at what they can hold."""
_FITS = Fraction(1, 2)
"""Seconds by which streams of one recording may begin and end apart."""
_MAX_UNDATED = 32
"""Packets in a row without a stamp: more than any codec reorders."""


@dataclass(kw_only=True)
class _Course:
    """How far a stream came, in corrected seconds."""

    epoch: int = 0
    end: Fraction
    """Of the last packet."""
    end_before: Fraction
    """Of the one before it."""


class JoinedClock:
    """One time line from zero on, for a file whose clock starts anywhere or is set anew.

    A transport stream counts from any time: zero is where its earliest stream begins. Where
    such files were joined by `cat`, or the clock jumps far ahead, what follows begins where
    what came before it ends. All streams move by the same time, each from its own jump on.
    In FLV, ASF and Matroska a jump far back alone is a new clock. Gaps stay, and so do the
    stamps of other files, unless their pictures begin before zero.
    """

    def __init__(self, container: InputContainer) -> None:
        self._is_free = bool(container.format.flags & _RESTARTS)
        self.restarts = self._is_free or container.format.name in _MAY_RESTART
        """Whether the clock may be set anew in files of this format."""
        self._offsets = [-_origin(container)]
        self._courses: dict[int, _Course] = {}

    def correct(self, packet: Any) -> int:
        """Move the stamps of a packet; every packet of the file must come by, in order.

        Returns:
            Which clock of the file the packet goes by, from 0.
        """
        for name in ("pts", "dts"):
            if abs(getattr(packet, name) or 0) > _MAX_STAMP:
                setattr(packet, name, None)
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None:
            return 0
        offset = self._offsets[0]
        if self.restarts:
            offset = self._offset(packet, stamp * packet.time_base)
        ticks = round(offset / packet.time_base)
        if ticks and packet.pts is not None:
            packet.pts += ticks
        if ticks and packet.dts is not None:
            packet.dts += ticks
        return self._offsets.index(offset)

    def _offset(self, packet: Any, time: Fraction) -> Fraction:
        if packet.stream.type not in ("video", "audio"):
            # Too seldom to tell a jump by.
            return self._offsets[-1]
        duration = (packet.duration or 0) * packet.time_base
        course = self._courses.get(packet.stream.index)
        if course is None:
            return self._begin(packet, time, duration)
        if packet.dts is None and not self._is_free:
            # The order of display says nothing of the clock.
            return self._offsets[course.epoch]
        if time + self._offsets[course.epoch] > course.end + _FITS:
            # A single wrong stamp was taken for a new clock.
            course.epoch = self._earlier(course, time)
        offset = self._offsets[course.epoch]
        latest = max(each.end for each in self._courses.values())
        # The packet before may have been a single stamp far ahead: then nothing jumped.
        back = min(course.end, course.end_before) - (time + offset)
        jumped_ahead = self._is_free and time + offset > latest + _MAX_GAP
        if back > (_JUMP if self._is_free else _FAR_BACK) or jumped_ahead:
            course.epoch = self._epoch(course, time)
            offset = self._offsets[course.epoch]
        course.end_before, course.end = course.end, time + offset + duration
        return offset

    def _begin(self, packet: Any, time: Fraction, duration: Fraction) -> Fraction:
        """Start the course of a stream, with the clock that is nearest to the others."""
        ends = [course.end for course in self._courses.values()]
        epoch = 0
        if ends:
            distances = [abs(time + offset - max(ends)) for offset in self._offsets]
            epoch = distances.index(min(distances))
        end = time + self._offsets[epoch] + duration
        # Where clocks should go on, the first stamp is rather wrong than the second anew.
        before = end if self._is_free else min(end, Fraction(0))
        self._courses[packet.stream.index] = _Course(epoch=epoch, end=end, end_before=before)
        return self._offsets[epoch]

    def _earlier(self, course: _Course, time: Fraction) -> int:
        """Return the offset before that continues a stream, or the present one."""
        for epoch in range(course.epoch):
            if abs(time + self._offsets[epoch] - course.end) <= _FITS:
                return epoch
        return course.epoch

    def _epoch(self, course: _Course, time: Fraction) -> int:
        """Return which offset continues a stream; that of another stream where it fits."""
        for epoch in range(course.epoch + 1, len(self._offsets)):
            if abs(time + self._offsets[epoch] - course.end) <= _FITS:
                return epoch
        self._offsets.append(course.end - time)
        return len(self._offsets) - 1


def _origin(container: InputContainer) -> Fraction:
    """Return the seconds at which a file begins."""
    start = Fraction(container.start_time or 0, av.time_base)
    if container.format.flags & _RESTARTS and start >= 0:
        return start
    # Sound that begins before zero is what its codec needs to start, and has a place in
    # every container; pictures there have none.
    starts = [
        stream.start_time * stream.time_base
        for stream in container.streams.video
        if stream.start_time is not None and stream.time_base
    ]
    return min([Fraction(0), *starts])


class SteadyStamps:
    """Give the packets of a stream stamps that a container takes: always forward."""

    def __init__(
        self,
        time_base: Fraction,
        tick: Fraction | None,
        *,
        sparse: bool = False,
        reordered: bool = False,
    ) -> None:
        """Expect packets of one stream.

        Args:
            time_base: Seconds per unit of their stamps.
            tick: Seconds that the output can tell apart; None: it takes a stamp twice.
            sparse: Whether the next packet may be long in coming, and is not waited for.
            reordered: Whether packets may be shown in another order than they come.
        """
        self._step = 0 if tick is None else max(1, math.ceil(tick / time_base))
        self._sparse, self._reordered = sparse, reordered
        self._undated: list[Any] = []
        self._last: int | None = None
        self._end = 0
        self._held: Any = None
        self.num_repaired = 0
        """Packets whose stamp was missing, repeated or went back."""

    def push(self, packet: Any) -> list[Any]:
        """Take a packet; return those before it that are ready.

        A stamp is judged by its neighbours, so the last packet waits for the next.
        """
        if packet.dts is None and not self._reordered:
            packet.dts = packet.pts
        if packet.dts is None and self._last is None and len(self._undated) < _MAX_UNDATED:
            # Matroska and AVI give no time of decoding before the first picture is out.
            self._undated.append(packet)
            return []
        return [*self._dated(packet), *self._next(packet)]

    def flush(self) -> list[Any]:
        """Return the last packets."""
        held, self._held = [*self._undated, self._held], None
        self._undated = []
        return [self._settled(packet) for packet in held if packet is not None]

    def _dated(self, known: Any) -> list[Any]:
        """Return the packets that came before the first stamp, counted back from it."""
        packets, self._undated = self._undated, []
        stamp = known.dts
        for packet in reversed(packets):
            if stamp is None:
                break
            stamp -= max(packet.duration or 0, self._step, 1)
            packet.dts = stamp
        return [self._settled(packet) for packet in packets]

    def _next(self, packet: Any) -> list[Any]:
        if self._sparse:
            return [self._settled(packet)]
        ready, self._held = self._held, packet
        if ready is None:
            return []
        # One stamp far ahead must not push everything after it there.
        between = None not in (self._last, ready.dts, packet.dts)
        if between and ready.dts > packet.dts >= self._last:
            self._move(ready, self._end)
        return [self._settled(ready)]

    def _settled(self, packet: Any) -> Any:
        stamp: int = self._end if packet.dts is None else packet.dts
        if self._last is not None:
            stamp = max(stamp, self._last + self._step)
        if packet.dts is None and self._last is None:
            packet.dts = stamp
        elif packet.dts != stamp:
            self._move(packet, stamp)
        if packet.pts is None or packet.pts < stamp:
            packet.pts = stamp
        self._last, self._end = stamp, stamp + (packet.duration or 0)
        return packet

    def _move(self, packet: Any, stamp: int) -> None:
        if packet.dts is not None and packet.pts is not None:
            packet.pts += stamp - packet.dts
        packet.dts = stamp
        self.num_repaired += 1
