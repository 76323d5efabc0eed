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

The frames are those that the network has restored. They are `[H, W, 3]` or `[T, H, W, 3]`,
float32 in 0..1; while they wait they are kept in 16 bits. Whatever has the size of a frame is
computed in bands of rows, with as many rows more as the result depends on: the memory is that
of the frames at hand, and every band comes out as it would of the whole frame.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .layout import is_out_of_memory

logger = logging.getLogger(__name__)

_BORROWING_REACH = 3
"""Frames before and after each frame that it may borrow from."""
_EVENING_REACH = 1
"""Frames before and after each frame that it is evened out with."""
REACH = _BORROWING_REACH + _EVENING_REACH
"""Frames before and after each frame that its result depends on."""

# The numbers below were chosen on synthetic blur over training photos and clips. Halving or
# doubling any of them moves the mean gain by at most a fifth.
_FLOW_PIXELS = 640 * 360
"""Optical flow is computed on frames shrunk to at most this many pixels, and by at least 2:
blur hides finer motion anyway."""
_SMALLEST_SIDE = 64
"""Frames with a shorter side, in pixels, are left alone: too little to register."""
_FLOW_ERROR = 2.0
"""Pixels that following the flow forth and back may miss its start by."""
_COARSE = 4
"""Agreement and sharpness are compared on pictures shrunk by this factor."""
_DISAGREEMENT = 12 / 255
"""Low-pass difference at which confidence falls to 1/e, where the frame is flat."""
_CONTRAST_TOLERANCE = 0.2
"""Share of the local contrast that is added to it."""
_NOISE_ENERGY = 8 / 255**2
"""Energy between two pass bands that is taken for noise and not for detail."""
_NOISE_PRODUCT = 2 / 255**2
"""What noise adds to the product of the details of two pictures."""
_NO_GAIN, _FULL_GAIN = 1.0, 1.65
"""A neighbour is not used, and fully used, where it has this times the frame's energy. The
steeper, the more a small difference of the input (the tiles of the network) changes."""
_SOFTNESS = 2.5
"""Blur of the confidence, in coarse positions; for the same reason."""
_WORTH_FLOW = 1.05
"""A neighbour is registered if any block of it has this times the frame's energy."""
_LEAST_CONFIDENCE = 0.02
"""Patches in which no neighbour is trusted more than this stay as they are."""
_PATCH = 64
"""Side of the patches that are fused, in pixels."""
_HOP = 48
"""Pixels from one patch to the next."""
_BORROWING_EXPONENT, _EVENING_EXPONENT = 12, 4
"""Exponents of the magnitudes: 0 averages, infinity takes the largest."""
_NO_CORRELATION, _FULL_CORRELATION = 0.6, 0.9
"""A neighbour does not even a frame out, and does so fully, where the correlation of their
detail is this."""
_BATCH_VALUES = 2**22
"""Values of patches that are fused at once: bounds memory."""
_BAND_VALUES = 2**22
"""Values of aligned pictures that are held at once."""
_BAND_PIXELS = 2**18
"""Pixels that are compared at once: bounds memory, and is faster than more."""
_BAND_MARGIN = 12
"""Rows around a band on which its detail depends (8 of a blur, 1 of a change), a multiple of
`_COARSE`."""
_DIRECTIONS = torch.tensor(
    [
        [[0, 0, 0], [-1, 0, 1], [0, 0, 0]],
        [[0, -1, 0], [0, 0, 0], [0, 1, 0]],
        [[-0.7, 0, 0], [0, 0, 0], [0, 0, 0.7]],
        [[0, 0, -0.7], [0, 0, 0], [0.7, 0, 0]],
    ]
)[:, None]
"""Kernels of the changes along rows, columns and diagonals, `[4, 1, 3, 3]`."""
_LUMA = torch.tensor([0.299, 0.587, 0.114])
"""Weights of red, green and blue (Rec. 601)."""


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
    return frames + 4 * (4 * _BAND_VALUES + 8 * _BATCH_VALUES + 32 * _BAND_PIXELS)


