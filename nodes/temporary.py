"""Files of ours in ComfyUI's temporary folder, and when they go.

A finished video belongs to its path: `TemporaryPath` removes the file with the last reference
to it. ComfyUI's cache holds the VIDEO, and with it the path, as long as a graph may read it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import folder_paths

PREFIX = "video_deblur_"
"""Begins the name of every file and folder of ours in the temporary folder."""
_LEFTOVER_AGE_S = 24 * 3600
"""Another ComfyUI may use the same folder; nobody's run is as old as this."""


class TemporaryPath(str):
    """A path whose file is removed with the last reference to it.

    Views of a VIDEO (trimmed, cropped) and whoever asked for its stream source hold this
    object, not a copy: a VIDEO that goes does not take the file from them.
    """

    def __init__(self, path: str | Path) -> None:
        weakref.finalize(self, _remove_file, str(path))

    def __deepcopy__(self, memo: dict[int, object]) -> TemporaryPath:
        return self  # A copy would not keep the file.


def _remove_file(path: str) -> None:
    # Somebody may have moved it away, and Windows removes nothing that is open.
    with suppress(OSError):
        os.unlink(path)


@contextmanager
def temporary_file(suffix: str) -> Iterator[Path]:
    """Give a free path in ComfyUI's temporary folder; nothing is left there on failure.

    Except of a video that ends early: what came before is there, and the error names it.
    """
    from ..video.source import VideoError

    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=suffix, dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        yield path
    except VideoError:
        if path.stat().st_size == 0:
            path.unlink()
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def remove_leftovers() -> None:
    """Remove what sessions that crashed left in the temporary folder, if it is a day old.

    ComfyUI empties the folder when it starts, but not through a link to another disk.
    """
    oldest_s = time.time() - _LEFTOVER_AGE_S
    for path in Path(folder_paths.get_temp_directory()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if path.is_symlink() or path.stat().st_mtime > oldest_s:
                continue
            logging.getLogger(__name__).info("removing %s of an earlier session", path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
