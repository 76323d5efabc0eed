"""Borrow detail from sharper neighbours: align, compare, fuse in the Fourier domain.

A hand pauses between shakes: a frame that is blurred often has neighbours that are not, or
that are blurred along another direction. After Delbracio & Sapiro, "Hand-held video
deblurring via efficient Fourier aggregation" (arXiv 1509.05251), the frames around each frame
are registered to it by optical flow, and every patch is fused with weights that grow with the
magnitude of each frequency, so that what any of them kept is kept. On top of that only what
is sharper is taken, and only where it agrees with the frame at low frequencies: on a frame
that none of its neighbours can help nothing changes.

A second pass does the same with what the first one made: frames are sharper now, so their
motion is found more exactly, and detail comes from further away.

Neighbouring frames then differ in what they took, which flickers. So where a frame took
something, a last pass evens it out with the frames right beside it, as far as their detail
correlates.

A frame is sharp in two ways: as the network restored it, and as it came. A network sharpens
blurred frames more than others, which hides what their neighbours really show; so a neighbour
counts if it is sharper in either way. What a first stage made of a frame is followed as far as
it explains the blurry frame (`first_candidate`).

The frames are those that the network has restored, `[H, W, 3]` or `[T, H, W, 3]`, float32 in
0..1. They stay on the device: 8-bit luma goes down for optical flow, the flows come up, and
five short tables per frame are read (two of each borrowing pass, one of the last) to decide
what is worth computing.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import TypeVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..denoising.layout import is_out_of_memory
from .candidates import Frame, Panel, Passed, sharper
from .comparison import Advantage, Resemblance
from .filters import BAND_PIXELS, enlarged, to_red_
from .first_candidate import completed, evidence_of, judged
from .flows import FLOW_PIXELS, FULL, HALF, Estimate, Flows, optical_flow
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
REACH = 2 * _BORROWING_REACH + _EVENING_REACH
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
    frames: Iterable[Tensor] | Iterable[Panel],
    device: str | torch.device = "cpu",
    wanted: tuple[int, int] | None = None,
    before_frame: Callable[[], None] | None = None,
    refused: Callable[[], None] | None = None,
    estimate: Estimate = optical_flow,
) -> Iterator[Tensor]:
    """Borrow and even out frame by frame, looking `REACH` frames ahead.

    Args:
        frames: `[H, W, 3]` each, float32, of one shot and one size, on any device; values
            beyond 0..1 are clamped. Or what there is of each: then neighbours are also
            compared as they came, and a first stage is followed where it can be trusted.
        device: Where to compute; the optical flow is always computed on the CPU.
        wanted: First and last (exclusive) frame to yield; the others are only borrowed from.
        before_frame: Called before each frame that is yielded; may raise to cancel.
        refused: Called for each frame of which a first stage shows something else.
        estimate: How motion is found; see `Flows`.

    Yields:
        The frames that are wanted, in order, float32 in 0..1 on `device`; on the CPU for "mps",
        and from where memory ran out.
    """
    # Not a loop, which would keep the frame it has handed out.
    both = borrow_with_trust(frames, device, wanted, before_frame, refused, estimate)
    yield from map(itemgetter(0), both)


def borrow_with_trust(
    frames: Iterable[Tensor] | Iterable[Panel],
    device: str | torch.device = "cpu",
    wanted: tuple[int, int] | None = None,
    before_frame: Callable[[], None] | None = None,
    refused: Callable[[], None] | None = None,
    estimate: Estimate = optical_flow,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Do what `borrow_stream` does, and say how far neighbours were trusted.

    Yields:
        Each frame as there, and `Frame.taken` of it.
    """
    begin, end = (0, None) if wanted is None else wanted
    place = _Place(torch.device(device))
    # Not a generator, which would keep the frame it has handed out.
    passed: Iterable[Passed] = map(partial(place.taken_in, refused=refused), frames)
    with Flows(HALF, estimate) as coarse, Flows(FULL, estimate) as fine:
        # Each with the frames that the passes after it look ahead.
        start = 0
        for work, flows, later in (
            (BORROWING, coarse, _BORROWING_REACH + _EVENING_REACH),
            (BORROWING, fine, _EVENING_REACH),
            (EVENING, fine, 0),
        ):
            if work is EVENING:
                passed = map(place.completed, passed)
            first = max(begin - later, 0)
            span = first - start, None if end is None else end + later - start
            passed = _slide(passed, work, place, flows, span, None if later else before_frame)
            start = first
        yield from map(place.finished, passed)


