"""Decode the pictures of a file, past what is damaged, and tell whether its end is missing."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
from av.error import FFmpegError
from av.video.stream import VideoStream

from .alpha import decoder_for
from .coded_pictures import EXPORT, CodedPicture, DecodingOrder, lists_vectors
from .info import VideoInfo
from .matroska import is_whole
from .places import Picture, Places
from .probe import (
    average_rate,
    stores_decoding_order,
    stream_duration,
    tagged_duration,
    video_stream,
)
from .rationals import known
from .source import (
    Source,
    VideoError,
    ends_inside_a_box,
    open_input,
    read_position,
    source_name,
)
from .timestamps import JoinedClock

logger = logging.getLogger(__name__)

_MAX_READ_ERRORS = 8
"""Errors in a row after which reading is given up."""
_MAX_LOST_END = Fraction(1)
"""Seconds of pictures at the end, none of which decodes, that count as a missing end."""


class _UndecodableError(Exception):
    """A packet that cannot be decoded, met by a decoder that cannot say which one."""


class Decoder:
    """The pictures of one file: of the stream that a player would show."""

    def __init__(self, source: Source, vectors: bool = False) -> None:
        """Open the file; decode nothing yet.

        Args:
            source: Path or binary file object.
            vectors: Whether to have the motion of pictures listed, where the stream has it.

        Raises:
            FileNotFoundError: If the path does not exist.
            VideoError: If the source is empty, or no video.
        """
        self._source = source
        self.name = source_name(source)
        self.container = open_input(source)
        try:
            self.stream = video_stream(self.container, self.name)
            is_mp4 = "mp4" in self.container.format.name
            self._cut_short = is_mp4 and ends_inside_a_box(source)
            self._rate = average_rate(self.stream)
            self._time_base = known(self.stream.time_base) or 1 / self._rate
            self._from_dts = stores_decoding_order(source, self.container, self.stream.index)
        except BaseException:
            self.container.close()
            raise
        context = self.stream.codec_context
        # A bare H.264 stream has no times, which tell its pictures apart.
        has_times = self.container.format.name != "h264"
        self.has_vectors = vectors and has_times and lists_vectors(context, self._from_dts)
        """Whether `coded` can tell anything."""
        self._order: DecodingOrder | None = None
        self._progress = _Progress()
        self.info: VideoInfo | None = None
        """Set once a picture was described: for the error at a missing end."""

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def coded(self, picture: Picture) -> CodedPicture | None:
        """Return what the stream says of the motion of a picture that was just yielded."""
        if self._order is None or picture.is_repeat:
            return None
        return self._order.coded(picture.frame, picture.pts)

    def pictures(self) -> Generator[Picture]:
        """Yield the pictures in order of display, once.

        What cannot be decoded is replaced by its neighbour, and counted in one warning.

        Raises:
            VideoError: After the last good one, if the file ends early.
        """
        count = 0
        try:
            # Threads of whole frames are several times as fast, but report an error some
            # packets late, and lose what is in flight at the end.
            for picture in self._decode(careful=False):
                count += 1
                yield picture
        except _UndecodableError:
            self._open_again()
            yield from itertools.islice(self._decode(careful=True), count, None)
        self._warn_of_damage()

    def _open_again(self) -> None:
        index = self.stream.index
        self.container.close()
        self.container = open_input(self._source)
        stream = self.container.streams[index]
        assert isinstance(stream, VideoStream)
        self.stream = stream
        self._progress = _Progress()

    def _decode(self, *, careful: bool) -> Iterator[Picture]:
        decoder = decoder_for(self.stream, self.name)
        # Threads of whole frames list vectors of a picture while another still decodes it.
        decoder.thread_type = "SLICE" if careful or self.has_vectors else "AUTO"
        if self.has_vectors:
            decoder.options = {**decoder.options, **EXPORT}
            self._order = DecodingOrder(decoder)
        places = Places(
            self._time_base,
            self._rate,
            from_dts=self._from_dts,
            may_reorder=careful,
        )
        for packet, clock in self._packets():
            if packet.size:
                places.expect(packet, clock)
                if self._order is not None:
                    self._order.note(packet)
            if places.is_damaged and not careful:
                raise _UndecodableError
            try:
                frames = decoder.decode(packet)
            except av.error.EOFError:
                break
            except FFmpegError as error:
                if not careful:
                    raise _UndecodableError from error
                if packet.size:
                    places.lose(packet)
                continue
            for frame in frames:
                self._progress.num_corrupt += frame.is_corrupt
                yield from self._noted(places.place(frame))
        if places.awaits_more and not careful:
            # Threads end without an error when one comes up in the last pictures.
            raise _UndecodableError
        yield from self._noted(places.flush())
        if places.num_missing > self._rate * _MAX_LOST_END:
            self._progress.failure = self._progress.failure or " (none can be decoded after it)"
        elif self._progress.num_frames:
            yield from self._noted(places.repeats_at_end())
        self._check_end()

    def _noted(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        for picture in pictures:
            self._progress.num_frames += 1
            self._progress.num_lost += picture.is_repeat
            if picture.pts is not None:
                self._progress.last_time = float(picture.pts * self._time_base)
            yield picture

    def _packets(self) -> Iterator[tuple[Any, int]]:
        """Yield the video packets with the number of their clock, and the final flush."""
        lossy = "mpegts" in self.container.format.name
        held = None
        for packet, clock in self._read():
            if packet.stream.index != self.stream.index:
                continue
            is_flush = packet.dts is None and not packet.size
            if held is not None and is_flush:
                # The end is missing, and decoding half a picture would invent the rest.
                self._progress.failure = self._progress.failure or " (half a picture)"
            elif held is not None:
                yield held, clock
            held = None
            if not is_flush:
                self._progress.num_packets += 1
                if packet.size == 0:
                    continue
                if packet.is_corrupt and not lossy:
                    held = packet
                    continue
            yield packet, clock

    def _read(self) -> Iterator[tuple[Any, int]]:
        """Yield all packets with their clock, past what the container cannot make sense of."""
        progress, num_errors = self._progress, 0
        clock = JoinedClock(self.container)
        while num_errors < _MAX_READ_ERRORS:
            try:
                for packet in self.container.demux():
                    if packet.size:
                        num_errors, progress.failure = 0, ""
                    progress.note_end(packet)
                    yield packet, clock.correct(packet)
                return
            except av.error.EOFError:
                return
            except FFmpegError as error:
                num_errors += 1
                progress.failure = f" ({error.strerror})"

    def _warn_of_damage(self) -> None:
        progress = self._progress
        if progress.num_lost:
            logger.warning(
                "%s: %d of %d frames cannot be decoded and repeat their neighbour",
                self.name,
                progress.num_lost,
                progress.num_frames,
            )
        if progress.num_corrupt:
            logger.warning(
                "%s: %d of %d frames are damaged and restored as they are decoded",
                self.name,
                progress.num_corrupt,
                progress.num_frames,
            )

    def _check_end(self) -> None:
        progress = self._progress
        if not progress.num_frames or not (progress.failure or self._ends_early()):
            return
        promised = self.info.num_frames if self.info is not None else None
        expected = f" of {promised}" if promised else ""
        raise VideoError(
            f"{self.name}: stops after frame {progress.num_frames}{expected} "
            f"({progress.last_time:.2f} s): the file is truncated or damaged"
            f"{progress.failure}. Copy or record it again."
        )

    def _ends_early(self) -> bool:
        """Compare what was read with what the container promised."""
        progress, stream, name = self._progress, self.stream, self.container.format.name
        if self._cut_short:
            return True
        if "mp4" in name and stream.frames:
            # The index holds what is left after edit lists; `frames` counts all.
            expected = len(getattr(stream, "index_entries", ())) or stream.frames
            return progress.num_packets < expected
        reached = progress.end_times.get(stream.index, Fraction(0))
        tolerance = Fraction(1, 50) if "matroska" in name else Fraction(1, 2)
        if "matroska" in name:
            promised = tagged_duration(stream)
        elif "mp4" in name or name == "avi":
            promised = stream_duration(self.container, stream)
        elif name in ("flv", "asf"):
            promised = None
        else:
            # Transport streams and the like promise nothing.
            return False
        if promised is None:
            # Of the whole file: the end of whatever ends last.
            promised = stream_duration(self.container, None)
            reached = max(progress.end_times.values(), default=reached)
        if promised is None or reached + 2 / self._rate + tolerance >= promised:
            return False
        if "matroska" in name:
            # The last picture may be shown for long, which only the promise knows of.
            with read_position(self._source) as file:
                return not is_whole(file)
        return True


class _Progress:
    """How far a reader came, to tell a complete file from a truncated one."""

    def __init__(self) -> None:
        self.num_packets = 0
        self.num_frames = 0
        self.num_lost = 0
        """Pictures that could not be decoded, and are replaced."""
        self.num_corrupt = 0
        """Pictures that were decoded in spite of an error."""
        self.last_time = 0.0
        self.failure = ""
        """Why reading stopped, with a blank and brackets; empty if nothing did."""
        self.end_times: dict[int, Fraction] = {}

    def note_end(self, packet: Any) -> None:
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            index = packet.stream.index
            self.end_times[index] = max(end, self.end_times.get(index, end))
