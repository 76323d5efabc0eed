"""Ends between images and clips: a video or animation to PNGs, a folder of them to a video.

See `image_ends` for those that are images on both sides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..images.clips import (
    DEFAULT_FPS,
    FolderClip,
    ImageClip,
    TiffClip,
    WebpClip,
    open_animation,
)
from ..images.facts import image_facts
from ..images.folders import FrameFolder
from ..images.png_chunks import Chunks, carried_chunks, is_plain_profile, video_frame_chunks
from ..video.fields import check_deinterlace
from ..video.frames import VideoFrame
from ..video.reader import VideoReader
from .image_ends import AS_PNG, PngFolderEnds, files_of
from .part_store import file_identity
from .video_ends import VideoEnds, frames_from, warn_of_frames

logger = logging.getLogger(__name__)


class ClipToFolderEnds(PngFolderEnds):
    """A video or animation, which becomes a folder of PNG files with numbers for names."""

    def __init__(
        self, source: str | Path, output: str | Path, deinterlace: str = "off"
    ) -> None:
        super().__init__(source, output)
        self._deinterlace = check_deinterlace(deinterlace)

    def identity(self) -> dict[str, Any]:
        identity = {"input": file_identity(self.source), **AS_PNG}
        return {**identity, "deinterlace": self._deinterlace}

    def input_files(self) -> list[Path]:
        return [Path(self.source)]

    def _open(self, stack: contextlib.ExitStack) -> None:
        self._reader = stack.enter_context(open_clip(Path(self.source), self._deinterlace))
        info = self._reader.info
        self.num_frames, self.size = info.num_frames, (info.height, info.width)
        if isinstance(self._reader, ImageClip):
            self._every_chunk = carried_chunks(image_facts(Path(self.source)))
        else:
            self._every_chunk = video_frame_chunks(info.color, info.sample_aspect_ratio)
        warn_of_frames(self._reader, self._deinterlace)
        if not info.color.has_known_matrix:
            logger.warning(
                "%s: its colours will be wrong: pictures are RGB, which cannot be made of the "
                "colour matrix %d (YCgCo, ICtCp and the like)",
                self.source,
                info.color.space,
            )
        self._open_writer(stack)
        if info.audio_codecs:
            logger.warning("%s: its sound is left out, the output is a folder", self.source)

    def _read(self, start: int) -> Iterator[VideoFrame]:
        has_alpha = self._reader.info.has_alpha
        for frame in frames_from(self._reader, start, self._raise_if_closing):
            kept = frame.pixels if has_alpha else frame.pixels[..., :3]
            yield dataclasses.replace(frame, pixels=kept)
            del frame, kept

    def _name(self, index: int) -> str:
        return f"frame_{index + 1:06d}.png"

    def _chunks(self, index: int) -> Chunks:
        return self._every_chunk


class ClipToVideoEnds(VideoEnds):
    """A folder of images or an animation, which becomes a video without sound."""

    source: str | Path

    def __init__(
        self,
        source: str | Path,
        output: str | Path,
        codec: str = "h264",
        crf: int | None = None,
        *,
        fps: Fraction | None = None,
    ) -> None:
        """Name the files; as `VideoEnds`.

        Args:
            source: Folder, or image file that holds several pictures.
            output: Video file.
            codec: One of `video.codecs.CODECS`.
            crf: Quality of h264 and h265; None: nearly lossless.
            fps: Frames per second of what has no times; None: 25, with a warning.
        """
        super().__init__(source, output, codec, crf)
        self._fps = fps

    def identity(self) -> dict[str, Any]:
        frames = [file_identity(path) for path in self.input_files()]
        return {"frames": frames, "pictures": repr(self.pictures)}

    def input_files(self) -> list[Path]:
        source = Path(self.source)
        return files_of(source) if source.is_dir() else [source]

    def _open_reader(self) -> VideoReader | ImageClip:
        files = self.input_files()
        facts = image_facts(files[0])
        if facts is not None and not is_plain_profile(facts.icc):
            logger.warning(
                "%s: its colour profile is left out, a video has none; colours may differ, and "
                "a folder of PNGs as output keeps it",
                files[0],
            )
        has_times = facts is not None and facts.kind != "TIFF" and facts.num_pictures > 1
        if self._fps is None and not has_times:
            logger.warning(
                "%s: has no times, taken as %s frames per second; --fps says otherwise",
                *(self.source, DEFAULT_FPS),
            )
        return open_clip(Path(self.source), fps=self._fps or DEFAULT_FPS)

    def _sound_source(self) -> None:
        return None


def open_clip(
    source: Path, deinterlace: str = "off", *, fps: Fraction = DEFAULT_FPS
) -> VideoReader | ImageClip:
    """Open what holds several pictures: a folder, an animation, a video.

    Args:
        source: The file or folder.
        deinterlace: What becomes of the fields of a video: see `VideoReader`.
        fps: Frames per second where it has no times.

    Raises:
        FileNotFoundError, ValueError: If it cannot be read, or its pictures differ in size.
    """
    if source.is_dir():
        folder = FrameFolder(source)
        folder.check_files()
        return FolderClip(folder, fps)
    facts = image_facts(source)
    if facts is not None and facts.kind == "TIFF":
        return TiffClip(source, facts, fps)
    if facts is not None and facts.kind == "WebP":
        return WebpClip(source)
    if facts is not None and facts.kind in ("GIF", "PNG"):
        return open_animation(source)
    return VideoReader(source, deinterlace)