def borrowing_bytes(height: int, width: int) -> int:
    """Return the memory that borrowing takes on its device at this frame size, in bytes."""
    # A test holds this to the tensors that are alive at once.
    pixels = height * width
    at_hand = 2 * (2 * _BORROWING_REACH + 1) + 2 * _EVENING_REACH + 1
    # Each in 16 bits, its 8-bit luma, what is compared of it, shrunk, and the rest of a first
    # stage in 16 bits.
    frames = at_hand * pixels * (3 * 2 + 1 + 4 + 3 * 2)
    # In float32: a frame that comes or goes, one being fused, and one being aligned.
    whole = 3 * pixels * 3 * 4
    kept = 4 * min(KEPT_VALUES, 2 * _BORROWING_REACH * 3 * pixels)
    # Bands that are compared, stacks of pictures, and patches: no more than so many of a frame.
    working = 4 * min(2 * BAND_VALUES + 2 * BATCH_VALUES + 16 * BAND_PIXELS, 96 * pixels)
    return frames + whole + kept + working + flow_bytes(height, width)


def flow_bytes(height: int, width: int) -> int:
    """Return what of `borrowing_bytes` optical flows take, which come from the host."""
    pixels = height * width
    # Of all pairs within reach of each other, both ways.
    pairs = sum(range(2 * _BORROWING_REACH + 1)) - sum(range(_BORROWING_REACH + 1))
    coarse = pairs * 2 * 2 * 4 * min(FLOW_PIXELS, int(pixels * HALF**2))
    fine = (pairs + 2 * _EVENING_REACH) * 2 * 2 * 4 * min(FLOW_PIXELS, pixels)
    return coarse + fine


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

    def taken_in(self, frame: Tensor | Panel, refused: Callable[[], None] | None) -> Passed:
        """Begin with a frame; see `borrow_stream`."""
        if isinstance(frame, Tensor):
            return Passed(frame)

        def begun() -> tuple[Passed, bool]:
            panel = frame.on(self.device)
            part = judged(panel)
            # Where nothing restored it, there is nothing else to compare.
            seen = None if frame.blurry is frame.restored else evidence_of(panel.blurry)
            return Passed(part.pixels, seen=seen, rest=part.rest), part.is_refused

        passed, is_refused = self.attempt(begun)
        if is_refused and refused is not None:
            refused()
        return passed

    def completed(self, passed: Passed) -> Passed:
        """Give a frame what it gets where it took nothing."""
        if passed.rest is None:
            return passed
        pixels = self.attempt(
            lambda: completed(passed.pixels.clone(), passed.rest, passed.taken)
        )
        return Passed(pixels, passed.taken)

    def prepared(self, passed: Passed) -> Frame:
        """Take a frame into a pass."""
        frame = self.attempt(lambda: Frame.of(passed, self.device))
        self._frames.add(frame)
        return frame

    def finished(self, passed: Passed) -> tuple[Tensor, Tensor | None]:
        """Return a frame as the stream hands it out."""
        return self.attempt(lambda: passed.pixels.to(self.device).contiguous()), passed.taken


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
    passed = Passed(pixels, frame.taken, frame.seen, frame.rest)
    if not neighbours:
        return passed
    matches, table = _matches(frame, neighbours, flows, work.trust(frame))
    if not matches:
        return passed
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
    fused.clamp_(0, 1)
    trusted = [match.confidence for match in matches]
    if frame.taken is not None:
        trusted.append(frame.taken)
    return replace(passed, taken=torch.cat(trusted).amax(0, keepdim=True))


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