@dataclass(eq=False)
class _Frame:
    """A frame and what is compared of it."""

    packed: Tensor
    """`[1, 3, H, W]` int16 on the device: colours in steps of 1/65535, from -32768."""
    small: np.ndarray
    """Luma, uint8, at the size of the flow."""
    coarse: Tensor
    """`[1, 3, h, w]`, shrunk."""
    sharpness: Tensor
    """`[1, 4, h, w]`: energy of changes along four directions, plus that of noise."""
    taken: Tensor | None
    """`[1, 1, h, w]` in 0..1: how far a neighbour was trusted in the pass before, if any."""

    @classmethod
    def of(cls, pixels: Tensor, taken: Tensor | None, device: str | torch.device) -> _Frame:
        height, width = pixels.shape[:2]
        packed = torch.empty((1, 3, height, width), dtype=torch.int16, device=device)
        luma = np.empty((height, width), np.uint8)
        for first, last in _bands(height, width):
            band = pixels[first:last].float().clamp(0, 1)
            eight_bits = (band.cpu().numpy() * 255).round().astype(np.uint8)
            luma[first:last] = cv2.cvtColor(eight_bits, cv2.COLOR_RGB2GRAY)
            steps = rearrange(band, "h w c -> 1 c h w") * 65535
            packed[:, :, first:last] = steps.round_().sub_(32768).to(packed)
        scale = min(0.5, math.sqrt(_FLOW_PIXELS / (height * width)))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
        # Noise and compression mislead the flow more than the loss of fine detail does.
        small = cv2.GaussianBlur(small, (0, 0), 1.0)
        coarse, changes = _compared(
            lambda *rows: _unpacked(packed, *rows), (height, width), _changes
        )
        sharpness = changes + _NOISE_ENERGY
        return cls(
            packed, small, coarse, sharpness, None if taken is None else taken.to(device)
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.packed.shape[2], self.packed.shape[3]

    def rows(self, first: int, last: int) -> Tensor:
        """Return the colours of some rows, `[1, 3, last - first, W]` in 0..1."""
        return _unpacked(self.packed, first, last)

    def pixels(self) -> Tensor:
        """Return the frame, `[H, W, 3]` in 0..1 on the CPU."""
        pixels = torch.empty((*self.size, 3))
        for first, last in _bands(*self.size):
            pixels[first:last] = rearrange(self.rows(first, last), "1 c h w -> h w c")
        return pixels

    def move(self, device: str | torch.device) -> None:
        """Move what lies on a device to another."""
        self.packed, self.coarse, self.sharpness = (
            tensor.to(device) for tensor in (self.packed, self.coarse, self.sharpness)
        )
        self.taken = None if self.taken is None else self.taken.to(device)


class _Flows:
    """Optical flow between pairs of frames, each computed once."""

    def __init__(self) -> None:
        self._method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._known: dict[tuple[int, int], np.ndarray] = {}

    def between(self, first: _Frame, second: _Frame) -> np.ndarray:
        """Return where each position of `first` is in `second`, as offsets `[h, w, 2]`."""
        key = (id(first), id(second))
        if key not in self._known:
            start = np.zeros((*first.small.shape, 2), np.float32)
            self._known[key] = self._method.calc(first.small, second.small, start)
        return self._known[key]

    def forget(self, frame: _Frame) -> None:
        """Let go of what concerns a frame."""
        self._known = {key: f for key, f in self._known.items() if id(frame) not in key}


@dataclass(frozen=True)
class _Pass:
    """What a pass over a clip does with each frame."""

    reach: int
    """Frames before and after that it looks at."""
    exponent: int
    """Of the magnitudes; 0 averages, infinity takes the largest."""
    trust: Callable[[_Frame, _Match], Tensor]
    """From a frame and an aligned neighbour to how far to trust it, `[1, 1, h, w]` in 0..1."""


_Passed = tuple[Tensor, "Tensor | None"]
"""Pixels of a frame, `[H, W, 3]`, and how far neighbours were trusted; see `_Frame.taken`."""


def _slide(
    frames: Iterable[_Passed],
    work: _Pass,
    device: str | torch.device,
    wanted: tuple[int, int | None],
    before_frame: Callable[[], None] | None = None,
) -> Iterator[_Passed]:
    """Do one pass over a clip; see `borrow_stream`."""
    window: deque[_Frame] = deque()
    flows = _Flows()
    source = iter(frames)
    index = position = 0
    while wanted[1] is None or index < wanted[1]:
        while len(window) <= position + work.reach and (passed := next(source, None)):
            window.append(_Frame.of(*passed, device))
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


@dataclass(eq=False)
class _Match:
    """A neighbour registered to a frame."""

    neighbour: _Frame
    flow: Tensor
    """`[1, 2, h, w]`, in pixels of the frame, at the size of the flow."""
    confidence: Tensor
    """`[1, 1, h, w]` in 0..1: how far to trust the neighbour; as coarse as `_Frame.coarse`."""

    def aligned(self, first: int, last: int) -> Tensor:
        """Return the neighbour's colours at some rows of the frame, `[1, 3, rows, W]`."""
        height, width = self.neighbour.size
        flow = _enlarged(self.flow, (height, width), first, last)
        # A tap of the bicubic kernel reaches two rows beyond the position.
        low, high = flow[:, 1].amin() + first, flow[:, 1].amax() + last - 1
        top = min(max(math.floor(low) - 2, 0), height - 1)
        bottom = min(max(math.ceil(high) + 3, top + 1), height)
        return _sample(self.neighbour.rows(top, bottom), flow, "bicubic", first - top)


def _fused(window: Sequence[_Frame], position: int, flows: _Flows, work: _Pass) -> _Passed:
    """Fuse a frame with its neighbours as far as they are trusted."""
    frame = window[position]
    pixels = frame.pixels()
    taken = torch.zeros_like(frame.coarse[:, :1])
    if min(frame.size) < _SMALLEST_SIDE:
        return pixels, taken
    matches = []
    for neighbour in window:
        if neighbour is not frame and _may_help(neighbour, frame):
            match = _matched(frame, neighbour, flows, work.trust)
            if match.confidence.amax() > _LEAST_CONFIDENCE:
                matches.append(match)
                taken = torch.maximum(taken, match.confidence)
    for first, last, padding in _patch_bands(*frame.size, len(matches) + 1) if matches else ():
        trusted = [_enlarged(match.confidence, frame.size, first, last) for match in matches]
        most = torch.cat(trusted).amax(0, keepdim=True)
        if most.amax() <= _LEAST_CONFIDENCE:
            continue
        color = frame.rows(first, last)
        stack = [color]
        for match, confidence in zip(matches, trusted, strict=True):
            stack.append(torch.lerp(color, match.aligned(first, last), confidence))
        added = _aggregate(torch.cat(stack), most, padding, work.exponent)
        pixels[first:last] += rearrange(added, "1 c h w -> h w c").cpu()
    return pixels.clamp_(0, 1), taken


def _may_help(neighbour: _Frame, frame: _Frame) -> bool:
    """Tell whether a neighbour can be of use anywhere: most pairs need no flow."""
    if frame.taken is not None:
        return bool(frame.taken.amax() > _LEAST_CONFIDENCE)
    theirs = F.avg_pool2d(neighbour.sharpness, 8, ceil_mode=True)
    # What is sharp there may have moved by a block or two.
    theirs = F.max_pool2d(theirs, 3, stride=1, padding=1)
    ours = F.avg_pool2d(frame.sharpness, 8, ceil_mode=True)
    return bool((theirs > ours * _WORTH_FLOW).any())


def _matched(
    frame: _Frame, neighbour: _Frame, flows: _Flows, trust: Callable[[_Frame, _Match], Tensor]
) -> _Match:
    """Register a neighbour to a frame."""
    forth = _as_tensor(flows.between(frame, neighbour), frame.coarse)
    back = _as_tensor(flows.between(neighbour, frame), frame.coarse)
    height, width = frame.size
    # In pixels of the frame, for the limit and for the warp.
    scale = torch.tensor([width / forth.shape[3], height / forth.shape[2]]).to(forth)
    miss = (forth + _sample(back, forth, "bilinear")) * scale[:, None, None]
    valid = (miss.square().sum(1, keepdim=True) < _FLOW_ERROR**2) & _inside(forth)
    match = _Match(neighbour, forth * scale[:, None, None], torch.empty(0))
    confidence = trust(frame, match)
    valid = F.interpolate(valid.to(confidence), size=confidence.shape[2:], mode="area")
    confidence = confidence * (valid > 0.99)
    # Shrink by a position, then soften: nothing is taken from beside an occlusion.
    confidence = -F.max_pool2d(-confidence, 3, stride=1, padding=1)
    match.confidence = _blurred(confidence, _SOFTNESS)
    return match


def _agreement(aligned: Tensor, frame: _Frame) -> Tensor:
    """Compare low frequencies, which blur leaves alone: `[1, 1, h, w]` in 0..1.

    `aligned` is shrunk.
    """
    coarse = _blurred(frame.coarse, 1.0)
    difference = _blurred(aligned, 1.0) - coarse
    distance = difference.square().mean(1, keepdim=True).sqrt()
    gray = coarse.mean(1, keepdim=True)
    variance = _blurred(gray.square(), 3.0) - _blurred(gray, 3.0).square()
    tolerance = _DISAGREEMENT + _CONTRAST_TOLERANCE * variance.clamp_min(0).sqrt()
    return torch.exp(-(distance / tolerance).square())


def _advantage(frame: _Frame, match: _Match) -> Tensor:
    """Trust a neighbour as far as it is sharper in its best direction.

    Frames blurred along different directions help each other.
    """
    coarse, changes = _compared(match.aligned, frame.size, _changes)
    ratio = ((changes + _NOISE_ENERGY) / frame.sharpness).amax(1, keepdim=True)
    return _agreement(coarse, frame) * _ramp(ratio, _NO_GAIN, _FULL_GAIN)


def _resemblance(frame: _Frame, match: _Match) -> Tensor:
    """Trust a neighbour as far as its detail is the frame's, where the frame took detail.

    Elsewhere, in sharp clips above all, there is nothing to even out but noise.
    """
    assert frame.taken is not None
    coarse, products = _compared(
        lambda *rows: torch.cat([match.aligned(*rows), frame.rows(*rows)]),
        frame.size,
        _products,
    )
    theirs, ours, both = products.split(1, dim=1)
    correlation = both / ((theirs * ours).sqrt() + _NOISE_PRODUCT)
    alike = _ramp(correlation, _NO_CORRELATION, _FULL_CORRELATION)
    return _agreement(coarse[:1], frame) * alike * frame.taken


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1)


