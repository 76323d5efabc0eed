"""The clips of each update on their device when they are asked for.

On a GPU those of the next update are finished beside the computation of this one: blurring
them takes the host longer than the device (about 70 operations and 130,000 random numbers for
a clip of 8 frames of 128x128, 2 ms of a core; a clip's update is 0.07 TFLOP). A CPU that
trains has no use for that, and finishes each micro batch when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

Arguments = tuple[Any, ...]
PrepareFn = Callable[[Any], Arguments]
"""From a micro batch to the arguments of the trained module, on its device."""
Update = Sequence[Callable[[], Arguments]]
"""Called one after the other, each gives a micro batch's arguments."""


def prepared_updates(
    batches: Iterable[Sequence[Any]], prepare: PrepareFn, device: torch.device
) -> Iterator[Update]:
    """Yield the updates of which `batches` gives the micro batches."""
    if device.type == "cuda":
        yield from _ahead(iter(batches), prepare, device)
        return
    for micro_batches in batches:
        yield [partial(prepare, micro_batch) for micro_batch in micro_batches]


def _ahead(
    batches: Iterator[Sequence[Any]], prepare: PrepareFn, device: torch.device
) -> Iterator[Update]:
    # A stream of its own: in that of the training, copies would wait for the whole update
    # before them, and the host with them.
    stream = torch.cuda.Stream(device)

    def prepared() -> tuple[list[Arguments], Any] | None:
        micro_batches = next(batches, None)
        if micro_batches is None:
            return None
        with torch.cuda.device(device), torch.cuda.stream(stream):
            arguments = [prepare(micro_batch) for micro_batch in micro_batches]
            return arguments, stream.record_event()

    # The first in this thread, which starts the workers: torch hears of their death in the
    # thread that is the main one alone.
    coming = prepared()
    with ThreadPoolExecutor(1, thread_name_prefix="clips") as pool:
        while coming is not None:
            arguments, done = coming
            training = torch.cuda.current_stream(device)
            training.wait_event(done)
            following = pool.submit(prepared)
            yield [partial(_same, each) for each in arguments]
            # Memory that is let go belongs to the other stream, which may fill it at once.
            training.synchronize()
            coming = following.result()


def _same(arguments: Arguments) -> Arguments:
    return arguments
