"""Put decoded pictures in their place in time, with a neighbour where one was lost."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

_MAX_FILLED = 25
"""Pictures in a row that a damaged place may have taken whole."""
_NEAR = 5
"""Pictures between a damaged packet and the gap beside it."""
_MAX_REORDER = 16
"""Pictures that a codec may hold back; H.264 and H.265 allow as many."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture and its place in time, in units of the stream's time base."""

    frame: av.VideoFrame
    pts: int | None
    """None where the file does not say."""
    duration: int
    """0 where the file does not say."""
    is_repeat: bool = False
    """Whether it stands for a picture that could not be decoded."""


class Places:
    """The display times of one stream, learned from its packets, given to its pictures.

    A lost picture is replaced by the one before it on display, at the start of the clip by
    the one after it. What counts as lost: a packet that raised an error, and from there on
    every packet of which no picture comes, as a lost key frame takes others with it; beside a
    packet that arrived damaged, also a gap of whole frames. Some
    streams have packets without a picture of their own (fields, VP8's hidden frames): where
    this is seen before the first error, only errors count.
    """

    def __init__(
        self, time_base: Fraction, rate: Fraction, *, from_dts: bool, may_reorder: bool
    ) -> None:
        """Know nothing yet.

        Args:
            time_base: Seconds per unit of the times that are given.
            rate: Pictures per second, where a packet does not say its duration.
            from_dts: Whether the container stores the order of decoding alone (AVI): the
                first picture on display then has the first of the times, and so on.
            may_reorder: Whether pictures may come out of order, as after a lost key frame;
                some are then held back.
        """
        self._time_base = time_base
        self._step = max(1, round(1 / (rate * time_base)))
        self._from_dts = from_dts
        self._most_held = _MAX_REORDER if from_dts or may_reorder else 0
        self._durations: dict[int, int] = {}
        self._began = False
        self._first_key: int | None = None
        self._first_lost: int | None = None
        self._one_each = True
        self._sent: set[int] = set()
        """Times of packets whose picture is still to come."""
        self._held: list[tuple[int, int, av.VideoFrame | None]] = []
        """A heap of pictures in order of display; None for a lost one."""
        self._times: list[int] = []
        """A heap of the times of those pictures."""
        self._num_lost_anywhere = 0
        self._num_placed = 0
        self._last: av.VideoFrame | None = None
        self._next_time: tuple[int, int] | None = None
        """When the picture after the last one is due, and how long that one is shown."""
        self._clock = 0
        self._joins: list[int] = []
        """Times at which the clock was set anew: a gap there is one of sound that is longer."""
        self._damaged: list[int] = []
        """Times of packets that arrived damaged."""
        self._missing: list[int | None] = []

    def expect(self, packet: Any, clock: int = 0) -> None:
        """Note a packet that is about to be decoded.

        Args:
            packet: As it goes to the decoder.
            clock: Its number, where the clock of the file is set anew.
        """
        if self._from_dts:
            packet.pts = packet.dts
        pts = packet.pts
        if packet.is_keyframe and not self._began:
            self._began, self._first_key = True, pts
        if pts is None:
            return
        if clock != self._clock:
            self._clock = clock
            self._joins.append(pts)
        if packet.duration and packet.duration > 0:
            self._durations[pts] = packet.duration
        if self._is_shown(packet):
            self._sent.add(pts)
            if packet.is_corrupt:
                self._damaged.append(pts)
                self._first_lost = min(
                    pts, pts if self._first_lost is None else self._first_lost
                )

    def lose(self, packet: Any) -> None:
        """Note that a packet cannot be decoded."""
        pts = packet.pts
        self._sent.discard(pts)
        if not self._is_shown(packet):
            return
        if pts is None:
            self._num_lost_anywhere += 1
            return
        self._first_lost = min(pts, pts if self._first_lost is None else self._first_lost)
        self._hold(None, pts)

    def place(self, frame: av.VideoFrame) -> Iterator[Picture]:
        """Yield what is to be shown by now; a decoded picture may be held back."""
        pts = self._pts(frame)
        if pts is not None:
            self._sent.discard(pts)
            self._hold(frame, pts)
            yield from self._in_order(self._most_held)
            return
        while self._num_lost_anywhere:
            self._num_lost_anywhere -= 1
            yield self._picture(None, None, frame)
        yield self._picture(frame, None, frame)

    def flush(self) -> Iterator[Picture]:
        """Yield the decoded pictures that are still held, once the decoder is empty."""
        shown = sorted(self._held)
        while shown and shown[-1][2] is None:
            shown.pop()
        num_late = len(self._held) - len(shown)
        self._held = shown
        times = sorted(self._times)
        self._times, late = times[: len(shown)], times[len(shown) :]
        assert len(late) == num_late
        yield from self._in_order(0)
        if self._one_each and self._first_lost is not None:
            late = sorted({*late, *self._sent})
        self._missing = [*late, *[None] * self._num_lost_anywhere]

    @property
    def num_missing(self) -> int:
        """Lost pictures after the last decoded one, when all others are out."""
        return len(self._missing)

    @property
    def is_damaged(self) -> bool:
        """Whether anything was lost, or may have been."""
        return self._first_lost is not None

    @property
    def awaits_more(self) -> bool:
        """Whether the decoder still owes pictures."""
        return self._one_each and bool(self._sent)

    def repeats_at_end(self) -> Iterator[Picture]:
        """Yield the last picture once more for each that is missing after it."""
        for pts in self._missing:
            yield self._picture(None, pts, None)

    def _is_shown(self, packet: Any) -> bool:
        # Before the first key frame there is nothing to see. What an edit list cuts away is
        # decoded for the sake of others.
        pts, first = packet.pts, self._first_key
        before = pts is not None and first is not None and pts < first
        return self._began and not before and not packet.is_discard

    def _hold(self, frame: av.VideoFrame | None, pts: int) -> None:
        self._num_placed += 1
        place = self._num_placed if self._from_dts else pts
        heapq.heappush(self._held, (place, self._num_placed, frame))
        heapq.heappush(self._times, pts)

    def _in_order(self, most: int) -> Iterator[Picture]:
        """Yield held pictures up to the first that may follow on one still to come."""
        while self._held:
            following = next((f for _, _, f in sorted(self._held) if f is not None), None)
            late = sorted(pts for pts in self._sent if pts < self._times[0])
            if following is None or (late and len(self._held) <= most):
                return
            self._sent.difference_update(late)
            for pts in late:
                if self._first_lost is None or pts < self._first_lost:
                    self._one_each = False
                elif self._one_each:
                    yield from self._without_gap(None, pts, following)
            frame, pts = heapq.heappop(self._held)[2], heapq.heappop(self._times)
            yield from self._without_gap(frame, pts, following)

    def _without_gap(
        self, frame: av.VideoFrame | None, pts: int, following: av.VideoFrame
    ) -> Iterator[Picture]:
        for missing in self._gap_before(pts):
            yield self._picture(None, missing, following)
        yield self._picture(frame, pts, following)

    def _gap_before(self, pts: int) -> list[int]:
        """Return the times of pictures that are missing from the file itself."""
        if self._next_time is None:
            return []
        due, step = self._next_time
        num_missing = round((pts - due) / step)
        # The neighbour in order of decoding may be some pictures away on display.
        near = _NEAR * step
        is_damaged = any(due - near <= time <= pts + near for time in self._damaged)
        even = abs(due + num_missing * step - pts) <= step / 10
        is_join = any(due <= time <= pts for time in self._joins)
        if is_join or not is_damaged or not even or not 0 < num_missing <= _MAX_FILLED:
            return []
        return [due + index * step for index in range(num_missing)]

    def _picture(
        self, frame: av.VideoFrame | None, pts: int | None, following: av.VideoFrame | None
    ) -> Picture:
        duration = 0 if pts is None else self._durations.pop(pts, 0)
        if pts is not None:
            step = duration or self._step
            self._next_time = pts + step, step
        if frame is not None:
            self._last = frame
            return Picture(frame, pts, duration)
        neighbour = self._last or following
        assert neighbour is not None
        return Picture(neighbour, pts, duration, is_repeat=True)

    def _pts(self, frame: av.VideoFrame) -> int | None:
        if frame.pts is None:
            return None
        # PyAV 14 leaves the time base of the decoder's last frames unset.
        unit = frame.time_base or self._time_base
        if unit == self._time_base:
            return frame.pts
        return round(frame.pts * unit / self._time_base)
