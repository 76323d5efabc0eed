"""Files of ours in ComfyUI's temporary folder, and when they go.

A finished video belongs to its path: `TemporaryPath` removes the file with the last reference
to it. ComfyUI's cache holds the VIDEO, and with it the path, as long as a graph may read it.
Caches that hold results for as long as memory is plentiful would fill the disk: `Results`
removes the oldest files then, and the node runs again where such a result is wanted once more.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from comfy_execution.utils import get_executing_context

PREFIX = "video_deblur_"
"""Begins the name of every file and folder of ours in the temporary folder."""
_MOST_KEPT = 8
"""Files of finished results; a graph may need more at once, and gets them."""
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


@dataclass(frozen=True)
class _Result:
    path: str
    prompt: str
    key: str


class Results:
    """Results that ComfyUI's cache holds, and which of their files may go.

    A key stands for the widgets of a node: what is linked to it is not known when ComfyUI asks
    whether it changed. A file may go if its run is over and every node of the present run with
    its key has run anew, so that none takes it from the cache. Its key then counts one removal
    more: as part of the node's fingerprint that makes the cache forget all results of the key.
    """

    def __init__(self) -> None:
        self._prompt = ""
        self._keys: dict[str, str] = {}
        self._ran: set[str] = set()
        self._finished: list[_Result] = []
        self._removals: Counter[str] = Counter()

    def num_removed(self, key: str) -> int:
        """Return how many results of a key have lost their file.

        ComfyUI asks for each node before it runs a graph, or when the node joins it.
        """
        if (context := get_executing_context()) is not None:
            self._enter(context.prompt_id)
            self._keys[context.node_id] = key
        return self._removals[key]

    def add(self, path: TemporaryPath) -> TemporaryPath:
        """Take in the result of the node that runs; older files may go."""
        context = get_executing_context()
        if context is None or context.prompt_id != self._prompt:
            return path
        key = self._keys.get(context.node_id)
        if key is None:
            return path
        self._ran.add(context.node_id)
        self._finished = [result for result in self._finished if os.path.exists(result.path)]
        self._finished.append(_Result(str(path), context.prompt_id, key))
        # Nodes that take their result from the cache never run.
        waiting = {k for node, k in self._keys.items() if node not in self._ran}
        removable = [
            result
            for result in self._finished
            if result.prompt != context.prompt_id and result.key not in waiting
        ]
        for result in removable[: max(len(self._finished) - _MOST_KEPT, 0)]:
            _remove_file(result.path)
            self._removals[result.key] += 1
        return path

    def _enter(self, prompt: str) -> None:
        if prompt != self._prompt:
            self._prompt, self._keys, self._ran = prompt, {}, set()


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


RESULTS = Results()
"""Of this process, which runs one graph at a time."""
