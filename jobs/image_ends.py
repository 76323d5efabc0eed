"""Ends of which one or both are images: folders, photos, animations, frames of a video.

Every PNG takes along what the image it was made from says beside its pixels; see
`images.png_chunks`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..images.clips import (
    DEFAULT_FPS,
    FolderClip,
    ImageClip,
    TiffClip,
    WebpClip,
    open_animation,
)
from ..images.facts import image_facts
from ..images.folders import FrameFolder, FrameFolderWriter, encode_png
from ..images.png_chunks import (
    Chunks,
    carried_chunks,
    colour_loss,
    is_plain_profile,
    video_frame_chunks,
    with_chunks,
)
from ..images.reading import read_image
from ..video.atomic import write_file
from ..video.codecs import FORMATS
from ..video.encoder import EncodedFrame
from ..video.fields import check_deinterlace
from ..video.frames import VideoFrame
from ..video.output_lock import output_lock
from ..video.output_place import made_folder
from ..video.reader import VideoReader
from .ends import Ends, VideoEnds, warn_of_frames
from .part_store import file_identity

logger = logging.getLogger(__name__)

_AS_PNG = {"pictures": "png"}


class PngFolderEnds(Ends):
    """An input of several pictures, which becomes a folder of PNG files."""

    source: str | Path

    def _open_writer(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(made_folder(self.output.absolute().parent))
        self._writer = FrameFolderWriter(self.output)
        stack.enter_context(output_lock(self.output))
        self._writer.remove_leftovers()

    @abstractmethod
    def _name(self, index: int) -> str: ...

    @abstractmethod
    def _chunks(self, index: int) -> Chunks: ...

    def _writing(self) -> contextlib.AbstractContextManager[object]:
        return self._writer

    def _write_pixels(self, index: int, pixels: np.ndarray, time: tuple[int, int]) -> None:
        self._write_png(index, encode_png(pixels))

    def _write_encoded(self, index: int, frame: EncodedFrame) -> None:
        self._write_png(index, frame.data)

    def _write_png(self, index: int, png: bytes) -> None:
        self._writer.write_encoded(with_chunks(png, self._chunks(index)), self._name(index))


class FolderEnds(PngFolderEnds):
    """A folder of images, which becomes a folder of PNG files of the same names."""

    def identity(self) -> dict[str, Any]:
        return {"frames": [file_identity(path) for path in self.input_files()], **_AS_PNG}

    def input_files(self) -> list[Path]:
        return _files_of(Path(self.source))

    def _open(self, stack: contextlib.ExitStack) -> None:
        self._folder = FrameFolder(self.source)
        self._folder.check_files()
        self.num_frames = len(self._folder)
        self.size = (self._folder.height, self._folder.width)
        self._warned = False
        self._open_writer(stack)

    def _read(self, start: int) -> Iterator[VideoFrame]:
        return (self._folder[index] for index in range(start, len(self._folder)))

    def _name(self, index: int) -> str:
        return self._folder.names[index]

    def _chunks(self, index: int) -> Chunks:
        path = self._folder.path / self._folder.names[index]
        facts = image_facts(path)
        if (loss := colour_loss(facts)) and not self._warned:
            logger.warning("%s: %s", path, loss)
            self._warned = True
        return carried_chunks(facts)


class ClipToFolderEnds(PngFolderEnds):
    """A video or animation, which becomes a folder of PNG files with numbers for names."""

    def __init__(
        self, source: str | Path, output: str | Path, deinterlace: str = "off"
    ) -> None:
        super().__init__(source, output)
        self._deinterlace = check_deinterlace(deinterlace)

    def identity(self) -> dict[str, Any]:
        identity = {"input": file_identity(self.source), **_AS_PNG}
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
        self._reader.skip(start)
        has_alpha = self._reader.info.has_alpha
        for frame in self._reader:
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
        return _files_of(source) if source.is_dir() else [source]

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


class ImageEnds(Ends):
    """One image, which becomes a PNG file."""

    source: str | Path
    num_frames = 1

    def identity(self) -> dict[str, Any]:
        return {"input": file_identity(self.source), **_AS_PNG}

    def input_files(self) -> list[Path]:
        return [Path(self.source)]

    def _open(self, stack: contextlib.ExitStack) -> None:
        if self.output.is_dir():
            raise ValueError(f"{self.output}: is a folder, name a .png file in it")
        if self.output.suffix.lower() != ".png":
            raise ValueError(f"{self.output}: an image is written as PNG, name the output .png")
        path = Path(self.source)
        self._pixels = read_image(path)
        self.size = self._pixels.shape[:2]
        facts = image_facts(path)
        if loss := colour_loss(facts):
            logger.warning("%s: %s", path, loss)
        self._chunks = carried_chunks(facts)
        stack.enter_context(made_folder(self.output.absolute().parent))
        stack.enter_context(output_lock(self.output))

    def _read(self, start: int) -> Iterator[VideoFrame]:
        return (VideoFrame(pixels, 0, 1) for pixels in [self._pixels][start:])

    def _writing(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def _write_pixels(self, index: int, pixels: np.ndarray, time: tuple[int, int]) -> None:
        write_file(self.output, with_chunks(encode_png(pixels), self._chunks))

    def _write_encoded(self, index: int, frame: EncodedFrame) -> None:
        write_file(self.output, with_chunks(frame.data, self._chunks))


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


def _files_of(source: Path) -> list[Path]:
    folder = FrameFolder(source)
    return [folder.path / name for name in folder.names]


def writes_video(output: Path) -> bool:
    """Tell whether an output's name is that of a video, and no folder has it."""
    return output.suffix.lower() in FORMATS and not output.is_dir()
