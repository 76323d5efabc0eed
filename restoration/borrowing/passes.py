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
0..1.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..denoising.layout import is_out_of_memory
from .patch_fusion import BAND_VALUES, BATCH_VALUES, LEAST_CONFIDENCE, aggregate, patch_bands
from .registration import (
    BAND_PIXELS,
    Flows,
    Frame,
    Match,
    blurred,
    change_energies,
    compared,
    detail_products,
    enlarged,
    register,
)

logger = logging.getLogger(__name__)
_BORROWING_REACH = 3
"""Frames before and after each frame that it may borrow from."""
_EVENING_REACH = 1
"""Frames before and after each frame that it is evened out with."""
REACH = _BORROWING_REACH + _EVENING_REACH
"""Frames before and after each frame that its result depends on."""
# The numbers below were chosen on synthetic blur over training photos and clips. Halving or
# doubling any of them moves the mean gain by at most a fifth.
_SMALLEST_SIDE = 64
"""Frames with a shorter side, in pixels, are left alone: too little to register."""
_DISAGREEMENT = 12 / 255
"""Low-pass difference at which confidence falls to 1/e, where the frame is flat."""
_CONTRAST_TOLERANCE = 0.2
"""Share of the local contrast that is added to it."""
_NOISE_ENERGY = 8 / 255**2
"""Energy between two pass bands that is taken for noise and not for detail."""
_NOISE_PRODUCT = 2 / 255**2
"""What noise adds to the product of the details of two pictures."""
_NO_GAIN, _FULL_GAIN = 1.0, 1.8
"""A neighbour is not used, and fully used, where it has this times the frame's energy. The
steeper, the more a small difference of the input (the tiles of the network) changes."""
_WORTH_FLOW = 1.05
"""A neighbour is registered if any block of it has this times the frame's energy."""
_BORROWING_EXPONENT, _EVENING_EXPONENT = 12, 4
"""Exponents of the magnitudes: 0 averages, infinity takes the largest."""
_NO_CORRELATION, _FULL_CORRELATION = 0.6, 0.9
"""A neighbour does not even a frame out, and does so fully, where the correlation of their
detail is this."""


def borrow(frames: Tensor, device: str | torch.device = "cpu") -> Tensor:
    """Return a clip whose frames took detail from sharper neighbours.

    Args:
        frames: `[T, H, W, 3]`, float32 in 0..1, of one shot.
        device: Where to compute; the optical flow is always computed on the CPU.

    Returns:
        The same shape, float32 in 0..1, on the CPU.
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
        frames: `[H, W, 3]` each, float32, of one shot and one size; values beyond 0..1 are
            clamped.
        device: Where to compute; the optical flow is always computed on the CPU.
        wanted: First and last (exclusive) frame to yield; the others are only borrowed from.
        before_frame: Called before each frame that is yielded; may raise to cancel.

    Yields:
        The frames that are wanted, in order, float32 in 0..1 on the CPU.
    """
    begin, end = (0, None) if wanted is None else wanted
    first = max(begin - _EVENING_REACH, 0)
    borrowed = _slide(
        # Not a generator, which would keep the frame it has handed out.
        map(lambda pixels: (pixels, None), frames),
        _Pass(_BORROWING_REACH, _BORROWING_EXPONENT, _advantage),
        device,
        (first, None if end is None else end + _EVENING_REACH),
    )
    evened = _slide(
        borrowed,
        _Pass(_EVENING_REACH, _EVENING_EXPONENT, _resemblance),
        device,
        (begin - first, None if end is None else end - first),
        before_frame,
    )
    return map(itemgetter(0), evened)


def borrowing_bytes(height: int, width: int) -> int:
    """Return the memory that borrowing takes on its device at this frame size, in bytes."""
    # By arithmetic: the frames at hand in 16 bits, a band of aligned copies, and patches.
    at_hand = 2 * _BORROWING_REACH + 1 + 2 * _EVENING_REACH + 1
    frames = at_hand * height * width * 3 * 2
    return frames + 4 * (4 * BAND_VALUES + 8 * BATCH_VALUES + 32 * BAND_PIXELS)


@dataclass(frozen=True)
class _Pass:
    """What a pass over a clip does with each frame."""

    reach: int
    """Frames before and after that it looks at."""
    exponent: int
    """Of the magnitudes; 0 averages, infinity takes the largest."""
    trust: Callable[[Frame, Match], Tensor]
    """From a frame and an aligned neighbour to how far to trust it, `[1, 1, h, w]` in 0..1."""


_Passed = tuple[Tensor, "Tensor | None"]
"""Pixels of a frame, `[H, W, 3]`, and how far neighbours were trusted; see `Frame.taken`."""


