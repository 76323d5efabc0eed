"""Read video files frame by frame, upright, in RGB, with exact time stamps.

One pass, bounded memory: a few decoded frames at a time. A file that ends early never
passes for a complete one: its frames are yielded, then `VideoError` is raised.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from .color import ColorTags, PixelConverter, array_format, bit_depth, decoded_pixels, has_alpha
from .frames import VideoFrame
from .info import VideoInfo
from .source import Source, VideoError, ends_inside_a_box, open_input, source_name

_DEFAULT_RATE = Fraction(25)


class VideoReader:
    """Iterate over the frames of a video file, once.

        with VideoReader("clip.mp4") as reader:
            for frame in reader:
                ...

    Any codec and container that PyAV reads. The YUV matrix and range of the stream are
    honoured (unspecified: BT.601 for SD sizes, BT.709 above, as players do).
    """

    info: VideoInfo

    def __init__(self, source: Source) -> None:
        """Open the source and decode its first frame.

        Args:
            source: A path, or a binary file object (read through its own position, so that
                several readers can share it).

        Raises:
            FileNotFoundError: If the path does not exist.
            VideoError: If the source is empty, no video, or has no frame.
        """
        self.name = source_name(source)
        self._container = open_input(source)
        is_mp4 = "mp4" in self._container.format.name
        self._cut_short = is_mp4 and ends_inside_a_box(source)
        try:
            self._open()
        except BaseException:
            self._container.close()
            raise

    def _open(self) -> None:
        self._stream = _video_stream(self._container, self.name)
        self._stream.thread_type = "AUTO"
        self._rate = _average_rate(self._stream)
        self._time_base = self._stream.time_base or 1 / self._rate
        self._step = max(1, round(1 / (self._rate * self._time_base)))
        self._durations: dict[int, int] = {}
        self._progress = _Progress()
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise VideoError(f"{self.name}: has no video frame that can be decoded")
        self._first: av.VideoFrame | None = first
        self._size = (first.width, first.height, first.format.name)
        self._matrix = _display_matrix(first)
        self.info = self._describe(first)
        self._converter = PixelConverter(
            first.width,
            first.height,
            first.format.name,
            array_format(self.info.bit_depth, self.info.has_alpha),
            self.info.color,
        )
        self._stamped = self._stamp()
        self._frames = self._read()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; no frame can be read afterwards."""
        self._frames.close()
        self._stamped.close()
        self._decoded.close()
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        return self

    def __next__(self) -> VideoFrame:
        """Return the next frame.

        Raises:
            VideoError: If the file is damaged or ends early, after the last good frame.
        """
        return next(self._frames)

    def skip(self, count: int) -> None:
        """Pass over frames, decoded but not converted: several times as fast as reading them.

        Raises:
            VideoError: If the file is damaged or ends early.
        """
        for _ in range(count):
            if next(self._stamped, None) is None:
                return

    def _describe(self, first: av.VideoFrame) -> VideoInfo:
        context = self._stream.codec_context
        pix_fmt = first.format.name
        turned = _swaps_axes(self._matrix)
        aspect = context.sample_aspect_ratio or Fraction(1)
        duration = _duration(self._container, self._stream)
        estimate = round(duration * self._rate) if duration else None
        return VideoInfo(
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            average_rate=self._rate,
            time_base=self._time_base,
            num_frames=_num_frames(self._stream.frames, estimate),
            duration=duration,
            rotation=_rotation(self._matrix),
            codec=context.name,
            pix_fmt=pix_fmt,
            bit_depth=bit_depth(pix_fmt),
            has_alpha=has_alpha(pix_fmt),
            color=ColorTags(
                space=int(context.colorspace),
                range=int(context.color_range),
                primaries=int(context.color_primaries),
                transfer=int(context.color_trc),
            ),
            sample_aspect_ratio=1 / aspect if turned else aspect,
            audio_codecs=tuple(s.codec_context.name for s in self._container.streams.audio),
        )

    def _read(self) -> Generator[VideoFrame]:
        for frame, pts, duration in self._stamped:
            pixels = decoded_pixels(frame, self.info.pix_fmt, self._converter)
            yield VideoFrame(_upright(pixels, self._matrix), pts, duration)

    def _stamp(self) -> Generator[tuple[av.VideoFrame, int, int]]:
        """Yield decoded pictures with time stamp and duration."""
        index, last_pts = 0, None
        while True:
            frame, self._first = self._first, None
            frame = frame or next(self._decoded, None)
            if frame is None:
                return
            self._check_same_kind(frame, index)
            pts = self._pts(frame, last_pts)
            duration = self._durations.pop(pts, 0) or self._step
            yield frame, pts, duration
            index, last_pts = index + 1, pts

    def _check_same_kind(self, frame: av.VideoFrame, index: int) -> None:
        found = (frame.width, frame.height, frame.format.name)
        if found != self._size:
            raise VideoError(
                f"{self.name}: changes from {'x'.join(map(str, self._size[:2]))} "
                f"{self._size[2]} to {found[0]}x{found[1]} {found[2]} at frame {index}; "
                "cut the clip there"
            )

    def _pts(self, frame: av.VideoFrame, last_pts: int | None) -> int:
        """Return the frame's time stamp; from the frame rate where it has none."""
        following = 0 if last_pts is None else last_pts + self._step
        if frame.pts is None:
            return following
        # PyAV 14 leaves the time base of the decoder's last frames unset.
        unit = frame.time_base or self._time_base
        pts = (
            frame.pts if unit == self._time_base else round(frame.pts * unit / self._time_base)
        )
        # Time must move on: concatenated recordings jump back.
        return pts if last_pts is None or pts > last_pts else following

    def _decode(self) -> Generator[av.VideoFrame]:
        """Yield decoded pictures, then raise if the file ended early."""
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
            expected = f" of {self.info.num_frames}" if self.info.num_frames else ""
            raise VideoError(
                f"{self.name}: stops after frame {progress.num_frames}{expected} "
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
                    self._durations[packet.pts] = packet.duration
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
            promised, tolerance = _tagged_duration(stream), Fraction(1, 50)
            if promised is None:
                promised = _duration(self._container, None)
                reached = max(progress.end_times.values(), default=reached)
        elif "mp4" in name or name in ("avi", "flv", "asf"):
            promised, tolerance = _duration(self._container, stream), Fraction(1, 2)
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


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    for stream in container.streams.video:
        # The cover picture of a song is a video stream of one frame.
        if not stream.disposition & Disposition.attached_pic:
            return stream
    found = ", ".join(stream.type for stream in container.streams) or "nothing"
    raise VideoError(f"{name}: has no video stream (found: {found})")


def _average_rate(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE


def _num_frames(counted: int, estimate: int | None) -> int | None:
    # The count includes what an edit list cuts away; the duration does not.
    if estimate and counted > 1 + 1.02 * estimate:
        return estimate
    return counted or estimate or None


def _duration(container: InputContainer, stream: VideoStream | None) -> Fraction | None:
    """Return the seconds of the stream, or of the whole container."""
    if stream is not None:
        if stream.duration and stream.time_base:
            return stream.duration * stream.time_base
        tagged = _tagged_duration(stream)
        if tagged is not None:
            return tagged
    return Fraction(container.duration, av.time_base) if container.duration else None


def _tagged_duration(stream: VideoStream) -> Fraction | None:
    """Return Matroska's per-stream duration tag ("00:01:02.500000000"), in seconds."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Return the signs (a, b, c, d) of x' = a x + c y, y' = b x + d y."""
    try:
        data = cast(Any, frame.side_data)["DISPLAYMATRIX"]  # the stubs know fewer kinds
    except KeyError:
        return (1, 0, 0, 1)
    a, b, _, c, d = np.sign(np.frombuffer(bytes(data), dtype="<i4"))[:5].tolist()
    if a and d:
        return (a, 0, 0, d)
    return (0, b, c, 0) if b and c else (1, 0, 0, 1)


def _swaps_axes(matrix: tuple[int, int, int, int]) -> bool:
    return matrix[0] == 0


def _rotation(matrix: tuple[int, int, int, int]) -> int:
    """Return degrees clockwise; a mirrored picture counts as its rotation alone."""
    a, b, _, d = matrix
    if _swaps_axes(matrix):
        return 90 if b > 0 else 270
    return 180 if a < 0 and d < 0 else 0


def _upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Turn and mirror `[H, W, C]` as the display matrix says."""
    a, b, c, d = matrix
    if _swaps_axes(matrix):
        return np.ascontiguousarray(np.swapaxes(pixels, 0, 1)[::b, ::c])
    return np.ascontiguousarray(pixels[::d, ::a])
