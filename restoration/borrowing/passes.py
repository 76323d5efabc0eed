"""Borrow detail from sharper neighbours: align, compare, fuse in the Fourier domain.

A hand pauses between shakes: a frame that is blurred often has neighbours that are not, or
that are blurred along another direction. After Delbracio & Sapiro, "Hand-held video
deblurring via efficient Fourier aggregation" (arXiv 1509.05251), the frames around each frame
are registered to it by optical flow, and every patch is fused with weights that grow with the
magnitude of each frequency, so that what any of them kept is kept. On top of that only what
is sharper is taken, and only where it agrees with the frame at low frequencies: on a frame
that none of its neighbours can help nothing changes.

Neighbouring frames then differ in what they took, which flickers. So where a frame took
something, a second pass evens it out with the frames right beside it, as far as their detail
correlates.

The frames are those that the network has restored, `[H, W, 3]` or `[T, H, W, 3]`, float32 in
0..1. They stay on the device: 8-bit luma goes down for optical flow, the flows come up, and
three short tables per frame are read (two of the first pass, one of the second) to decide what
is worth computing.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..denoising.layout import is_out_of_memory
from .candidates import Frame, sharper
from .comparison import Advantage, Resemblance
from .filters import BAND_PIXELS, enlarged, to_red_
from .flows import FLOW_PIXELS, Flows
from .patch_fusion import (
    BAND_VALUES,
    BATCH_VALUES,
    MARGIN,
    aggregate,
    chosen_columns,
    empty_stack,
    patch_bands,
    repeat_edges_,
    trusted_patches,
)
from .registration import Match, register

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_BORROWING_REACH = 3
"""Frames before and after each frame that it may borrow from."""
_EVENING_REACH = 1
"""Frames before and after each frame that it is evened out with."""
REACH = _BORROWING_REACH + _EVENING_REACH
"""Frames before and after each frame that its result depends on."""
# These numbers and those of `comparison` were chosen on synthetic blur over training photos and
# clips. Halving or doubling any of them moves the mean gain by at most a fifth.
_SMALLEST_SIDE = 64
"""Frames with a shorter side, in pixels, are left alone: too little to register."""
_BORROWING_EXPONENT, _EVENING_EXPONENT = 12, 4
"""Exponents of the magnitudes: 0 averages, infinity takes the largest."""
KEPT_VALUES = 2**24
"""Values of aligned neighbours that are kept from comparing to fusing; beyond that they are
aligned again, in bands. Enough for six of 1280x720."""


def borrow(frames: Tensor, device: str | torch.device = "cpu") -> Tensor:
    """Return a clip whose frames took detail from sharper neighbours.

    Args:
        frames: `[T, H, W, 3]`, float32 in 0..1, of one shot, on any device.
        device: Where to compute; the optical flow is always computed on the CPU.

    Returns:
        The same shape, float32 in 0..1, on `device`.
    """
    return torch.stack(list(borrow_stream(frames, device)))


def borrow_stream(
    frames: Iterable[Tensor],
    device: str | torch.device = "cpu",
    wanted: tuple[int, int] | None = None,
    before_frame: Callable[[], None] | None = None,
) -> Iterator[Tensor]:
    """Borrow and even out frame by frame, looking `REACH` frames ahead.

    Args:
        frames: `[H, W, 3]` each, float32, of one shot and one size, on any device; values
            beyond 0..1 are clamped.
        device: Where to compute; the optical flow is always computed on the CPU.
        wanted: First and last (exclusive) frame to yield; the others are only borrowed from.
        before_frame: Called before each frame that is yielded; may raise to cancel.

    Yields:
        The frames that are wanted, in order, float32 in 0..1 on `device`; on the CPU for "mps",
        and from where memory ran out.
    """
    begin, end = (0, None) if wanted is None else wanted
    first = max(begin - _EVENING_REACH, 0)
    place = _Place(torch.device(device))
    with Flows() as flows:
        borrowed = _slide(
            # Not a generator, which would keep the frame it has handed out.
            map(lambda pixels: (pixels, None), frames),
            BORROWING,
            place,
            flows,
            (first, None if end is None else end + _EVENING_REACH),
        )
        evened = _slide(
            borrowed,
            EVENING,
            place,
            flows,
            (begin - first, None if end is None else end - first),
            before_frame,
        )
        yield from map(place.finished, evened)


def borrowing_bytes(height: int, width: int) -> int:
    """Return the memory that borrowing takes on its device at this frame size, in bytes."""
    # A test holds this to the tensors that are alive at once.
    pixels = height * width
    at_hand = 2 * _BORROWING_REACH + 1 + 2 * _EVENING_REACH + 1
    # Each in 16 bits, its 8-bit luma, and what is compared of it, shrunk.
    frames = at_hand * pixels * (3 * 2 + 1 + 3)
    # In float32: a frame that comes or goes, one being fused, and one being aligned.
    whole = 3 * pixels * 3 * 4
    kept = 4 * min(KEPT_VALUES, 2 * _BORROWING_REACH * 3 * pixels)
    # Of all pairs within reach of each other, both ways.
    pairs = sum(range(2 * _BORROWING_REACH + 1)) - sum(range(_BORROWING_REACH + 1))
    pairs += 2 * _EVENING_REACH
    flows = pairs * 2 * 2 * 4 * min(FLOW_PIXELS, pixels // 4)
    # Bands that are compared, stacks of pictures, and patches: no more than so many of a frame.
    working = 4 * min(2 * BAND_VALUES + 2 * BATCH_VALUES + 16 * BAND_PIXELS, 96 * pixels)
    return frames + whole + kept + flows + working


@dataclass(frozen=True)
class Pass:
    """What a pass over a clip does with each frame."""

    reach: int
    """Frames before and after that it looks at."""
    exponent: int
    """Of the magnitudes; 0 averages, infinity takes the largest."""
    candidates: Callable[[Sequence[tuple[Frame, Frame]]], list[bool]]
    """From pairs (neighbour, frame) to whether the neighbour may help the frame."""
    trust: type[Advantage] | type[Resemblance]
    """From a frame to how far it trusts aligned neighbours."""


def _took_something(pairs: Sequence[tuple[Frame, Frame]]) -> list[bool]:
    """Tell of pairs (neighbour, frame) whether there is anything to even out."""
    return [frame.taken is not None for _, frame in pairs]


BORROWING = Pass(_BORROWING_REACH, _BORROWING_EXPONENT, sharper, Advantage)
EVENING = Pass(_EVENING_REACH, _EVENING_EXPONENT, _took_something, Resemblance)

Passed = tuple[Tensor, "Tensor | None"]
"""Pixels of a frame, `[H, W, 3]`, and how far neighbours were trusted; see `Frame.taken`."""


class _Place:
    """The device that a stream computes on: another one until memory runs out, then the CPU."""

    def __init__(self, device: torch.device) -> None:
        # Apple's GPUs, which share the host's memory, cannot sample bicubically in PyTorch.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self._frames: weakref.WeakSet[Frame] = weakref.WeakSet()

    def attempt(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns; out of memory, move all frames and do it again."""
        try:
            return work()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        # Outside the handler, so that the failed attempt's tensors are let go.
        logger.warning("out of memory: going on with borrowing on the CPU")
        self.device = torch.device("cpu")
        for frame in self._frames:
            frame.move(self.device)
        return work()

    def prepared(self, passed: Passed) -> Frame:
        """Take a frame in."""
        frame = self.attempt(lambda: Frame.of(*passed, self.device))
        self._frames.add(frame)
        return frame

    def finished(self, passed: Passed) -> Tensor:
        """Return the pixels of a frame as the stream hands them out."""
        return self.attempt(lambda: passed[0].to(self.device).contiguous())


