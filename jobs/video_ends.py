"""Ends of a video file that becomes a video; see `ends`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..images.clips import ImageClip
from ..video.codec_limits import not_kept
from ..video.codecs import codec_named
from ..video.fields import check_deinterlace
from ..video.frames import EncodedFrame, VideoFrame
from ..video.output_lock import output_lock
from ..video.output_place import made_folder
from ..video.reader import VideoReader
from ..video.source import Source, VideoError
from ..video.writer import VideoWriter
from .ends import Ends
from .part_store import file_identity

logger = logging.getLogger(__name__)


class VideoEnds(Ends):
    """A video file; time stamps, sound and subtitles stay as they are."""

    def __init__(
        self,
        source: Source,
        output: str | Path,
        codec: str = "h264",
        crf: int | None = None,
        audio: str = "copy",
        deinterlace: str = "off",
    ) -> None:
        """Name the files.

        Args:
            source: Path or binary file object.
            output: Target, replaced when complete.
            codec: One of `video.codecs.CODECS`.
            crf: Quality of h264 and h265; None: nearly lossless.
            audio: What to do with sound: see `VideoWriter`.
            deinterlace: What to do with interlaced video: see `VideoReader`.
        """
        super().__init__(source, output)
        self._codec, self._crf, self._audio = codec, crf, audio
        self._deinterlace = check_deinterlace(deinterlace)

    def identity(self) -> dict[str, Any]:
        identity = {"input": file_identity(self.source), "pictures": repr(self.pictures)}
        return {**identity, "deinterlace": self._deinterlace}

    def input_files(self) -> list[Path]:
        assert isinstance(self.source, str | Path)
        return [Path(self.source)]

    def _open(self, stack: contextlib.ExitStack) -> None:
        self._reader = stack.enter_context(self._open_reader())
        info = self._reader.info
        self.num_frames, self.size = info.num_frames, (info.height, info.width)
        stack.enter_context(made_folder(self.output.parent))
        self._writer = self._checked_writer()
        self.pictures = self._writer.pictures
        stack.enter_context(output_lock(self.output))
        self._writer.remove_leftovers(self.source)

    def _open_reader(self) -> VideoReader | ImageClip:
        return VideoReader(self.source, self._deinterlace)

    def _checked_writer(self) -> VideoWriter:
        """Return a writer that keeps all that the codec can keep."""
        info = self._reader.info
        alpha = info.has_alpha and codec_named(self._codec).alpha
        warn_of_frames(self._reader, self._deinterlace)
        for line in not_kept(info, self._codec):
            logger.warning("%s: %s", self._reader.name, line)
        return VideoWriter.like(
            self.output,
            dataclasses.replace(info, has_alpha=alpha),
            codec=self._codec,
            crf=self._crf,
            audio_from=self._sound_source(),
            audio=self._audio,
        )

    def _sound_source(self) -> Source | None:
        """Return the file whose sound is copied."""
        return self.source

    def _read(self, start: int) -> Iterator[VideoFrame]:
        for frame in frames_from(self._reader, start, self._raise_if_closing):
            if not self._writer.pictures.has_alpha:
                frame = dataclasses.replace(frame, pixels=frame.pixels[..., :3])
            yield frame
            del frame

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._writer:
            yield
            if self.ended_early is not None:
                self._writer.end_early()

    def _write_pixels(self, index: int, pixels: np.ndarray, time: tuple[int, int]) -> None:
        self._writer.write(pixels, *time)

    def _write_encoded(self, index: int, frame: EncodedFrame) -> None:
        self._writer.write_encoded(frame)

    def _damage(self) -> VideoError | None:
        return self.ended_early or self._writer.sound_error


def frames_from(
    reader: VideoReader | ImageClip, start: int, check: Callable[[], None]
) -> Iterator[VideoFrame]:
    """Yield the frames of a clip from one on.

    Args:
        reader: The clip, of which nothing was read yet.
        start: Frames to pass over.
        check: Called while they are passed over, which takes long; may raise to end it.
    """
    if isinstance(reader, VideoReader):
        reader.check = check
    # Frames before are decoded and dropped: no other way leads to a frame in every file.
    reader.skip(start)
    yield from reader


def warn_of_frames(reader: VideoReader | ImageClip, deinterlace: str) -> None:
    """Say so where a clip was to be deinterlaced, and does not say that it is interlaced."""
    is_interlaced = isinstance(reader, VideoReader) and reader.says_fields
    if deinterlace != "off" and not is_interlaced:
        logger.warning(
            "%s: does not say that it is interlaced, --deinterlace %s leaves its frames as "
            "they are",
            reader.name,
            deinterlace,
        )
