"""Ends of which both are images: folders and photos. See `clip_ends` for the others.

Every PNG takes along what the image it was made from says beside its pixels; see
`images.png_chunks`.
"""

from __future__ import annotations

import contextlib
import logging
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..images.facts import image_facts
from ..images.folders import FrameFolder, FrameFolderWriter, encode_png
from ..images.png_chunks import Chunks, carried_chunks, colour_loss, with_chunks
from ..images.reading import read_image
from ..video.atomic import write_file
from ..video.codecs import FORMATS
from ..video.frames import EncodedFrame, VideoFrame
from ..video.output_lock import output_lock
from ..video.output_place import made_folder
from .ends import Ends
from .part_store import file_identity

logger = logging.getLogger(__name__)

AS_PNG = {"pictures": "png"}
"""The format of the output, in its identity."""


class PngFolderEnds(Ends):
    """An input of several pictures, which becomes a folder of PNG files."""

    source: str | Path

    def _open_writer(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(made_folder(self.output.absolute().parent))
        self._writer = FrameFolderWriter(self.output)
        stack.enter_context(output_lock(self.output))
        self._writer.remove_leftovers(self.source)

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
        return {"frames": [file_identity(path) for path in self.input_files()], **AS_PNG}

    def input_files(self) -> list[Path]:
        return files_of(Path(self.source))

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


class ImageEnds(Ends):
    """One image, which becomes a PNG file."""

    source: str | Path
    num_frames = 1

    def identity(self) -> dict[str, Any]:
        return {"input": file_identity(self.source), **AS_PNG}

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


def files_of(source: Path) -> list[Path]:
    """Return the images of a folder."""
    folder = FrameFolder(source)
    return [folder.path / name for name in folder.names]


def writes_video(output: Path) -> bool:
    """Tell whether an output's name is that of a video, and no folder has it."""
    return output.suffix.lower() in FORMATS and not output.is_dir()
