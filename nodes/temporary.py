"""Files of ours in ComfyUI's temporary folder, and when they go.

A finished video's file goes with the last VIDEO of it (`TemporaryVideo`). ComfyUI's cache holds
that as long as a graph may read it. Caches that hold results for as long as memory is plentiful
would fill the disk: `Results` removes the oldest files then, and the node runs again where such
a result is wanted once more. Caches that hold nothing let a VIDEO go within the run that made
it, while other nodes may still know its path: the last such files stay until the next run.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import InputImpl
from comfy_execution.utils import get_executing_context

PREFIX = "video_deblur_"
"""Begins the name of every file and folder of ours in the temporary folder."""
_MOST_KEPT = 8
"""Files of finished results; a graph may need more at once, and gets them. Also those of the
present run that no VIDEO holds."""
_LEFTOVER_AGE_S = 24 * 3600
"""Another ComfyUI may use the same folder; nobody's run is as old as this."""


class TemporaryVideo(InputImpl.VideoFromFile):
    """A VIDEO whose file goes with it and with all that is trimmed or cropped from it.

    Its path is a plain `str`, as any other VIDEO's: PyAV 19 takes no class derived from it, and
    nodes ask for one.
    """

    _lease: _Lease | None = None

    @classmethod
    def of(cls, path: Path) -> TemporaryVideo:
        """Return the VIDEO of a file, which is this one's from now on."""
        video = cls(RESULTS.add(str(path)))
        video._lease = _Lease(str(path))
        return video


def _as_view(name: str) -> Callable[..., Any]:
    def make(video: TemporaryVideo, *args: Any, **options: Any) -> Any:
        view = getattr(InputImpl.VideoFromFile, name)(video, *args, **options)
        if isinstance(view, InputImpl.VideoFromFile):
            # ComfyUI makes it of the path alone.
            view._lease = video._lease
            if type(view) is InputImpl.VideoFromFile:
                view.__class__ = TemporaryVideo
        return view

    return make


for _name in ("as_trimmed", "as_cropped"):
    # Versions differ in which they have.
    if hasattr(InputImpl.VideoFromFile, _name):
        setattr(TemporaryVideo, _name, _as_view(_name))
# Nodes of others tell files by the name of the class.
TemporaryVideo.__name__ = InputImpl.VideoFromFile.__name__


class _Lease:
    """Keeps a file for as long as anybody holds this object."""

    def __init__(self, path: str) -> None:
        weakref.finalize(self, RESULTS.release, path, _current_run())

    def __deepcopy__(self, memo: dict[int, object]) -> _Lease:
        return self  # A copy would not keep the file.


def _current_run() -> int | None:
    """Return the number of the run that a server is in; None between runs, or without one."""
    # Not imported, as in `backend.show_text`.
    server: Any = getattr(sys.modules.get("server"), "PromptServer", None)
    queue = getattr(getattr(server, "instance", None), "prompt_queue", None)
    # Numbers, as clients choose the ids of prompts and may choose one again.
    return next(iter(getattr(queue, "currently_running", ())), None)


_Run = tuple[str, int | None]
"""Id of the prompt, and the number of the run where a server counts them."""


@dataclass(frozen=True)
class _Result:
    path: str
    run: _Run
    key: str


class Results:
    """Results that ComfyUI's cache holds, and which of their files may go.

    A key stands for the widgets of a node: what is linked to it is not known when ComfyUI asks
    whether it changed. A file may go if its run is over and every node of the present run with
    its key has run anew, so that none takes it from the cache. Its key then counts one removal
    more: as part of the node's fingerprint that makes the cache forget all results of the key.
    """

    def __init__(self) -> None:
        self._run: _Run = "", None
        self._keys: dict[str, str] = {}
        self._ran: set[str] = set()
        self._finished: list[_Result] = []
        self._removals: Counter[str] = Counter()
        self._orphans: deque[tuple[str, int | None]] = deque()
        self._is_ending = False
        atexit.register(self._end)

    def num_removed(self, key: str) -> int:
        """Return how many results of a key have lost their file.

        ComfyUI asks for each node before it runs a graph, or when the node joins it.
        """
        if (context := get_executing_context()) is not None:
            self._enter((context.prompt_id, _current_run()))
            self._keys[context.node_id] = key
        return self._removals[key]

    def add(self, path: str) -> str:
        """Take in the result of the node that runs; older files may go."""
        context = get_executing_context()
        if context is None or (context.prompt_id, _current_run()) != self._run:
            return path
        key = self._keys.get(context.node_id)
        if key is None:
            return path
        self._ran.add(context.node_id)
        self._finished = [result for result in self._finished if os.path.exists(result.path)]
        self._finished.append(_Result(path, self._run, key))
        # Nodes that take their result from the cache never run.
        waiting = {k for node, k in self._keys.items() if node not in self._ran}
        removable = [
            result
            for result in self._finished
            if result.run != self._run and result.key not in waiting
        ]
        for result in removable[: max(len(self._finished) - _MOST_KEPT, 0)]:
            self._remove(result.path)
            self._removals[result.key] += 1
        return path

    def release(self, path: str, run: int | None) -> None:
        """Remove a file that no VIDEO holds any more: once the run that made it is over."""
        if self._is_ending or run is None or run != _current_run():
            self._remove(path)
            return
        self._orphans.append((path, run))
        if len(self._orphans) > _MOST_KEPT:
            oldest, _ = self._orphans.popleft()
            self._remove(oldest)

    def remove_orphans(self) -> None:
        """Remove the files of runs that are over, and that no VIDEO holds."""
        waiting, self._orphans = self._orphans, deque()
        for path, run in waiting:
            self.release(path, run)

    def _remove(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # Somebody moved it away.
        except OSError:
            # Windows removes nothing that is open: later.
            self._orphans.append((path, None))

    def _end(self) -> None:
        # What VIDEOs still hold follows, as they are finalized.
        self._is_ending = True
        self.remove_orphans()

    def _enter(self, run: _Run) -> None:
        if run != self._run:
            self._run, self._keys, self._ran = run, {}, set()


@contextmanager
def temporary_file(suffix: str) -> Iterator[Path]:
    """Give a free path in ComfyUI's temporary folder; nothing is left there on failure.

    Except of a video that ends early: what came before is there, and the error names it.
    """
    from ..video.source import VideoError

    RESULTS.remove_orphans()
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
