"""A video file from one time to another, with the sound of that time."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from ..video.frames import VideoFrame
from ..video.reader import VideoReader
from ..video.source import Source, VideoError, open_input, source_name
from ..video.timestamps import JoinedClock
from .video_ends import VideoEnds

logger = logging.getLogger(__name__)

_SOUND_FORMATS = ("nut", "matroska")
"""libav's names of files that hold sound of any codec; the first one keeps times exactly."""
_PACKETS_BETWEEN_CHECKS = 500
"""Of a movie there are millions, read within seconds."""


class WindowEnds(VideoEnds):
    """The frames of a video file that start within a window of time; they start the output.

    Frames are counted as ComfyUI counts them after its Trim Video: both times are cut to the
    stream's time base, the first one is inside, the last one is not. Of files that count from
    anywhere, such as transport streams, time 0 is where they begin (`video.timestamps`).
    """

    def __init__(
        self,
        source: Source,
        output: str | Path,
        codec: str = "h264",
        crf: int | None = None,
        *,
        start_s: float,
        duration_s: float = 0.0,
    ) -> None:
        """Name the files.

        Args:
            source: As for `VideoEnds`, and so are the next three.
            output: See there.
            codec: See there.
            crf: See there.
            start_s: Where the window starts, in seconds of the file, at least 0.
            duration_s: How long it is; 0: up to the end.
        """
        super().__init__(source, output, codec, crf)
        self._start_s, self._duration_s = start_s, duration_s
        self._sound: Path | None = None

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "window": [self._start_s, self._duration_s]}

    def _open(self, stack: contextlib.ExitStack) -> None:
        with VideoReader(self.source) as reader:
            reader.check = self.check
            first = self._first_frame(reader)
            self._origin = first.pts
            time_base = reader.info.time_base
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="video_deblur_")))
        stop_s = Fraction(self._start_s + self._duration_s) if self._duration_s else None
        start_s = self._origin * time_base
        self._sound = copy_sound(self.source, folder, start_s, stop_s, self.check)
        super()._open(stack)
        self.num_frames = self._estimated_frames()

    def _open_reader(self) -> VideoReader:
        self._video = VideoReader(self.source)
        return self._video

    def _first_frame(self, reader: VideoReader) -> VideoFrame:
        reader.start_at(self._ticks(reader, self._start_s))
        first = next(reader, None)
        if first is None or self._is_after(reader, first.pts):
            duration = reader.info.duration
            known = "" if duration is None else f", it is {float(duration):.3f} s long"
            until = (
                f"{self._start_s + self._duration_s:.3f} s" if self._duration_s else "its end"
            )
            raise VideoError(
                f"{reader.name}: has no frame from {self._start_s:.3f} s to {until}{known}"
            )
        return first

    def _read(self, start: int) -> Iterator[VideoFrame]:
        self._video.start_at(self._ticks(self._video, self._start_s))
        for frame in super()._read(start):
            if self._is_after(self._video, frame.pts):
                return
            yield dataclasses.replace(
                frame, pts=frame.pts - self._origin, duration=self._shown(frame)
            )

    def _shown(self, frame: VideoFrame) -> int:
        """Return for how long: a still picture no longer than the window."""
        if not self._duration_s:
            return frame.duration
        left = self._stop_ticks(self._video) - frame.pts
        # At a constant rate the last frame is as long as the others.
        return min(frame.duration, max(left, self._writer.pictures.step))

    def _sound_source(self) -> Source | None:
        return self._sound

    def _is_after(self, reader: VideoReader, pts: int) -> bool:
        return bool(self._duration_s) and pts >= self._stop_ticks(reader)

    def _stop_ticks(self, reader: VideoReader) -> int:
        return self._ticks(reader, self._start_s + self._duration_s)

    def _ticks(self, reader: VideoReader, seconds: float) -> int:
        return int(seconds / reader.info.time_base)

    def _estimated_frames(self) -> int | None:
        info = self._video.info
        seconds = [self._duration_s] if self._duration_s else []
        if info.duration is not None:
            seconds.append(float(info.duration) - self._start_s)
        return max(1, round(min(seconds) * info.average_rate)) if seconds else None


def copy_sound(
    source: Source,
    folder: Path,
    start_s: Fraction,
    stop_s: Fraction | None,
    check: Callable[[], None] | None = None,
) -> Path | None:
    """Copy the sound of a window of time into a file that begins with it.

    Packets are copied whole: those that start within the window. Sound that cannot be copied
    is left out from there on, with a warning.

    Args:
        source: Path or binary file object.
        folder: Where to write.
        start_s: Start of the window, in seconds; time 0 of the copy.
        stop_s: End of the window; None: the end of the file.
        check: Called now and then; may raise to cancel.

    Returns:
        The copy; None if there is no sound that can be copied.
    """
    problem: Exception | None = None
    for name in _SOUND_FORMATS:
        path = folder / f"sound.{name}"
        try:
            done = _copy_packets(source, path, name, start_s, stop_s, check)
            return path if done else None
        except (FFmpegError, ValueError) as error:
            problem = error
    logger.warning("%s: its sound is left out (%s)", source_name(source), problem)
    return None


def _copy_packets(
    source: Source,
    path: Path,
    name: str,
    start_s: Fraction,
    stop_s: Fraction | None,
    check: Callable[[], None] | None,
) -> bool:
    with open_input(source) as container, av.open(str(path), "w", format=name) as output:
        # Of a stream that libav cannot decode it cannot say what is in it either.
        streams = [s for s in container.streams.audio if s.codec_context is not None]
        copies = {s.index: output.add_stream_from_template(s) for s in streams}
        for stream in streams:
            copies[stream.index].metadata.update(stream.metadata)
        if not streams:
            return False
        last: dict[int, int] = {}
        ended: set[int] = set()
        clock = JoinedClock(container)
        for number, packet in enumerate(container.demux()):
            if check is not None and number % _PACKETS_BETWEEN_CHECKS == 0:
                check()
            clock.correct(packet)
            if packet.stream.index not in copies or not packet.size:
                continue
            if packet.dts is None or packet.pts is None:
                continue
            index, time = packet.stream.index, packet.pts * packet.time_base
            if stop_s is not None and time >= stop_s:
                ended.add(index)
                if len(ended) == len(streams):
                    break
                continue
            if time < start_s:
                continue
            offset = round(start_s / packet.time_base)
            # Files that were joined jump back.
            packet.dts = max(packet.dts - offset, last.get(index, -1) + 1)
            packet.pts = max(packet.pts - offset, packet.dts)
            last[index] = packet.dts
            packet.stream = copies[index]
            output.mux(packet)
    return bool(last)