class _Window:
    """The frames that one pass has at hand."""

    def __init__(
        self, work: Pass, place: _Place, flows: Flows, wanted: tuple[int, int | None]
    ) -> None:
        self._work = work
        self._place = place
        self._flows = flows
        self._wanted = wanted
        self._frames: deque[tuple[int, Frame]] = deque()
        self._helpful: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self._frames)

    def take(self, passed: Passed, index: int) -> None:
        """Take a frame in, decide who helps whom, and start their optical flows."""
        frame = self._place.prepared(passed)
        if min(frame.size) >= _SMALLEST_SIDE:
            pairs = []
            for other, earlier in self._frames:
                if index - other <= self._work.reach:
                    pairs += [(index, frame, other, earlier), (other, earlier, index, frame)]
            # Other frames than those that are wanted are only borrowed from.
            first, end = self._wanted
            pairs = [p for p in pairs if p[2] >= first and (end is None or p[2] < end)]
            asked = [(neighbour, helped) for _, neighbour, _, helped in pairs]
            answers = self._place.attempt(lambda: self._work.candidates(asked))
            for (source, neighbour, target, helped), helps in zip(pairs, answers, strict=True):
                if helps:
                    self._helpful.add((source, target))
                    self._flows.start(helped, neighbour)
        self._frames.append((index, frame))

    def fused(self, position: int) -> Passed:
        """Fuse the frame at a position with those that help it."""
        target, frame = self._frames[position]
        neighbours = [f for i, f in self._frames if (i, target) in self._helpful]
        return self._place.attempt(lambda: _fused(frame, neighbours, self._flows, self._work))

    def drop(self) -> None:
        """Let go of the first frame."""
        index, frame = self._frames.popleft()
        self._flows.forget(frame)
        self._helpful = {pair for pair in self._helpful if index not in pair}


