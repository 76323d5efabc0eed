"""How long a run spends in each of its stages, on a device too.

Stages nest: fusing a frame asks for decoded ones, which the iterator it is given decodes at
that moment. Each stage counts its own time alone; the device is waited for where one stage
gives way to another, so that the whole takes longer than without. Reading and writing are
threads' work, beside the rest.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from ..images.folders import FrameFolder
from ..jobs import image_ends
from ..restoration import phases
from ..restoration.streaming import stream

BESIDE = ("reading", "writing")
"""Stages of threads of their own."""


class StageClock:
    """Adds up seconds by stage.

    Args:
        device: Of the computation.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device
        self._local = threading.local()

    @contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """Count the block as this stage's, but for stages inside."""
        running: list[list[Any]] = self._local.__dict__.setdefault("running", [])
        self._pause(running)
        running.append([stage, time.perf_counter()])
        try:
            yield
        finally:
            self._pause(running)
            running.pop()
            if running:
                running[-1][1] = time.perf_counter()

    def of_calls(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its calls counted."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.running(stage):
                return function(*args, **kwargs)

        return counted

    def of_items(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that gives an iterator, the making of each item counted."""

        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with self.running(stage):
                items = iter(function(*args, **kwargs))
            while True:
                with self.running(stage):
                    item = next(items, None)
                if item is None:
                    return
                yield item
                # Whoever takes an item decides how long it lives.
                del item

        return counted

    def _pause(self, running: list[list[Any]]) -> None:
        if not running:
            return
        stage, since = running[-1]
        if stage not in BESIDE and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[stage] += time.perf_counter() - since


@contextmanager
def counted_stages(device: torch.device) -> Iterator[StageClock]:
    """Count the stages of whatever restores folders of images within the block."""
    clock = StageClock(device)
    places: list[tuple[Any, str, str, Callable[..., Any]]] = [
        (FrameFolder, "__getitem__", "reading", clock.of_calls),
        (stream, "plan_stream", "waiting for frames, finding cuts", clock.of_items),
        (phases, "encode", "encoding", clock.of_calls),
        (phases, "encode_tokens", "encoding", clock.of_calls),
        (phases, "denoise", "denoising", clock.of_calls),
        (phases, "decode", "decoding", clock.of_items),
        (stream, "fuse", "borrowing", clock.of_items),
        (stream.SegmentRestorer, "_rounded", "blending", clock.of_calls),
        (stream, "to_array", "download", clock.of_calls),
        (image_ends, "encode_png", "writing", clock.of_calls),
    ]
    with ExitStack() as stack:
        for owner, name, stage, counting in places:
            counted = counting(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, counted))
        yield clock
