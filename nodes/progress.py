"""Progress of work that has several stages, on the one bar that a node has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils

ProgressFn = Callable[..., None]
"""Called with (done, total) and optionally a `preview`; raises when the user cancels."""

_RESOLUTION = 1000


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
            self._value = max(self._value, value)
            self._bar.update_absolute(self._value, _RESOLUTION, preview)

        return advance
