"""Clips between their first part and their output, and the loop that has a pool restore them.

Clips are read in order, here; their parts are restored in any order, anywhere; finished parts
are kept beside the output until it is complete, so that the next call goes on from them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..restoration.settings import RestorationSettings
from ..video.frames import EncodedFrame
from .ends import Ends
from .part_store import PartStore, kept_parts
from .parts import PartTask, PlannedPart, plan_parts
from .report import Report

PartDone = Callable[[Any, "list[EncodedFrame] | Exception"], None]
"""Called with the key of a part and its encoded frames, or what went wrong."""


class Pool(Protocol):
    """Who restores parts: `local_pool.LocalPool`, `ray_pool.RayPool`."""

    @property
    def wants_more(self) -> bool: ...
    @property
    def is_idle(self) -> bool: ...
    def submit(self, key: Any, frames: list[np.ndarray], task: PartTask) -> None: ...
    def collect(self, done: PartDone, timeout_s: float) -> None: ...
    def give_up(self, done: PartDone) -> None: ...


class ClipWork:
    """A clip on its way from input to output."""

    def __init__(
        self,
        ends: Ends,
        folder: Path,
        identity: dict[str, Any],
        config: Any,
        settings: RestorationSettings,
        *,
        first_config: Any = None,
        measure_blur: bool = False,
        cancelled_by: tuple[type[BaseException], ...] = (),
        on_frames: Callable[[int], None] | None = None,
        on_begin: Callable[[], None] | None = None,
        on_end: Callable[[ClipWork], None] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            ends: What reads the input and writes the output.
            folder: Where finished parts are kept; removed when the output is complete.
            identity: JSON values that say which networks restore, and with what.
            config: Of the checkpoint.
            settings: What the user chose.
            first_config: `FirstStage.planned_config`.
            measure_blur: Whether to measure blur even if no frame is to be left alone.
            cancelled_by: What is raised to end all work at once; nothing that the clip is to
                blame for.
            on_frames: Called with the number of frames that are newly finished.
            on_begin: Called once, when the input is open; what it raises is the clip's error.
            on_end: Called once, when `report` or `error` says how it ended.
        """
        self._ends = ends
        self._folder = folder
        self._identity = identity
        self._config = config
        self._settings = settings
        self._first_config = first_config
        self._measure_blur = measure_blur
        self._cancelled_by = cancelled_by
        self._on_frames = on_frames or (lambda count: None)
        self._on_begin = on_begin or (lambda: None)
        self._on_end = on_end or (lambda work: None)
        self._stack = contextlib.ExitStack()
        self._pending: dict[int, PlannedPart] = {}
        self._failure: Exception | None = None
        self._read = self.ended = False
        self.report: Report | None = None
        """What was done, once the output is written."""
        self.error: Exception | None = None
        """What went wrong; with a `report`, the output holds what came before."""

    def parts(self, stack: contextlib.ExitStack) -> Iterator[tuple[int, PlannedPart]]:
        """Yield the parts that are to be restored, with their index; a failure ends them.

        Args:
            stack: Closes what is open of the clip, whatever ends the work.
        """
        self._stack = stack.enter_context(contextlib.ExitStack())
        try:
            yield from self._parts()
        except self._cancelled_by:
            raise
        except Exception as error:  # noqa: BLE001 (one clip must not end the others)
            # The parts on their way are kept first.
            self._failure = error
        self._read = True
        self._end_if_done()

    def _parts(self) -> Iterator[tuple[int, PlannedPart]]:
        ends = self._stack.enter_context(self._ends)
        ends.check_encoder()
        self._on_begin()
        identity = {**ends.identity(), **self._identity}
        store = PartStore(self._folder, identity, str(ends.output))
        self._store = self._stack.enter_context(kept_parts(store))
        self._on_frames(store.num_kept)
        planned = plan_parts(
            ends,
            self._config,
            self._settings,
            store.position,
            self._measure_blur,
            self._first_config,
        )
        for index, part in enumerate(planned, store.next_index):
            if not store.has(index):
                self._pending[index] = dataclasses.replace(part, frames=[])
                yield index, part
            if self.ended:
                return

    def add(self, index: int, result: list[EncodedFrame] | Exception) -> None:
        """Keep a part that was restored, and write the output after the last one."""
        part = self._pending.pop(index)
        if self.ended:
            return
        try:
            if isinstance(result, Exception):
                raise result
            self._store.add(result, part.position, part.finished, index)
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            self._end(error)
            return
        self._on_frames(part.task.num_frames)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if not self._read or self._pending or self.ended:
            return
        error = self._failure
        if error is None:
            try:
                self.report = self._ends.join(self._store)
                self._ends.check_complete(self.report)
            except self._cancelled_by:
                raise
            except Exception as caught:  # noqa: BLE001 (as above)
                error = caught
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        """Close what is open, which may say more about the error."""
        try:
            with self._stack:
                if error is not None:
                    raise error
        except Exception as final:  # noqa: BLE001 (whoever owns the clip reports it)
            self.error = final
        self.ended = True
        self._on_end(self)


def restore_clips(
    works: Sequence[ClipWork], pool: Pool, progress: Callable[[], None] | None = None
) -> None:
    """Have a pool restore clips; what fails of one does not stop the others.

    Args:
        works: Their `report` and `error` say what became of them.
        pool: Who restores.
        progress: Called now and then; may raise to cancel: finished parts stay.
    """

    def done(key: tuple[ClipWork, int], result: list[EncodedFrame] | Exception) -> None:
        work, index = key
        work.add(index, result)

    with contextlib.ExitStack() as stack:
        parts = ((work, *planned) for work in works for planned in work.parts(stack))
        more = True
        try:
            while more or not pool.is_idle:
                while more and pool.wants_more:
                    following = next(parts, None)
                    more = following is not None
                    if following is not None:
                        work, index, part = following
                        pool.submit((work, index), part.frames, part.task)
                if not pool.is_idle:
                    pool.collect(done, timeout_s=0.5)
                if progress is not None:
                    progress()
        except BaseException:
            pool.give_up(done)
            raise