def _compared(
    rows: Callable[[int, int], Tensor],
    size: tuple[int, int],
    compare: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Return what is compared of pictures.

    Args:
        rows: From the first row and one past the last to colours, `[K, 3, rows, W]`.
        size: Height and width of the pictures, in pixels.
        compare: From the detail of their luma, `[K, 1, H, W]`, to what is wanted of it,
            `[1, C, H, W]`.

    Returns:
        The pictures shrunk, `[K, 3, h, w]`, and what is wanted, averaged around each position,
        `[1, C, h, w]`.
    """
    coarse, details = [], []
    for first, last in _bands(*size):
        top = max(first - _BAND_MARGIN, 0)
        band = rows(top, min(last + _BAND_MARGIN, size[0]))
        inner = slice((first - top) // _COARSE, -(-(last - top) // _COARSE))
        coarse.append(_shrunk(band)[:, :, inner])
        details.append(_shrunk(compare(_detail(band)))[:, :, inner])
    return torch.cat(coarse, 2), _blurred(torch.cat(details, 2), 2.0)


def _detail(color: Tensor) -> Tensor:
    """Return a band of the luma's frequencies, `[K, 1, H, W]`."""
    luma = (color * _LUMA.to(color)[:, None, None]).sum(1, keepdim=True)
    return _blurred(luma, 0.8) - _blurred(luma, 2.5)


def _changes(detail: Tensor) -> Tensor:
    """Return the energy of changes along rows, columns and both diagonals, `[1, 4, H, W]`."""
    padded = F.pad(detail, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, _DIRECTIONS.to(detail)).square()


def _products(detail: Tensor) -> Tensor:
    """Return the squares of two pictures and their product, `[1, 3, H, W]`."""
    first, second = detail.split(1)
    return torch.cat([first.square(), second.square(), first * second], dim=1)


def _aggregate(stack: Tensor, taken: Tensor, padding: tuple[int, int], exponent: int) -> Tensor:
    """Fuse aligned pictures patch by patch, where something is taken from any of them.

    Equation 3 of Delbracio & Sapiro: spectra weighted by |v|^p, normalised over the pictures;
    the magnitudes are those of the luma, averaged over neighbouring frequencies.

    Args:
        stack: `[K, 3, H, W]`, the frame itself first, or a band of `_patch_bands`.
        taken: `[1, 1, H, W]`, above 0 where a neighbour counts.
        padding: Rows to repeat before the first and after the last one.
        exponent: p.

    Returns:
        What is to be added to the frame, `[1, 3, H, W]`; bands overlap, and add up.
    """
    height, width = stack.shape[2:]
    margin = _PATCH - _HOP
    pad = (margin, _num_patches(width) * _HOP - width, *padding)
    padded = F.pad(stack, pad, mode="replicate")
    window = _window(stack.device)
    patches = _patches(padded)
    where = _patches(F.pad(taken, pad)).amax(dim=(0, 1, 4, 5)) > _LEAST_CONFIDENCE
    # What the patches add to the frame: nothing where none was fused.
    added = padded.new_zeros(*where.shape, 3, _PATCH, _PATCH)
    places = torch.nonzero(where)
    size = max(1, _BATCH_VALUES // (len(stack) * 3 * _PATCH**2))
    for rows, columns in (part.unbind(1) for part in places.split(size)):
        chosen = patches[:, :, rows, columns]
        mixed = _mixed(rearrange(chosen, "k c n h w -> k n c h w") * window, exponent)
        own = rearrange(chosen[0], "c n h w -> n c h w") * window
        added[rows, columns] = (mixed - own) * window
    folded = F.fold(
        rearrange(added, "r q c h w -> 1 (c h w) (r q)"),
        padded.shape[2:],
        kernel_size=_PATCH,
        stride=_HOP,
    )
    return folded[..., padding[0] : padding[0] + height, margin : margin + width]


def _mixed(patches: Tensor, exponent: int) -> Tensor:
    """Fuse patches `[K, N, 3, P, P]` of K pictures: `[N, 3, P, P]`."""
    spectra = torch.fft.rfft2(patches)
    luma = (spectra * _LUMA.to(spectra)[:, None, None]).sum(2)
    power = torch.view_as_real(luma).square().sum(-1)
    power = F.avg_pool2d(F.pad(power, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    # Over the largest, so that the exponent neither overflows nor lets all vanish.
    weights = (power / power.amax(0).clamp_min(1e-12)).pow(exponent // 2)
    weights = weights / weights.sum(0).clamp_min(1e-12)
    mixed = (spectra * weights[:, :, None]).sum(0)
    return torch.fft.irfft2(mixed, s=(_PATCH, _PATCH))


def _patches(pictures: Tensor) -> Tensor:
    """View `[K, C, H, W]` as overlapping patches `[K, C, rows, columns, P, P]`."""
    return pictures.unfold(2, _PATCH, _HOP).unfold(3, _PATCH, _HOP)


def _window(device: torch.device) -> Tensor:
    """Return `[P, P]` whose squares sum to one over overlapping patches."""
    overlap = _PATCH - _HOP
    ramp = torch.sin((torch.arange(overlap, device=device) + 0.5) / overlap * math.pi / 2)
    line = torch.cat([ramp, ramp.new_ones(_PATCH - 2 * overlap), ramp.flip(0)])
    return line[:, None] * line


def _bands(height: int, width: int) -> list[tuple[int, int]]:
    """Cut rows into bands to compare, which begin at whole coarse positions."""
    rows = max(_BAND_PIXELS // (width * _COARSE), 2 * _BAND_MARGIN) * _COARSE
    return list(pairwise([*range(0, height, rows), height]))


def _patch_bands(
    height: int, width: int, num_pictures: int
) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Cut rows into bands of whole patches.

    Args:
        height: In pixels.
        width: In pixels.
        num_pictures: That are held at once.

    Yields:
        First row, one past the last, and how many rows to add on both sides.
    """
    margin, patch_rows = _PATCH - _HOP, _num_patches(height)
    at_once = max(1, _BAND_VALUES // (num_pictures * 3 * width * _HOP))
    for start in range(0, patch_rows, at_once):
        # Patch i covers rows i * _HOP - margin to i * _HOP + _HOP.
        first, last = start * _HOP - margin, min(start + at_once, patch_rows) * _HOP
        yield max(first, 0), min(last, height), (max(-first, 0), max(last - height, 0))


def _num_patches(length: int) -> int:
    """Return the patches along rows or columns: their windows sum to one up to the end."""
    return -(-(length + _PATCH - _HOP) // _HOP)


def _unpacked(packed: Tensor, first: int, last: int) -> Tensor:
    return (packed[:, :, first:last].float() + 32768) / 65535


def _enlarged(picture: Tensor, size: tuple[int, int], first: int, last: int) -> Tensor:
    """Return some rows of a `[1, C, h, w]` picture enlarged bilinearly to `size`."""
    height, width = size
    rows = torch.arange(first, last, device=picture.device)
    positions = ((rows + 0.5) * (picture.shape[2] / height) - 0.5).clamp_min(0)
    above = positions.floor().long().clamp_max(picture.shape[2] - 1)
    below = (above + 1).clamp_max(picture.shape[2] - 1)
    share = (positions - above).to(picture)[:, None]
    mixed = torch.lerp(picture[:, :, above], picture[:, :, below], share)
    return F.interpolate(mixed, size=(last - first, width), mode="bilinear")


def _sample(picture: Tensor, flow: Tensor, mode: str, row: int = 0) -> Tensor:
    """Read `[1, C, H, W]` at each position plus its offset `[1, 2, rows, W]`, in pixels.

    `row` is where the first row of the flow lies in the picture.
    """
    height, width = picture.shape[2:]
    position = _positions(flow) + flow
    position[:, 1] += row
    limits = torch.tensor([max(width - 1, 1), max(height - 1, 1)]).to(flow)
    grid = rearrange(position, "1 c h w -> 1 h w c") * (2 / limits) - 1
    return F.grid_sample(picture, grid, mode, padding_mode="border", align_corners=True)


def _inside(flow: Tensor) -> Tensor:
    """Tell which positions have their counterpart inside the picture: `[1, 1, H, W]`."""
    x, y = (_positions(flow) + flow).split(1, dim=1)
    height, width = flow.shape[2:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _positions(flow: Tensor) -> Tensor:
    """Return x and y of each position, `[1, 2, H, W]`."""
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device),
        torch.arange(width, device=flow.device),
        indexing="ij",
    )
    return torch.stack([x, y])[None].to(flow)


def _as_tensor(flow: np.ndarray, like: Tensor) -> Tensor:
    return rearrange(torch.from_numpy(flow), "h w c -> 1 c h w").to(like)


def _shrunk(picture: Tensor) -> Tensor:
    return F.avg_pool2d(picture, _COARSE, ceil_mode=True, count_include_pad=False)


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    """Blur `[1, C, H, W]` with a Gaussian of `sigma` positions."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=picture.device)
    line = torch.exp(-0.5 * (offsets / sigma) ** 2)
    line = (line / line.sum()).to(picture).expand(picture.shape[1], 1, 1, -1)
    groups = picture.shape[1]
    padded = F.pad(picture, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, line, groups=groups)
    return F.conv2d(rows, line.mT, groups=groups)
