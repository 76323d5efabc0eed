"""Read video files frame by frame, upright, in RGB, with exact time stamps.

One pass, bounded memory: a few decoded frames at a time. A file that ends early never
passes for a complete one: its frames are yielded, then `VideoError` is raised.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType

import av

from .color import PixelConverter, array_format, decoded_pixels
from .decoding import Decoder
from .frames import VideoFrame
from .info import VideoInfo
from .orientation import display_matrix, upright
from .probe import describe, video_stream
from .source import Source, VideoError, ends_inside_a_box, open_input, source_name


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
        stream = video_stream(self._container, self.name)
        stream.thread_type = "AUTO"
        self._decoder = Decoder(self._container, stream, self.name, self._cut_short)
        self._decoded = self._decoder.frames()
        first = next(self._decoded, None)
        if first is None:
            raise VideoError(f"{self.name}: has no video frame that can be decoded")
        self._first: av.VideoFrame | None = first
        self._size = (first.width, first.height, first.format.name)
        self._matrix = display_matrix(first)
        self.info = self._decoder.info = describe(self._container, stream, first)
        self._time_base = self.info.time_base
        self._step = max(1, round(1 / (self.info.average_rate * self._time_base)))
        self._converter = PixelConverter(
            first.width,
            first.height,
            first.format.name,
            array_format(self.info.bit_depth, self.info.has_alpha),
            self.info.color,
        )
        self._start_pts: int | None = None
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

    def start_at(self, pts: int) -> None:
        """Pass over the frames before a time stamp; before anything is read."""
        self._start_pts = pts

    def _read(self) -> Generator[VideoFrame]:
        for frame, pts, duration in self._stamped:
            pixels = decoded_pixels(frame, self.info.pix_fmt, self._converter)
            yield VideoFrame(upright(pixels, self._matrix), pts, duration)

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
            duration = self._decoder.durations.pop(pts, 0) or self._step
            if self._start_pts is None or pts >= self._start_pts:
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
