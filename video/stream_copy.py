"""Bring sound, subtitles and other streams of one file into another beside its pictures."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av.error
from av.container import OutputContainer
from av.error import FFmpegError

from .description import Description, as_utf8, copy_stream_description
from .sound import SoundEncoder
from .source import Source, VideoError, open_input, source_name
from .stream_plan import (
    PlannedStream,
    StreamPlan,
    add_copy,
    codec_name,
    is_cover,
    pictures_of,
    plan_streams,
    stream_label,
)
from .subtitles import SubtitleConverter
from .timestamps import JoinedClock, SteadyStamps

logger = logging.getLogger(__name__)

_MAX_READ_ERRORS = 16
"""In a row; what lies behind one may be readable."""

_MAX_PRIMING = Fraction(1, 10)
"""Seconds: 80 ms of Opus, 48 ms of AAC."""


_COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
"""File name and MIME type by codec."""


class _Track:
    """A stream of the source and its place in the output."""

    def __init__(self, output: OutputContainer, planned: PlannedStream, suffix: str) -> None:
        source = planned.stream
        self.label = stream_label(source)
        self._target = self._add(output, planned)
        sparse = source.type not in ("audio", "video")
        # Matroska takes the same stamp twice, others count samples of sound. What is encoded
        # gets stamps of its own: TrueHD has packets shorter than the milliseconds of mkv.
        rate = source.codec_context.sample_rate if source.type == "audio" else 0
        tick = Fraction(1, rate) if rate else source.time_base
        self._steady = SteadyStamps(
            source.time_base,
            None if suffix == ".mkv" or planned.form is not None else tick,
            sparse=sparse,
            reordered=source.type == "video",
        )
        self._suffix = suffix
        self._begins_cut = False
        self._num_refused = 0
        copy_stream_description(source, self._target, suffix)

    def push(self, packet: Any) -> Iterable[Any]:
        """Take a packet of the source; return those that are ready for the output."""
        if self._is_cut_away(packet):
            return []
        return self._converted(self._steady.push(packet))

    def flush(self) -> Iterable[Any]:
        """Return the last packets."""
        return self._converted(self._steady.flush())

    def write(self, output: OutputContainer, packet: Any) -> None:
        """Write a packet; one that the container refuses is left out."""
        try:
            output.mux(packet)
        except OSError:
            raise
        except FFmpegError:
            self._num_refused += 1

    def notes(self) -> list[str]:
        """Return what was not as it should be, for one line each."""
        repaired, refused = self._steady.num_repaired, self._num_refused
        notes = []
        if repaired:
            notes.append(f"had time stamps that do not go forward, mended ({repaired})")
        if refused:
            notes.append(f"lost packets that are damaged ({refused})")
        return notes

    def _is_cut_away(self, packet: Any) -> bool:
        """Tell whether an edit list takes a packet out of the film.

        The few just before the start are there to prime the decoder. In Matroska, which has
        no edit list, they stay only where there is nothing else before the start.
        """
        if not packet.is_discard or packet.pts is None:
            return False
        start = packet.pts * packet.time_base
        self._begins_cut = self._begins_cut or start < -_MAX_PRIMING
        within = -_MAX_PRIMING <= start < 0
        return not within or (self._begins_cut and self._suffix == ".mkv")

    def _add(self, output: OutputContainer, planned: PlannedStream) -> Any:
        return add_copy(output, planned.stream)

    def _converted(self, packets: list[Any]) -> Iterable[Any]:
        for packet in packets:
            packet.stream = self._target
        return packets


class _EncodedTrack(_Track):
    """Sound that is encoded again."""

    def flush(self) -> Iterable[Any]:
        yield from super().flush()
        yield from self._unless_damaged(self._encoder.flush())

    def notes(self) -> list[str]:
        notes = super().notes()
        if self._encoder.num_damaged or self._encoder.silence:
            silence = float(self._encoder.silence)
            notes.append(f"is damaged or has gaps, {silence:.2f} s of it are silent")
        return notes

    def _add(self, output: OutputContainer, planned: PlannedStream) -> Any:
        assert planned.form is not None
        self._encoder = SoundEncoder(output, planned.stream, planned.form)
        return self._encoder.stream

    def _converted(self, packets: list[Any]) -> Iterable[Any]:
        for packet in packets:
            yield from self._unless_damaged(self._encoder.encode(packet))

    def _unless_damaged(self, encoded: Iterable[Any]) -> Iterable[Any]:
        """Yield packets as long as decoder, resampler and encoder take what they get."""
        try:
            yield from encoded
        except (ValueError, FFmpegError):
            self._encoder.num_damaged += 1


class _TextTrack(_Track):
    """Subtitles of text that are converted."""

    def notes(self) -> list[str]:
        notes, damaged = super().notes(), self._converter.num_damaged
        if damaged:
            notes.append(f"lost lines that are damaged ({damaged})")
        return notes

    def _add(self, output: OutputContainer, planned: PlannedStream) -> Any:
        assert planned.text_codec is not None
        self._converter = SubtitleConverter(output, planned.stream, planned.text_codec)
        return self._converter.stream

    def _converted(self, packets: list[Any]) -> Iterable[Any]:
        for packet in packets:
            for text in self._converter.convert(packet):
                text.stream = self._target
                yield text


def _track(output: OutputContainer, planned: PlannedStream, suffix: str) -> _Track:
    if planned.text_codec is not None:
        return _TextTrack(output, planned, suffix)
    if planned.form is not None:
        return _EncodedTrack(output, planned, suffix)
    return _Track(output, planned, suffix)


@dataclass(frozen=True)
class _Ready:
    """A packet that is to be written."""

    time: Fraction
    """Seconds."""
    track: _Track
    packet: Any


class PacketCopier:
    """Feed the packets of a source into an output as its video advances."""

    def __init__(self, source: Source, suffix: str, audio: str = "copy") -> None:
        """Open the source and decide what becomes of its streams.

        Args:
            source: Path or binary file object.
            suffix: Of the output.
            audio: What the user chose.

        Raises:
            FileNotFoundError: If the path does not exist.
            VideoError: If libav cannot read it.
        """
        self._source = source
        self._name = source_name(source)
        self._input = open_input(source)
        self._suffix = suffix
        pictures = pictures_of(self._input, self._name)
        self.plan: StreamPlan = plan_streams(self._input, pictures, self._name, suffix, audio)
        self.description = Description(self._input, pictures)
        """What the source says about itself."""
        self._tracks: dict[int, _Track] = {}
        self._pending: _Ready | None = None
        self._packets: Iterator[_Ready] = iter(())

    def attach(self, output: OutputContainer) -> None:
        """Add a stream to the output for each stream that is kept."""
        for planned in self.plan.streams:
            stream = planned.stream
            if self._suffix == ".mkv" and is_cover(stream):
                self._attach_cover(output, stream)
                continue
            self._tracks[stream.index] = _track(output, planned, self._suffix)
        if self._tracks:
            self._packets = self._read()

    def copy_until(self, output: OutputContainer, time: Fraction | None) -> None:
        """Write the packets that start up to `time` (seconds), or all that are left.

        Raises:
            VideoError: If the source cannot be read to its end.
            OSError: If the output cannot be written.
        """
        while True:
            if self._pending is None:
                self._pending = next(self._packets, None)
            if self._pending is None or (time is not None and self._pending.time > time):
                return
            ready, self._pending = self._pending, None
            ready.track.write(output, ready.packet)

    def close(self) -> None:
        """Close the source, and say what had to be repaired."""
        for track in self._tracks.values():
            for note in track.notes():
                logger.warning("%s: %s %s", self._name, track.label, note)
        self._tracks = {}
        self._input.close()

    def _attach_cover(self, output: OutputContainer, stream: Any) -> None:
        """Store a cover as Matroska does: as a file."""
        with open_input(self._source) as source:
            packets = source.demux(source.streams[stream.index])
            data = next((bytes(packet) for packet in packets if packet.size), None)
        if data is not None:
            name, kind = _COVERS.get(codec_name(stream), _COVERS["mjpeg"])
            output.add_attachment(as_utf8(stream.metadata.get("filename", name)), kind, data)

    def _read(self) -> Iterator[_Ready]:
        clock = JoinedClock(self._input)
        error: VideoError | None = None
        try:
            for packet in self._demuxed(everything=clock.restarts):
                clock.correct(packet)
                track = self._tracks.get(packet.stream.index)
                # At the end there is an empty packet for each stream.
                if track is not None and (packet.size or packet.dts is not None):
                    yield from _timed(track, track.push(packet))
        except VideoError as caught:
            error = caught
        ends = [_timed(track, track.flush()) for track in self._tracks.values()]
        yield from heapq.merge(*ends, key=lambda ready: ready.time)
        if error is not None:
            raise error

    def _demuxed(self, everything: bool) -> Iterator[Any]:
        """Yield packets, also from behind a damaged place.

        Raises:
            VideoError: If none follows.
        """
        kept = [planned.stream for planned in self.plan.streams]
        error: FFmpegError | None = None
        num_errors = 0
        while num_errors < _MAX_READ_ERRORS:
            try:
                for packet in self._input.demux(*([] if everything else kept)):
                    if packet.size:
                        error, num_errors = None, 0
                    yield packet
                break
            except av.error.EOFError:
                break
            except FFmpegError as caught:
                error, num_errors = caught, num_errors + 1
        if error is not None:
            raise VideoError(
                f"{self._name}: its audio cannot be read to the end ({error.strerror})"
            ) from error


def _timed(track: _Track, packets: Iterable[Any]) -> Iterator[_Ready]:
    for packet in packets:
        yield _Ready(packet.dts * packet.time_base, track, packet)