def _slide(
    frames: Iterable[Passed],
    work: Pass,
    place: _Place,
    flows: Flows,
    wanted: tuple[int, int | None],
    before_frame: Callable[[], None] | None = None,
) -> Iterator[Passed]:
    """Do one pass over a clip; see `borrow_stream`."""
    window = _Window(work, place, flows, wanted)
    source = iter(frames)
    index = position = read = 0
    while wanted[1] is None or index < wanted[1]:
        while len(window) <= position + work.reach and (passed := next(source, None)):
            window.take(passed, read)
            del passed  # frees the memory while others are fused
            read += 1
        if position >= len(window):
            return
        if index >= wanted[0]:
            if before_frame is not None:
                before_frame()
            yield window.fused(position)
        index += 1
        if position < work.reach:
            position += 1
        else:
            window.drop()


@torch.no_grad()
def _fused(frame: Frame, neighbours: Sequence[Frame], flows: Flows, work: Pass) -> Passed:
    """Fuse a frame with its neighbours as far as they are trusted."""
    height, width = frame.size
    fused = frame.rows(0, height)
    pixels = rearrange(fused, "1 c h w -> h w c")
    if not neighbours:
        return pixels, None
    matches, table = _matches(frame, neighbours, flows, work.trust(frame))
    if not matches:
        return pixels, None
    chosen = chosen_columns(table, frame.device)
    for patches, first, last, padding in patch_bands(height, width, len(matches) + 1):
        if not table[patches].any():
            continue
        stack = empty_stack(len(matches) + 1, sum(padding) + last - first, width, frame.device)
        rows = slice(padding[0], padding[0] + last - first)
        inner = stack[:, :, rows, MARGIN : MARGIN + width]
        inner[0] = color = frame.luma_rows(first, last)
        for match, room in zip(matches, inner[1:, None], strict=True):
            confidence = enlarged(match.confidence, frame.size, first, last)
            torch.lerp(color, match.aligned(first, last), confidence, out=room)
        repeat_edges_(stack, padding, width)
        added = aggregate(stack, chosen[patches], work.exponent)
        fused[:, :, first:last] += to_red_(added[None, :, rows, MARGIN : MARGIN + width])
    taken = torch.cat([match.confidence for match in matches]).amax(0, keepdim=True)
    fused.clamp_(0, 1)
    return pixels, taken


def _matches(
    frame: Frame,
    neighbours: Sequence[Frame],
    flows: Flows,
    trust: Advantage | Resemblance,
) -> tuple[list[Match], np.ndarray]:
    """Register neighbours; return those that count, and in which patches any of them does."""
    height, width = frame.size
    room = KEPT_VALUES // (3 * height * width)
    registered = [
        register(frame, neighbour, flows, trust, keep=count < room)
        for count, neighbour in enumerate(neighbours)
    ]
    patches = trusted_patches([match.confidence for match in registered], height, width)
    matches = [match for match, own in zip(registered, patches, strict=True) if own.any()]
    return matches, np.any(patches, axis=0)
