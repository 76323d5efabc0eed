"""The log of a stage: means over updates and processes, as lines, scalars and progress."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .loop import Run
    from .states import Progress


class TrainingLog:
    """Averages values over updates and processes; writes lines, scalars and progress."""

    def __init__(self, run: Run, accelerator: Accelerator, resumed: Progress) -> None:
        self.run = run
        self.accelerator = accelerator
        self.resumed = resumed
        self.values: dict[str, list[Tensor]] = {}
        self.started = self.line_started = time.monotonic()
        self.waited_s = 0.0
        self.prepared = _Stopwatch(accelerator.device)

    @property
    def elapsed_s(self) -> float:
        """Time spent on the run, before it was resumed included."""
        return self.resumed.elapsed_s + time.monotonic() - self.started

    def timed(self, batches: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """Pass batches on, adding up how long they were waited for."""
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited_s += time.monotonic() - before
            yield batch

    def preparing(self) -> AbstractContextManager[None]:
        """Add up how long clips take that are finished on the device."""
        return self.prepared.running()

    def add(self, values: dict[str, Tensor]) -> None:
        """Take values of each sample of a micro batch, `[B]`."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.detach().float())

    def write(self, step: int, more: dict[str, float]) -> None:
        """Write a line: means since the last one, and `more`."""
        now = time.monotonic()
        means = self._means()
        samples = self._total(sum(len(value) for value in self.values["loss"]))
        seconds = max(now - self.line_started, 1e-9)
        line = {
            **means,
            **more,
            "images_per_s": samples * self.run.images_per_sample / seconds,
            "data_wait": self.waited_s / seconds,
            "data_preparation": self.prepared.read() / seconds,
            "memory_gb": _memory_gb(self.accelerator.device),
        }
        per_step = (now - self.started) / (step - self.resumed.step)
        self.values, self.waited_s = {}, 0.0
        self.line_started = now
        self.accelerator.log({f"{self.run.name}/{k}": v for k, v in line.items()}, step=step)
        if not self.accelerator.is_main_process:
            return
        elapsed_s = round(self.elapsed_s, 1)
        rounded = {name: float(f"{value:.6g}") for name, value in line.items()}
        _append_line(
            self.run.folder / f"{self.run.name}.jsonl",
            json.dumps({"step": step, "elapsed_s": elapsed_s, **rounded}),
        )
        if self.run.progress is not None:
            left_s = per_step * (self.run.steps - step)
            self.run.progress(step, self.run.steps, {**line, "left_s": left_s})

    def _means(self) -> dict[str, float]:
        """Average over samples, updates and processes; what no sample had is left out."""
        names = sorted(self.values)
        vectors = [torch.cat(self.values[name]) for name in names]
        sums = torch.stack([v.nan_to_num(0.0, math.nan, math.nan).sum() for v in vectors])
        counts = torch.stack([(~v.isnan()).sum() for v in vectors])
        sums = self.accelerator.reduce(sums, "sum")
        counts = self.accelerator.reduce(counts, "sum")
        assert isinstance(sums, Tensor)
        assert isinstance(counts, Tensor)
        return {
            name: float(total / count)
            for name, total, count in zip(names, sums, counts, strict=True)
            if count
        }

    def _total(self, number: float) -> float:
        local = torch.tensor(float(number), device=self.accelerator.device)
        total = self.accelerator.reduce(local, "sum")
        assert isinstance(total, Tensor)
        return float(total)


class _Stopwatch:
    """Adds up how long a device works on something.

    Operations on a device return before they are done. CUDA notes the times of marks among
    them, which costs nothing; other devices are waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what the block takes."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._marks.append((start, end))
            return
        wait_for_device = getattr(torch, self._device.type).synchronize
        wait_for_device()
        before = time.monotonic()
        yield
        wait_for_device()
        self._seconds += time.monotonic() - before

    def read(self) -> float:
        """Return the seconds since this was last asked for."""
        # Taken away at once: another thread may be adding to them.
        marks, self._marks = self._marks, []
        seconds, self._seconds = self._seconds, 0.0
        for start, end in marks:
            end.synchronize()
            seconds += start.elapsed_time(end) / 1000
        return seconds


def _append_line(path: Path, line: str) -> None:
    """Append a line; one that a killed run left unfinished stays one of its own."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")


def _memory_gb(device: torch.device) -> float:
    """Return the most memory used on a device so far, or what the process uses on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import psutil

    return psutil.Process().memory_info().rss / 1e9
