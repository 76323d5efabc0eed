"""Read a folder of images as a clip, and write one as PNG files of the same names."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import cv2
import numpy as np

from ..video.atomic import replacing
from ..video.frames import VideoFrame
from ..video.hidden_names import hidden_sibling, leftovers
from ..video.output_place import unwritable
from .facts import image_facts
from .reading import read_image

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".heic", ".heif", ".avif"),
)
"""What counts as a frame in a folder; other files are ignored."""


def is_frame(file: Path) -> bool:
    """Tell whether what lies in a folder counts as a frame of it."""
    # macOS leaves "._name" beside every file it copies.
    is_named_so = file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    return is_named_so and file.is_file()


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts "frame2" before "frame10"."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


class FrameFolder:
    """A folder of images as a clip, in natural order of the names.

    Iterating yields `VideoFrame`s whose `pts` is the index, as often as asked. Pixels are
    RGB, or RGBA where the file has alpha; grey is spread to RGB; 16-bit files stay uint16.
    """

    def __init__(self, path: str | Path) -> None:
        """List the images and read the first.

        Raises:
            FileNotFoundError: If the folder does not exist.
            ValueError: If it holds no image, an unreadable first one, or two of one name.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder")
        names = [file.name for file in self.path.iterdir() if is_frame(file)]
        # By the name itself where numbers are alike, as "f1" and "f01" are: no two file systems
        # list files in one order.
        self.names = sorted(names, key=lambda name: (natural_key(name), name))
        """File names in order of time."""
        if not self.names:
            raise ValueError(f"{path}: holds no image ({', '.join(SUFFIXES)})")
        _refuse_same_stems(self.path, self.names)
        first = read_image(self.path / self.names[0])
        self._kind = (first.shape, first.dtype)
        self.height, self.width = first.shape[:2]
        self.has_alpha = first.shape[2] == 4
        self.bit_depth = 8 * first.dtype.itemsize

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> VideoFrame:
        """Read one frame.

        Raises:
            ValueError: If it cannot be read, or differs in size, channels or depth from
                the first.
        """
        name = self.names[index]
        pixels = read_image(self.path / name)
        if (pixels.shape, pixels.dtype) != self._kind:
            self._refuse(name, pixels.shape, 8 * pixels.dtype.itemsize)
        return VideoFrame(pixels, index % len(self.names), 1)

    def check_files(self) -> None:
        """Look at the headers of all files, which takes a moment for thousands.

        Raises:
            ValueError: If one is damaged, as far as its headers tell, holds several pictures,
                or differs from the first.
        """
        (height, width, channels), dtype = self._kind
        depth = 8 * dtype.itemsize
        for name in self.names:
            path = self.path / name
            facts = image_facts(path, in_haste=True)
            if facts is not None and facts.shown_size != (height, width):
                # What turns a PNG may lie behind its picture.
                facts = image_facts(path)
            if facts is None:
                continue
            if facts.num_pictures > 1:
                raise ValueError(
                    f"{path}: holds {facts.num_pictures} pictures, expected one in each file "
                    "of a folder; restore it by itself, as a clip"
                )
            found = facts.shown_size
            shape = (*found, facts.channels or channels)
            if (shape, facts.depth or depth) != ((height, width, channels), depth):
                self._refuse(name, shape, facts.depth or depth)

    def _refuse(self, name: str, shape: tuple[int, ...], depth: int) -> NoReturn:
        first, dtype = self._kind
        raise ValueError(
            f"{self.path / name}: is {_describe(shape, depth)}, but {self.names[0]} is "
            f"{_describe(first, 8 * dtype.itemsize)}; all frames must be alike"
        )

    def __iter__(self) -> Iterator[VideoFrame]:
        return (self[index] for index in range(len(self)))


