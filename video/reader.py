"""Read video files frame by frame, upright, in RGB, with exact time stamps.

One pass, bounded memory: a few decoded frames at a time. A file that ends early never
passes for a complete one: its frames are yielded, then `VideoError` is raised.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Iterator
from types import TracebackType

import av
import numpy as np
from av.error import FFmpegError

from .color import PixelConverter, array_format, bit_depth, decoded_pixels, has_alpha
from .decoding import Decoder
from .fields import check_deinterlace, deinterlaced, deinterlaced_info, field_order
from .frames import VideoFrame
from .info import VideoInfo
from .orientation import display_matrix
from .places import Picture
from .probe import describe, picture_rate
from .source import Source, VideoError
from .turning import upright

logger = logging.getLogger(__name__)

_RANGE_FULL = 2


class VideoReader:
    """Iterate over the frames of a video file, once.

        with VideoReader("clip.mp4") as reader:
            for frame in reader:
                ...

    Any codec and container that PyAV reads. The YUV matrix and range of the stream are
    honoured (unspecified: BT.601 for SD sizes, BT.709 above, as players do).
    """

    info: VideoInfo
    check: Callable[[], None] | None = None
    """Called for each picture that is passed over; may raise to end it."""

    def __init__(self, source: Source, deinterlace: str = "off", vectors: bool = False) -> None:
        """Open the source and decode its first frame.

        Args:
            source: A path, or a binary file object (read through its own position, so that
                several readers can share it).
            deinterlace: One of `fields.DEINTERLACE`; progressive video stays as it is.
            vectors: Whether frames carry what the stream says of their motion (`has_vectors`).

        Raises:
            ValueError: If there is no such way to deinterlace.
            FileNotFoundError: If the path does not exist.
            VideoError: If the source is empty, no video, or has no frame.
        """
        self._deinterlace = check_deinterlace(deinterlace)
        self._decoder = Decoder(source, vectors)
        self.name = self._decoder.name
        try:
            self._open(source)
        except BaseException:
            self._decoder.close()
            raise

    def _open(self, source: Source) -> None:
        decoder = self._decoder
        self._pictures = decoder.pictures()
        picture = next(self._pictures, None)
        if picture is None:
            raise VideoError(f"{self.name}: has no video frame that can be decoded")
        first = picture.frame
        self._size = (first.width, first.height)
        self.matrix = display_matrix(first)
        """How pictures are turned upright."""
        rate = picture_rate(source, decoder.stream, first)
        self.info = describe(decoder.container, decoder.stream, first, rate)
        decoder.info = self.info
        order = field_order(first, decoder.stream.codec_context)
        self.says_fields = order is not None
        """Whether the file says, at its start, that it is interlaced."""
        self.has_vectors = decoder.has_vectors and order is None
        """Whether frames carry `coded`; those of interlaced video do not."""
        if order and self._deinterlace != "off":
            self._pictures = deinterlaced(
                _put_back(picture, self._pictures), self.info, order, self._deinterlace
            )
            self.info = deinterlaced_info(self.info, self._deinterlace)
            picture = next(self._pictures)
        self._pictures = _put_back(picture, self._pictures)
        self._time_base = self.info.time_base
        self._step = max(1, round(1 / (self.info.average_rate * self._time_base)))
        self._converters: dict[str, PixelConverter] = {}
        self._has_late_fields = False
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
        self._pictures.close()
        self._decoder.close()

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
            self._checked()
            if next(self._stamped, None) is None:
                return

    def start_at(self, pts: int) -> None:
        """Pass over the frames before a time stamp; before anything is read."""
        self._start_pts = pts

    def _read(self) -> Generator[VideoFrame]:
        for picture, pts, duration in self._stamped:
            coded = self._decoder.coded(picture) if self.has_vectors else None
            pixels = upright(self._pixels(picture.frame), self.matrix)
            yield VideoFrame(pixels, pts, duration, picture.is_repeat, coded)

    def _pixels(self, frame: av.VideoFrame) -> np.ndarray:
        pix_fmt = frame.format.name
        try:
            if pix_fmt not in self._converters:
                self._converters[pix_fmt] = self._converter(frame)
            return decoded_pixels(frame, pix_fmt, self._converters[pix_fmt])
        except MemoryError as error:
            raise VideoError(
                f"{self.name}: no memory for pictures of {frame.width}x{frame.height} pixels"
            ) from error
        except (FFmpegError, ValueError) as error:
            raise VideoError(
                f"{self.name}: pictures of {frame.width}x{frame.height} {pix_fmt} cannot be "
                f"converted ({error})"
            ) from error

    def _converter(self, frame: av.VideoFrame) -> PixelConverter:
        info, pix_fmt = self.info, frame.format.name
        tags = info.color
        if pix_fmt != info.pix_fmt:
            # Cameras that change their mind change the range as well.
            is_full = pix_fmt.startswith("yuvj") or frame.color_range == _RANGE_FULL
            tags = dataclasses.replace(tags, range=_RANGE_FULL if is_full else 1)
        target = array_format(info.bit_depth, info.has_alpha)
        return PixelConverter(
            frame.width, frame.height, pix_fmt, target, tags, fields=info.fields
        )

    def _stamp(self) -> Generator[tuple[Picture, int, int]]:
        """Yield decoded pictures with time stamp and duration."""
        index, last_pts = 0, None
        for picture, after in _with_next(self._pictures):
            self._check_same_kind(picture.frame, index)
            self._note_fields(picture.frame, index)
            pts = self._pts(picture, last_pts, after)
            if self._start_pts is None or pts >= self._start_pts:
                yield picture, pts, self._duration(picture)
            else:
                self._checked()
            index, last_pts = index + 1, pts

    def _checked(self) -> None:
        if self.check is not None:
            self.check()

    def _check_same_kind(self, frame: av.VideoFrame, index: int) -> None:
        """Refuse what cannot become an array like the first one without loss."""
        info, pix_fmt = self.info, frame.format.name
        if (frame.width, frame.height) == self._size and (
            pix_fmt == info.pix_fmt or _kind(pix_fmt) == _kind(info.pix_fmt)
        ):
            return
        raise VideoError(
            f"{self.name}: changes from {self._size[0]}x{self._size[1]} {info.pix_fmt} to "
            f"{frame.width}x{frame.height} {pix_fmt} at frame {index}; cut the clip there"
        )

    def _note_fields(self, frame: av.VideoFrame, index: int) -> None:
        if frame.interlaced_frame and self.info.fields is None and not self._has_late_fields:
            self._has_late_fields = True
            logger.warning(
                "%s: is interlaced from frame %d on, and not at its start: those frames are "
                "restored whole, and lose their field flags",
                self.name,
                index,
            )

    def _duration(self, picture: Picture) -> int:
        # Where each field has a packet of its own, that one's duration is half a frame.
        is_field = picture.frame.interlaced_frame and picture.duration == self._step // 2
        return self._step if is_field else picture.duration or self._step

    def _pts(self, picture: Picture, last_pts: int | None, after: Picture | None) -> int:
        """Return the picture's time stamp; from the frame rate where it has none of use."""
        following = 0 if last_pts is None else last_pts + self._step
        if picture.pts is None:
            return following
        next_pts = None if after is None else after.pts
        if last_pts is None:
            # A first picture out of line begins a frame before the next.
            is_ahead = next_pts is not None and picture.pts > next_pts
            return max(0, (next_pts or 0) - self._step) if is_ahead else picture.pts
        # One stamp far ahead must not push everything after it there.
        is_ahead = next_pts is not None and picture.pts > next_pts > last_pts
        # Time must move on, whatever the file says.
        return following if is_ahead or picture.pts <= last_pts else picture.pts


def _with_next(pictures: Iterator[Picture]) -> Generator[tuple[Picture, Picture | None]]:
    """Yield each picture with the one after it; an error follows the last of them."""
    held = None
    try:
        for picture in pictures:
            if held is not None:
                yield held, picture
            held = picture
    except VideoError:
        if held is not None:
            yield held, None
        raise
    if held is not None:
        yield held, None


def _put_back(first: Picture, others: Generator[Picture]) -> Generator[Picture]:
    try:
        yield first
        yield from others
    finally:
        others.close()


def _kind(pix_fmt: str) -> tuple[int, bool, bool]:
    return bit_depth(pix_fmt), has_alpha(pix_fmt), bool(av.VideoFormat(pix_fmt).is_rgb)