def _slide(
    frames: Iterable[_Passed],
    work: _Pass,
    device: str | torch.device,
    wanted: tuple[int, int | None],
    before_frame: Callable[[], None] | None = None,
) -> Iterator[_Passed]:
    """Do one pass over a clip; see `borrow_stream`."""
    window: deque[Frame] = deque()
    flows = Flows()
    source = iter(frames)
    index = position = 0
    while wanted[1] is None or index < wanted[1]:
        while len(window) <= position + work.reach and (passed := next(source, None)):
            window.append(Frame.of(*passed, device))
            del passed  # frees the memory while others are fused
        if position >= len(window):
            return
        if index >= wanted[0]:
            if before_frame is not None:
                before_frame()
            try:
                fused = _fused(window, position, flows, work)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if str(device) == "cpu" or not is_out_of_memory(error):
                    raise
                fused = None
            if fused is None:
                # Outside the handler, so that the failed attempt's tensors are let go.
                logger.warning("out of memory: going on with borrowing on the CPU")
                device = "cpu"
                for frame in window:
                    frame.move(device)
                fused = _fused(window, position, flows, work)
            yield fused
        index += 1
        if position < work.reach:
            position += 1
        else:
            flows.forget(window.popleft())


def _fused(window: Sequence[Frame], position: int, flows: Flows, work: _Pass) -> _Passed:
    """Fuse a frame with its neighbours as far as they are trusted."""
    frame = window[position]
    pixels = frame.pixels()
    taken = torch.zeros_like(frame.coarse[:, :1])
    if min(frame.size) < _SMALLEST_SIDE:
        return pixels, taken
    matches = []
    for neighbour in window:
        if neighbour is not frame and _may_help(neighbour, frame):
            match = register(frame, neighbour, flows, work.trust)
            if match.confidence.amax() > LEAST_CONFIDENCE:
                matches.append(match)
                taken = torch.maximum(taken, match.confidence)
    for first, last, padding in patch_bands(*frame.size, len(matches) + 1) if matches else ():
        trusted = [enlarged(match.confidence, frame.size, first, last) for match in matches]
        most = torch.cat(trusted).amax(0, keepdim=True)
        if most.amax() <= LEAST_CONFIDENCE:
            continue
        color = frame.rows(first, last)
        stack = [color]
        for match, confidence in zip(matches, trusted, strict=True):
            stack.append(torch.lerp(color, match.aligned(first, last), confidence))
        added = aggregate(torch.cat(stack), most, padding, work.exponent)
        pixels[first:last] += rearrange(added, "1 c h w -> h w c").cpu()
    return pixels.clamp_(0, 1), taken


def _may_help(neighbour: Frame, frame: Frame) -> bool:
    """Tell whether a neighbour can be of use anywhere: most pairs need no flow."""
    if frame.taken is not None:
        return bool(frame.taken.amax() > LEAST_CONFIDENCE)
    theirs = F.avg_pool2d(neighbour.changes + _NOISE_ENERGY, 8, ceil_mode=True)
    # What is sharp there may have moved by a block or two.
    theirs = F.max_pool2d(theirs, 3, stride=1, padding=1)
    ours = F.avg_pool2d(frame.changes + _NOISE_ENERGY, 8, ceil_mode=True)
    return bool((theirs > ours * _WORTH_FLOW).any())


def _advantage(frame: Frame, match: Match) -> Tensor:
    """Trust a neighbour as far as it is sharper in its best direction.

    Frames blurred along different directions help each other.
    """
    coarse, changes = compared(match.aligned, frame.size, change_energies)
    ratio = ((changes + _NOISE_ENERGY) / (frame.changes + _NOISE_ENERGY)).amax(1, keepdim=True)
    return _agreement(coarse, frame) * _ramp(ratio, _NO_GAIN, _FULL_GAIN)


def _resemblance(frame: Frame, match: Match) -> Tensor:
    """Trust a neighbour as far as its detail is the frame's, where the frame took detail.

    Elsewhere, in sharp clips above all, there is nothing to even out but noise.
    """
    assert frame.taken is not None
    coarse, products = compared(
        lambda *rows: torch.cat([match.aligned(*rows), frame.rows(*rows)]),
        frame.size,
        detail_products,
    )
    theirs, ours, both = products.split(1, dim=1)
    correlation = both / ((theirs * ours).sqrt() + _NOISE_PRODUCT)
    alike = _ramp(correlation, _NO_CORRELATION, _FULL_CORRELATION)
    return _agreement(coarse[:1], frame) * alike * frame.taken


def _agreement(aligned: Tensor, frame: Frame) -> Tensor:
    """Compare low frequencies, which blur leaves alone: `[1, 1, h, w]` in 0..1.

    `aligned` is shrunk.
    """
    coarse = blurred(frame.coarse, 1.0)
    difference = blurred(aligned, 1.0) - coarse
    distance = difference.square().mean(1, keepdim=True).sqrt()
    gray = coarse.mean(1, keepdim=True)
    variance = blurred(gray.square(), 3.0) - blurred(gray, 3.0).square()
    tolerance = _DISAGREEMENT + _CONTRAST_TOLERANCE * variance.clamp_min(0).sqrt()
    return torch.exp(-(distance / tolerance).square())


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1)
