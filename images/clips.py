"""Pictures in image files as clips: folders, pages of a TIFF, frames of an animated WebP.

Each reads like a `VideoReader`: information first, then the frames, once.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from ..video.color_tags import ColorTags
from ..video.frames import VideoFrame
from ..video.info import VideoInfo
from ..video.reader import VideoReader
from .facts import ImageFacts
from .folders import FrameFolder
from .reading import decode_image
from .tiff import HEIGHT, WIDTH, Tiff
from .webp import WebpAnimation

DEFAULT_FPS = Fraction(25)

Clip = TypeVar("Clip", bound="ImageClip")


class ImageClip(ABC):
    """A clip of images; reads like a `VideoReader`."""

    info: VideoInfo
    name: str

    def __init__(self) -> None:
        self._next = 0
        self._frames: Generator[VideoFrame] | None = None

    def __enter__(self: Clip) -> Clip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read no more."""
        if self._frames is not None:
            self._frames.close()

    def skip(self, count: int) -> None:
        """Pass over frames before the first is read."""
        self._next += count

    def __iter__(self) -> Iterator[VideoFrame]:
        return self

    def __next__(self) -> VideoFrame:
        """Return the next frame.

        Raises:
            ValueError: If it cannot be read.
        """
        if self._frames is None:
            self._frames = self._from(self._next)
        return next(self._frames)

    @abstractmethod
    def _from(self, start: int) -> Generator[VideoFrame]: ...


class FolderClip(ImageClip):
    """A folder of images at a steady rate."""

    def __init__(self, folder: FrameFolder, fps: Fraction) -> None:
        super().__init__()
        self.name = str(folder.path)
        self._folder, self._fps = folder, fps
        self.info = _info(
            (folder.height, folder.width, 4 if folder.has_alpha else 3),
            folder.bit_depth,
            fps,
            len(folder),
        )

    def _from(self, start: int) -> Generator[VideoFrame]:
        for index in range(start, len(self._folder)):
            yield _at(self._folder[index].pixels, index, self._fps)


class TiffClip(ImageClip):
    """The pages of a TIFF file at a steady rate."""

    def __init__(self, path: Path, facts: ImageFacts, fps: Fraction) -> None:
        """Read the file and its first page.

        Raises:
            ValueError: If it is damaged, or the pages differ in size.
        """
        super().__init__()
        self.name, self._path, self._fps = str(path), path, fps
        self._data = bytearray(path.read_bytes())
        self._tiff = tiff = Tiff(self._data)
        self._pages: list[tuple[int, ImageFacts]] = []
        for start, entries in tiff.pages():
            width, height = (tiff.number(entries.get(tag)) for tag in (WIDTH, HEIGHT))
            if (width, height) != (facts.width, facts.height):
                raise ValueError(
                    f"{path}: page {len(self._pages) + 1} is {width}x{height}, but the first "
                    f"is {facts.width}x{facts.height}; only pages of one size are a clip"
                )
            turned = dataclasses.replace(facts, orientation=tiff.orientation(entries))
            self._pages.append((start, turned))
        first = self._page(0)
        self._kind = (first.shape, first.dtype)
        self.info = _info(first.shape, 8 * first.dtype.itemsize, fps, len(self._pages))

    def _from(self, start: int) -> Generator[VideoFrame]:
        for index in range(start, len(self._pages)):
            yield _at(self._page(index), index, self._fps)

    def _page(self, index: int) -> np.ndarray:
        start, facts = self._pages[index]
        # Decoders read the page that the header points to.
        self._tiff.point_to(self._data, start)
        pixels = decode_image(self._path, self._data, facts)
        if index and (pixels.shape, pixels.dtype) != self._kind:
            raise ValueError(
                f"{self._path}: page {index + 1} is of another kind than the first"
            )
        return pixels


class WebpClip(ImageClip):
    """The frames of an animated WebP file, with their durations."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = str(path)
        self._animation = animation = WebpAnimation(path)
        rate = Fraction(1000 * len(animation.durations_ms), sum(animation.durations_ms))
        shape = (animation.height, animation.width, 4)
        info = _info(shape, 8, rate, len(animation.durations_ms))
        self.info = dataclasses.replace(
            info,
            time_base=Fraction(1, 1000),
            has_alpha=animation.has_alpha and _shows_through(animation.frames()),
        )

    def _from(self, start: int) -> Generator[VideoFrame]:
        pts = 0
        for index, pixels in enumerate(self._animation.frames()):
            duration = self._animation.durations_ms[index]
            if index >= start:
                kept = pixels if self.info.has_alpha else pixels[..., :3]
                yield VideoFrame(np.ascontiguousarray(kept), pts, duration)
            pts += duration


def open_animation(path: Path) -> VideoReader:
    """Open a GIF or APNG, whose pixels nearly always have transparency that none uses."""
    reader = VideoReader(path)
    if reader.info.has_alpha:
        with VideoReader(path) as other:
            used = _shows_through(frame.pixels for frame in other)
        reader.info = dataclasses.replace(reader.info, has_alpha=used)
    return reader


def _shows_through(frames: Iterator[np.ndarray]) -> bool:
    return any(int(pixels[..., 3].min()) < np.iinfo(pixels.dtype).max for pixels in frames)


def _at(pixels: np.ndarray, index: int, fps: Fraction) -> VideoFrame:
    return VideoFrame(pixels, index * fps.denominator, fps.denominator)


def _info(shape: tuple[int, ...], depth: int, fps: Fraction, num_frames: int) -> VideoInfo:
    height, width, channels = shape
    pix_fmt = "rgba" if channels == 4 else "rgb24"
    return VideoInfo(
        width=width,
        height=height,
        average_rate=fps,
        time_base=Fraction(1, fps.numerator),
        num_frames=num_frames,
        duration=num_frames / fps,
        rotation=0,
        codec="images",
        pix_fmt=pix_fmt,
        bit_depth=depth,
        has_alpha=channels == 4,
        color=ColorTags().decided(width, height, pix_fmt),
        sample_aspect_ratio=Fraction(1),
        audio_codecs=(),
    )
