"""A network that runs before fusion, beside the checkpoint's own, and what it gives.

It is an engine like any other (`Engine`), so it brings its tiles, memory retry, dtype and
device. Its results count as candidates only: fusion judges them, and a frame of which there
is none is restored without. Where one is kept it is kept in 16 bits. A network that fails on
test pictures (`trial`) is not run at all.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ..borrowing.candidates import Panel
from ..borrowing.first_candidate import followed
from ..denoising.windows import Span
from ..engine import Engine
from ..frames import DeviceFrames, rounded, unrounded
from ..progress import Work
from ..settings import RestorationSettings
from ..streaming.segments import Segment, SegmentGrid
from .trial import fault_of

logger = logging.getLogger(__name__)

_SIXTEEN_BITS = np.dtype(np.uint16)


class FirstStage:
    """The engine of a network, and what sets it apart from others.

    Args:
        engine: On the device of the engine that it belongs to.
        name: What messages call it.
        digest: Hash of its weights.
    """

    def __init__(self, engine: Engine, name: str, digest: str) -> None:
        self.engine = engine
        self.name = name
        self._digest = digest
        self.not_trusted: str | None = None
        """Why results of it were left out; None: none was, so far."""

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from others, as JSON values: results depend on it."""
        return {"first_stage": self._digest}

    @property
    def planned_config(self) -> Any:
        """Config that segments are planned with; None where it changes no plan."""
        return None if self.sees_one_frame else self.engine.config

    @property
    def sees_one_frame(self) -> bool:
        """Whether its result of a frame depends on that frame alone."""
        return self.engine.near(self.engine.config) == 0

    @cached_property
    def fault(self) -> str | None:
        """Why nothing of it is used, found where it is first needed; None: it is."""
        return fault_of(self.engine)

    def passes(self) -> bool:
        """Tell whether it has no fault; say once if it has."""
        if self.fault is None:
            return True
        self.distrust(f"{self.fault}; it is left out")
        return False

    def distrust(self, reason: str) -> None:
        """Say, once for all the work it is used in, that results of it are left out."""
        if self.not_trusted is None:
            self.not_trusted = reason
            logger.warning("first stage %s was not trusted: %s", self.name, reason)

    def on_refused(self) -> None:
        """Say that fusion left a frame's result out."""
        self.distrust(
            "it shows something else than the frames; such frames are restored without it"
        )

    def session(
        self, settings: RestorationSettings, height: int, width: int, grid: SegmentGrid
    ) -> FirstStageSession:
        """Begin a clip, at any of its segments.

        Args:
            settings: As of the engine that it belongs to.
            height: Of the frames, in pixels.
            width: Of the frames, in pixels.
            grid: How the clip is cut, with the context that this network needs.

        Raises:
            ValueError: If its results are to be seen by a network, and depend on other frames.
        """
        return FirstStageSession(self, settings, (height, width), grid)


def check_network_input(settings: RestorationSettings, first_stage: FirstStage | None) -> None:
    """Raise ValueError if the network is to see what no first stage can give."""
    if settings.network_input != "first_stage":
        return
    if first_stage is None:
        raise ValueError(
            "network input is first_stage, but there is none: name its file (--first-stage)"
        )
    if not first_stage.sees_one_frame:
        raise ValueError(
            f"{first_stage.name}: restores frames together with their neighbours; network "
            f"input first_stage takes networks for single images. Leave --network-input out."
        )


