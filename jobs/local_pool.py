"""Restore the parts of one clip in this process, with what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..restoration.engine import Engine
from ..restoration.settings import RestorationSettings
from ..restoration.streaming.segments import Segment
from ..restoration.streaming.stream import FramesCallback, SegmentRestorer
from .clip_work import PartDone
from .parts import PartEncoder, PartTask, restored_frames

_PATIENCE_S = 1.5
"""How long a run that is cancelled waits for a part to be encoded, so that it is kept."""


class LocalPool:
    """A `Pool` without workers.

    A part that follows the last one takes over what their segments share, so that nothing is
    computed twice. A part is encoded while the next one is restored.
    """

    def __init__(
        self,
        engine: Engine,
        settings: RestorationSettings,
        *,
        callback: Callable[[float], None] | None = None,
        before_segment: Callable[[], None] | None = None,
        on_frame: FramesCallback | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Begin a clip.

        Args:
            engine: What restores.
            settings: What the user chose.
            callback: Called with the frames done, from the start of the clip; may raise to
                cancel.
            before_segment: Called before each segment.
            on_frame: Called with each frame that is restored.
            check: Called now and then while this waits; may raise to cancel.
        """
        self._engine = engine
        self._settings = settings
        self._callback = callback
        self._before_segment = before_segment
        self._on_frame = on_frame
        self._check = check
        self._waiting: tuple[Any, list[np.ndarray], PartTask] | None = None
        self._encoding: tuple[Any, PartEncoder] | None = None
        self._restorer: SegmentRestorer | None = None
        self._following: tuple[int, bytes] | None = None

    @property
    def wants_more(self) -> bool:
        """Whether to `submit` a part."""
        return self._waiting is None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or under way."""
        return self._waiting is None and self._encoding is None

    def submit(self, key: Any, frames: list[np.ndarray], task: PartTask) -> None:
        """Take a part to restore it in `collect`."""
        self._waiting = (key, frames, task)

    def collect(self, done: PartDone, timeout_s: float) -> None:
        """Restore the part that waits, and hand over the one before once it is encoded."""
        if self._waiting is None:
            self._hand_over(done)
            return
        (key, frames, task), self._waiting = self._waiting, None

        def progress(segment: Segment, part: int, parts: int) -> None:
            # At once, as it is kept from then on.
            if self._encoding is not None and self._encoding[1].is_done:
                self._hand_over(done)
            if self._callback is not None:
                fresh = segment.stop - segment.start
                self._callback(segment.start + fresh * part / parts)

        encoder: PartEncoder | None = None
        restorer = self._restorer_for(frames, task)
        try:
            for pixels in restored_frames(
                frames, task, restorer, progress, self._before_segment
            ):
                if encoder is None:
                    self._hand_over(done)
                    encoder = PartEncoder.of(task, self._check)
                encoder.put(pixels)
                del pixels
        except BaseException:
            if encoder is not None:
                encoder.close()
            raise
        self._following = (task.segments[-1][1], restorer.noise_state)
        assert encoder is not None
        encoder.end()
        self._encoding = (key, encoder)

    def give_up(self, done: PartDone) -> None:
        """Hand over the part that is restored, if soon encoded; drop the one that waits."""
        self._waiting = None
        if self._encoding is None:
            return
        _, encoder = self._encoding
        encoder.wait(_PATIENCE_S)
        if encoder.is_done:
            self._hand_over(done)
        else:
            encoder.close()
            self._encoding = None

    def _hand_over(self, done: PartDone) -> None:
        if self._encoding is None:
            return
        key, encoder = self._encoding
        # Kept until then: whoever cancels meanwhile gives it up.
        encoded = encoder.finish()
        self._encoding = None
        done(key, encoded)

    def _restorer_for(self, frames: list[np.ndarray], task: PartTask) -> SegmentRestorer:
        """Return the restorer of the part before if this one follows it."""
        start = (task.segments[0][0].context_start, task.noise_state)
        if self._restorer is None or self._following != start:
            height, width = frames[0].shape[:2]
            self._restorer = SegmentRestorer(
                self._engine, self._settings, height, width, task.noise_state, self._on_frame
            )
        return self._restorer
