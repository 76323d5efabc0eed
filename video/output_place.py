"""The place of an output: links are written through, missing folders are made."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


def through_links(path: Path) -> Path:
    """Return what a link stands for, which is written instead of it; other paths stay.

    Renaming a finished file over the link would replace the link, not the file.
    """
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def unwritable(output: Path | str, error: OSError) -> OSError:
    """Return an error of one line that names the output and says what to do."""
    number = error.errno or errno.EIO
    is_full = number in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space" if is_full else "choose another output"
    return OSError(number, f"{output}: could not be written ({os.strerror(number)}), {advice}")


def check_place(path: Path) -> None:
    """Raise ValueError for what neither a file nor a folder can be written to."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(
            f"{path}: is a device or a pipe, expected the name of a file or folder"
        )


@contextlib.contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Have a folder within the block; those that were made for it and stay empty go again.

    Raises:
        ValueError: If a file is in the way, or a link that leads nowhere.
        OSError: If it cannot be made.
    """
    missing, found = [], path
    while not found.exists():
        if found.is_symlink():
            raise ValueError(
                f"{path}: cannot be a folder for the output, {found} is a link to "
                f"{os.readlink(found)}, which does not exist"
            )
        missing.append(found)
        found = found.parent
    if not found.is_dir():
        raise ValueError(f"{path}: cannot be a folder for the output, {found} is a file")
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