class FirstStageSession:
    """A first stage at work on the segments of one clip, in order."""

    def __init__(
        self,
        stage: FirstStage,
        settings: RestorationSettings,
        size: tuple[int, int],
        grid: SegmentGrid,
    ) -> None:
        check_network_input(settings, stage)
        self._stage = stage
        self._sees_all = settings.network_input == "first_stage"
        self._reach = grid.reach
        # A second look is the main network's to take.
        once = dataclasses.replace(settings, self_ensemble=1)
        self._session = stage.engine.session(once, *size, grid=grid)
        self._session.seek(0)
        self._kept: dict[int, Tensor | None] = {}

    def skip(self, num_frames: int) -> None:
        """Pass over frames that nothing is restored of."""
        self._session.skip(num_frames)

    def count(self, segment: Segment, span: Span) -> int:
        """Return the pieces of work that `candidates` will count; arguments as there."""
        return self._session.count(segment, (self._first_unknown(segment, span), span[1]))

    def candidates(
        self,
        frames: DeviceFrames,
        shares: Sequence[float],
        segment: Segment,
        span: Span,
        next_context: int,
        work: Work,
    ) -> Iterator[Tensor | None]:
        """Restore frames of a segment; arguments as for `Session.restored`.

        Yields:
            int16 `[H, W, 3]`, for `unrounded`, on the device. None where the network gave
            values that are not finite, and for frames of share 0, which it is not run on;
            and throughout where the network has a fault.
        """
        origin = segment.context_start
        unknown = self._first_unknown(segment, span)
        known, self._kept = self._kept, {}
        keep_from = next_context if self._sees_all else segment.stop - self._reach
        keeps = self._stage.engine.restores_singly
        self._session.seek(origin)
        fresh = self._restored(frames, shares, segment, (unknown, span[1]), next_context, work)
        for index in range(origin + span[0], origin + span[1]):
            result = known[index] if index < origin + unknown else next(fresh)
            # Those that the next segment needs again, where each is the same there to the bit.
            if keeps and index >= keep_from:
                self._kept[index] = result
            yield result

    def _restored(
        self,
        frames: DeviceFrames,
        shares: Sequence[float],
        segment: Segment,
        span: Span,
        next_context: int,
        work: Work,
    ) -> Iterator[Tensor | None]:
        first, last = span
        if first < last and not self._stage.passes():
            for _ in range(self._session.count(segment, span)):
                work.advance()
            yield from [None] * (last - first)
            return
        while first < last:
            try:
                for pixels in self._session.restored(
                    frames, shares, segment, (first, last), next_context, work
                ):
                    yield None if shares[first] == 0 else _packed(pixels)
                    first += 1
            except FloatingPointError:
                self._stage.distrust(
                    "it gave values that are not finite; such frames are restored without it"
                )
                # Frames that were sampled together are lost together.
                lost = 1 if self._stage.engine.restores_singly else last - first
                yield from [None] * lost
                first += lost

    def _first_unknown(self, segment: Segment, span: Span) -> int:
        """Return the first of some frames that was not kept."""
        origin = segment.context_start
        return next(
            (index for index in range(*span) if origin + index not in self._kept), span[1]
        )


class SeenFrames:
    """The frames that a network sees: what a first stage made of them, as far as it is trusted.

    Args:
        frames: Blurry.
        candidates: Of each, as `FirstStageSession.candidates` yields them.
    """

    def __init__(self, frames: DeviceFrames, candidates: Sequence[Tensor | None]) -> None:
        self._frames = frames
        self._followed = [
            None if candidate is None else _followed(frames, index, candidate)
            for index, candidate in enumerate(candidates)
        ]

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self._frames.size

    def colors(self, start: int, stop: int) -> Tensor:
        """See `DeviceFrames`."""
        colors = self._frames.colors(start, stop).clone()
        for target, pixels in zip(colors, self._followed[start:stop], strict=True):
            if pixels is not None:
                target.copy_(unrounded(pixels))
        return colors


def _followed(frames: DeviceFrames, index: int, candidate: Tensor) -> Tensor:
    blurry = frames.colors(index, index + 1)[0]
    return _packed(followed(Panel(blurry, blurry, unrounded(candidate))))


def panel_of(
    frames: DeviceFrames, index: int, restored: Tensor, candidate: Tensor | None
) -> Panel:
    """Return what there is of a frame before fusion.

    Args:
        frames: Blurry.
        index: Of the frame among them.
        restored: `[H, W, 3]`, what the checkpoint's network made of it.
        candidate: As `FirstStageSession.candidates` yields it.
    """
    return Panel(
        blurry=frames.colors(index, index + 1)[0],
        restored=restored,
        first=None if candidate is None else unrounded(candidate),
    )


def _packed(pixels: Tensor) -> Tensor:
    return rounded(pixels.float().clamp(0, 1), _SIXTEEN_BITS)
