"""Progress of work in several stages, on the one bar of a node, and its end on Cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
from torch import Tensor
from torch.overrides import TorchFunctionMode

ProgressFn = Callable[..., None]
"""Called with (done, total) and optionally a `preview`; raises when the user cancels."""

_RESOLUTION = 1000
_BEGUN = 10
"""What the bar shows as soon as anything is done: less could not be seen."""


def raise_if_cancelled() -> None:
    """Do nothing but end the work if the user cancels."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class Progress:
    """Share a node's progress bar among stages.

    Args:
        *shares: Relative cost of each stage.
    """

    def __init__(self, *shares: float) -> None:
        self._bar = comfy.utils.ProgressBar(_RESOLUTION)
        self._shares = [share / sum(shares) for share in shares]
        self._value = 0

    def stage(self, index: int) -> ProgressFn:
        """Return the progress callback of one stage."""
        start, share = sum(self._shares[:index]), self._shares[index]

        def advance(done: float, total: float, preview: Any = None) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            value = round(_RESOLUTION * (start + share * done / max(total, 1)))
            # Conditions that run one after the other would move the bar back.
            value = max(self._value, value, _BEGUN if done > 0 else 0)
            if self._value == 0 < value:
                # ComfyUI 0.33 drops small and early steps, all but a bar's first: a picture of
                # 5000x3000 would show no movement for 19 s on one core.
                self._bar = comfy.utils.ProgressBar(_RESOLUTION)
            self._value = value
            self._bar.update_absolute(self._value, _RESOLUTION, preview)

        return advance


def watched(frames: Tensor, advance: ProgressFn) -> Iterator[np.ndarray]:
    """Yield the frames of a clip as arrays, with progress."""
    for index, frame in enumerate(frames):
        advance(index, len(frames))
        yield frame.cpu().numpy()


class Cancellable(TorchFunctionMode):
    """Within this `with` block every call of PyTorch ends the work if the user cancels.

    Between two callbacks lie whole networks and fused frames, 23 s of 640x360 on two busy
    cores; between two calls of PyTorch, at most a layer of a tile.
    """

    held = 0
    """How many `uninterrupted` blocks are open."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not Cancellable.held:
            comfy.model_management.throw_exception_if_processing_interrupted()
        return func(*args, **(kwargs or {}))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a block run to its end: half-loaded models would confuse ComfyUI."""
    Cancellable.held += 1
    try:
        yield
    finally:
        Cancellable.held -= 1
