"""Files that a command writes beside its output: reports, pages, tuned weights."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..models.bundled import BUNDLED
from ..video.atomic import write_file
from ..video.output_place import made_folder, through_links

Taken = list[tuple[str, Path]]
"""What a command reads and writes, each with what messages call it."""


def named_files(*named: tuple[str, str | Path | None]) -> Taken:
    """Return what options name, without those that were left out."""
    return [(role, Path(name)) for role, name in named if name is not None]


def engine_files(args: argparse.Namespace) -> Taken:
    """Return the files that the options of an engine name, and those that come along."""
    named = named_files(
        ("the checkpoint", args.checkpoint), ("the first stage", args.first_stage)
    )
    return named + [("the bundled checkpoint", path) for path in BUNDLED.values()]


def check_side_file(option: str, name: str | None, taken: Iterable[tuple[str, Path]]) -> None:
    """Find before any work what keeps a file from being written.

    Args:
        option: That names it.
        name: The file; None: none is wanted.
        taken: Files and folders that the command reads or writes.

    Raises:
        ValueError: If it is a folder, one of these files, or a picture in one of these folders.
        OSError: If its folder cannot be made or written to.
    """
    if name is None:
        return
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, name a file in it")
    for role, other in taken:
        if _is_same(path, other) or _is_picture_in(path, other):
            raise ValueError(
                f"{path}: {option} would replace {role} {other}, name another file"
            )
    if path.exists() and not path.is_file():
        # A device or a pipe, /dev/stdout say.
        return
    folder = through_links(path).absolute().parent
    with made_folder(folder):
        if not _can_be_written(folder):
            raise PermissionError(f"{path}: the folder {folder} cannot be written to")


def write_json(path: str | None, values: dict[str, Any]) -> None:
    """Write values to a file, if one is wanted."""
    if path is not None:
        write_file(Path(path), f"{json.dumps(values, indent=2)}\n".encode())


def _is_same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def _is_picture_in(path: Path, folder: Path) -> bool:
    """Tell whether a file would be taken for one of the pictures of a folder."""
    from ..images.folders import SUFFIXES

    return path.suffix.lower() in SUFFIXES and folder.resolve() in path.resolve().parents


def _can_be_written(folder: Path) -> bool:
    """Tell whether files can be made in a folder, by trying: permissions do not say it all."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
