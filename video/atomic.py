"""Write files whole or not at all: a full disk or a kill leaves the old ones as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .hidden_names import hidden_sibling
from .output_place import through_links


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once the block has ended without an error.

    Missing folders are made; a link stays, and what it stands for is replaced.

    Raises:
        OSError: If the disk is full or cannot be written; `path` is as it was.
    """
    path = through_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden_sibling(path, f".part-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # A full disk does not say which file it was.
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` once all of it is on the disk; makes missing folders.

    A device or a pipe is written into, and stays what it is.

    Raises:
        OSError: If the disk is full or cannot be written; `path` is as it was.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_bytes(data)
        return
    with replacing(path) as file:
        file.write(data)