class FrameFolderWriter:
    """Write frames as PNG files into a folder, which appears when the block ends well.

    An empty folder that is there already is filled then, and stays the folder it is: it may be
    the current one, or a disk of its own.

    with FrameFolderWriter("out") as writer:
        for name, frame in zip(folder.names, folder):
            writer.write(frame.pixels, name)
    """

    def __init__(self, path: str | Path) -> None:
        """Check the target.

        Raises:
            ValueError: If the target is a file or a folder that is not empty.
            FileNotFoundError: If the folder around it does not exist.
            PermissionError: If the folder around it, or it, cannot be written to.
        """
        self.path = Path(path)
        parent = self.path.absolute().parent
        if not parent.is_dir():
            raise FileNotFoundError(f"{path}: the folder {parent} does not exist, create it")
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{path}: is a file, expected the name of a new folder")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(f"{path}: is not empty, choose another output folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"{path}: the folder {parent} cannot be written to")
        if self.path.exists() and not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(f"{path}: cannot be written to")
        self._is_kept = False
        self._part = hidden_sibling(self.path.absolute(), f".part-{os.getpid()}")

    def __enter__(self) -> FrameFolderWriter:
        if self._part.exists():
            shutil.rmtree(self._part)
        self._part.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if not self._is_kept:
                shutil.rmtree(self._part, ignore_errors=True)

    def remove_leftovers(self, source: object) -> None:
        """Remove what killed runs left of this output; only where no other run can be at it.

        Args:
            source: The input, which stays.
        """
        for leftover in leftovers(self.path.absolute(), source=source):
            shutil.rmtree(leftover, ignore_errors=True)

    def _finish(self) -> None:
        """Give the frames their folder; where that fails they stay, and it is said where."""
        try:
            if self.path.is_dir():
                _move_files(self._part, self.path)
            else:
                os.replace(self._part, self.path)
        except OSError as error:
            self._is_kept, kept = True, self._part
            with contextlib.suppress(OSError):
                # Another name, as the next run removes what killed ones left.
                kept = kept.rename(
                    hidden_sibling(self.path.absolute(), f".finished-{os.getpid()}")
                )
            cause = error.strerror or str(error)
            raise OSError(
                error.errno,
                f"{self.path}: the finished frames cannot be moved there ({cause}), they lie "
                f"in {kept}",
            ) from error

    def write(self, pixels: np.ndarray, name: str) -> None:
        """Write one frame.

        Args:
            pixels: `[H, W, C]` RGB or RGBA, uint8 or uint16.
            name: Any file name; its stem is kept, the suffix becomes ".png".

        Raises:
            ValueError: If the pixels are of another kind, or the name was written before.
            OSError: If the disk is full or cannot be written.
        """
        if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3:
            raise ValueError(
                f"{self.path / Path(name).stem}.png: must be [H, W, C] uint8 or uint16, "
                f"got {list(pixels.shape)} {pixels.dtype}"
            )
        self.write_encoded(encode_png(pixels), name)

    def write_encoded(self, png: bytes, name: str) -> None:
        """Write one frame that `encode_png` has encoded; as `write` else."""
        self.write_file(png, f"{Path(name).stem}.png")

    def write_file(self, data: bytes, name: str) -> None:
        """Write a file beside the frames, of this name; raises as `write` does."""
        target = self._part / name
        if target.exists():
            raise ValueError(f"{self.path / target.name}: is written twice")
        try:
            target.write_bytes(data)
        except OSError as error:
            raise unwritable(self.path / target.name, error) from error


def encode_png(pixels: np.ndarray) -> bytes:
    """Return the PNG file of `[H, W, C]` pixels, RGB or RGBA, uint8 or uint16."""
    code = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    written, data = cv2.imencode(".png", cv2.cvtColor(pixels, code))
    assert written
    return data.tobytes()


def _move_files(source: Path, target: Path) -> None:
    """Move all files of a folder into another; those that were moved go back if one fails."""
    moved: list[str] = []
    try:
        for name in sorted(os.listdir(source)):
            if (target / name).exists():
                raise FileExistsError(errno.EEXIST, f"{name} is there meanwhile")
            _move(source / name, target / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            with contextlib.suppress(OSError):
                _move(target / name, source / name)
        raise


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The folder is a disk of its own.
        with source.open("rb") as read, replacing(target) as written:
            shutil.copyfileobj(read, written)
        source.unlink()


def _refuse_same_stems(folder: Path, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(Path(name).stem, name)
        if other != name:
            raise ValueError(f"{folder}: {other} and {name} would both become one PNG file")


def _describe(shape: tuple[int, ...], depth: int) -> str:
    return f"{shape[1]}x{shape[0]} with {shape[2]} channels of {depth} bits"
