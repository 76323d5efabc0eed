"""Decode the pictures of a stream, and tell a complete file from a truncated one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from .info import VideoInfo
from .probe import average_rate, stream_duration, tagged_duration
from .source import VideoError
from .timestamps import JoinedClock


class Decoder:
    """The pictures of one stream of an open file."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, name: str, cut_short: bool
    ) -> None:
        """Decode nothing yet.

        Args:
            container: The open file, which this reads from its present position.
            stream: What to decode.
            name: What errors call the file.
            cut_short: Whether it is known that the file misses its end.
        """
        self._container = container
        self._stream = stream
        self._name = name
        self._cut_short = cut_short
        self._rate = average_rate(stream)
        self._time_base = stream.time_base or 1 / self._rate
        self._progress = _Progress()
        self._clock = JoinedClock(container)
        self.durations: dict[int, int] = {}
        """By time stamp, of packets whose picture may be still to come."""
        self.info: VideoInfo | None = None
        """Set once a picture was described: for the error at a missing end."""

    def frames(self) -> Generator[av.VideoFrame]:
        """Yield the pictures in order of display, once.

        Raises:
            VideoError: After the last good one, if the file is damaged or ends early.
        """
        progress = self._progress
        failure = ""
        try:
            for packet in self._packets():
                for frame in self._decode_packet(packet):
                    self._note_frame(frame)
                    yield frame
        except av.error.EOFError:
            pass
        except FFmpegError as error:
            failure = f" ({error.strerror})"
        if failure or progress.damaged:
            yield from self._drain()
        if progress.num_frames and (failure or progress.damaged or self._ends_early()):
            promised = self.info.num_frames if self.info is not None else None
            expected = f" of {promised}" if promised else ""
            raise VideoError(
                f"{self._name}: stops after frame {progress.num_frames}{expected} "
                f"({progress.last_time:.2f} s): the file is truncated or damaged{failure}. "
                "Copy or record it again."
            )

    def _decode_packet(self, packet: Any) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            if self._progress.num_frames:
                raise
            # A recording may start between two key frames; nothing can be shown before.
            return []

    def _drain(self) -> Iterator[av.VideoFrame]:
        """Yield the pictures the decoder still holds when reading broke off."""
        try:
            frames = self._stream.codec_context.decode(None)
        except FFmpegError:
            return
        for frame in frames:
            self._note_frame(frame)
            yield frame

    def _note_frame(self, frame: av.VideoFrame) -> None:
        self._progress.num_frames += 1
        if frame.pts is not None:
            self._progress.last_time = float(frame.pts * (frame.time_base or self._time_base))

    def _packets(self) -> Iterator[Any]:
        """Yield the video packets up to the first damaged one, and the final flush."""
        lossy = "mpegts" in self._container.format.name
        for packet in self._container.demux():
            self._clock.correct(packet)
            self._progress.note_end(packet)
            if packet.stream.index != self._stream.index:
                continue
            if packet.is_corrupt and not lossy:
                # Half a picture: decoding it would invent the rest.
                self._progress.damaged = True
                return
            if packet.dts is not None or packet.size:
                self._progress.num_packets += 1
                if packet.size == 0:
                    continue
                if packet.pts is not None and packet.duration:
                    self.durations[packet.pts] = packet.duration
            yield packet

    def _ends_early(self) -> bool:
        """Compare what was read with what the container promised."""
        progress, stream, name = self._progress, self._stream, self._container.format.name
        if self._cut_short:
            return True
        if "mp4" in name and stream.frames:
            # The index holds what is left after edit lists; `frames` counts all.
            expected = len(getattr(stream, "index_entries", ())) or stream.frames
            return progress.num_packets < expected
        reached = progress.end_times.get(stream.index, Fraction(0))
        if "matroska" in name:
            promised, tolerance = tagged_duration(stream), Fraction(1, 50)
            if promised is None:
                promised = stream_duration(self._container, None)
                reached = max(progress.end_times.values(), default=reached)
        elif "mp4" in name or name in ("avi", "flv", "asf"):
            promised, tolerance = stream_duration(self._container, stream), Fraction(1, 2)
        else:
            # Transport streams and the like promise nothing.
            return False
        return promised is not None and reached + 2 / self._rate + tolerance < promised


class _Progress:
    """How far a reader came, to tell a complete file from a truncated one."""

    def __init__(self) -> None:
        self.num_packets = 0
        self.num_frames = 0
        self.last_time = 0.0
        self.damaged = False
        self.end_times: dict[int, Fraction] = {}

    def note_end(self, packet: Any) -> None:
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            index = packet.stream.index
            self.end_times[index] = max(end, self.end_times.get(index, end))
