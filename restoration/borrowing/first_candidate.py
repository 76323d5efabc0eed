"""How far to follow a first stage: blurred again, its result must give the blurry frame back.

In every block of a frame the small kernel is fitted, by least squares, that turns the result
into the blurry frame. Where the kernel is wide, the frame is blurred and the result is sharper
by just that blur. Where it is narrow, there is nothing to restore, and what such a network
changes of a sharp picture is mostly wrong. Where no kernel explains the frame, the result shows
something else: noise, another picture, or this one displaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .candidates import Panel
from .comparison import compared, energies_of, ramp, tolerance
from .filters import bands, enlarged, resized, to_luma_

_BLOCK, _HOP = 32, 16
"""Side of the blocks that a kernel is fitted in, and from one to the next, in pixels."""
_RADIUS = 4
"""Of the kernels, in pixels."""
_BLOCKS_AT_ONCE = 16
"""Bounds memory: about 1 MB each."""
_RIDGE = 1e-3
"""Of the mean diagonal of the normal equations, added to it."""
_NOISE = (1.5 / 255) ** 2
"""Variance that no kernel has to explain."""
# Chosen with MAXIM as first stage, on synthetic blur over training photos and clips and on the
# development pairs (docs/decisions.md).
_SHARP, _BLURRED = 1.7, 3.0
"""Width of the kernel, in pixels, up to which a frame is left alone, and from which the first
stage is followed. Noise and the ridge make that of an unblurred frame about 1.6."""
_FLAT, _TEXTURED = 1 / 255, 4 / 255
"""Deviation of a block up to which there is nothing to sharpen, and from which there is."""
_EXPLAINED, _UNEXPLAINED = 0.012, 0.035
"""Share of a block's energy that the kernel may leave over, and from which it is refused;
of pictures shrunk by 2, so that kernels reach far enough."""
_NEAR, _DISPLACED = 2.0, 3.0
"""Pixels by which the kernel's centre may be off, and from which it is refused."""
_REFUSED = 0.3
"""Share of a frame's energy left over from which the whole result is refused."""
_BORROWING_SHARE = 0.5
"""How much of a first stage the frames have that borrow: what it invents must not hide from
them what their neighbours really show."""
_SHARE = 0.9
"""How much of it they have in the end, where no neighbour helped."""
_REST_STEPS = 32767
"""Steps of a whole range in what is kept for the end."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A frame that is about to borrow, and what it gets where it does not."""

    pixels: Tensor
    """`[H, W, 3]`, float32."""
    rest: Tensor | None = None
    """int16 `[1, 3, H, W]`, see `Frame.rest`."""
    is_refused: bool = False
    """Whether the first stage showed something else than the frame."""


@torch.no_grad()
def judged(panel: Panel) -> Judged:
    """Follow the first stage as far as it explains the blurry frame."""
    if panel.first is None:
        return Judged(panel.restored)
    trust = _trust(panel.blurry, panel.first)
    if trust is None:
        return Judged(panel.restored, is_refused=True)
    pixels = panel.restored.clone()
    height, width = pixels.shape[:2]
    rest = torch.empty((1, 3, height, width), dtype=torch.int16, device=pixels.device)
    for first, last in bands(height, width):
        change = _change(panel, trust, first, last)
        pixels[first:last] += _BORROWING_SHARE * change
        left = (change * ((_SHARE - _BORROWING_SHARE) * _REST_STEPS)).round_()
        rest[:, :, first:last] = rearrange(left, "h w c -> 1 c h w")
    return Judged(pixels, rest)


@torch.no_grad()
def followed(panel: Panel, refused: Callable[[], None] | None = None) -> Tensor:
    """Return a frame that does not borrow, `[H, W, 3]`; see `passes.borrow_stream`."""
    part = judged(panel)
    if part.is_refused and refused is not None:
        refused()
    return completed(part.pixels, part.rest, None)


def completed(pixels: Tensor, rest: Tensor | None, taken: Tensor | None) -> Tensor:
    """Add what a frame gets where it took nothing.

    Args:
        pixels: `[H, W, 3]`, float32; changed in place.
        rest: As `Judged.rest`.
        taken: As `Frame.taken`.

    Returns:
        `pixels`, in 0..1 if something was added.
    """
    if rest is None:
        return pixels
    size = pixels.shape[0], pixels.shape[1]
    for first, last in bands(*size):
        added = rest[:, :, first:last].float().div_(_REST_STEPS)
        if taken is not None:
            added *= 1 - enlarged(taken, size, first, last)
        pixels[first:last] += rearrange(added, "1 c h w -> h w c")
    return pixels.clamp_(0, 1)


def evidence_of(blurry: Tensor) -> Tensor:
    """Return `Frame.seen` of a frame as it came, `[H, W, 3]`."""
    height, width = blurry.shape[:2]

    def rows(first: int, last: int) -> Tensor:
        band = rearrange(blurry[first:last], "h w c -> 1 c h w").to(torch.float32, copy=True)
        return to_luma_(band.clamp_(0, 1))

    return compared(rows, (height, width), energies_of)[1]


def _change(panel: Panel, trust: Tensor, first: int, last: int) -> Tensor:
    """Return what the first stage changes in some rows, as far as it is trusted."""
    assert panel.first is not None
    size = panel.restored.shape[0], panel.restored.shape[1]
    share = enlarged(trust, size, first, last)
    change = panel.first[first:last].clamp(0, 1) - panel.restored[first:last]
    return change * rearrange(share, "1 1 h w -> h w 1")


def _trust(blurry: Tensor, candidate: Tensor) -> Tensor | None:
    """Return how far to follow a candidate `[H, W, 3]`: `[1, 1, rows, columns]` in 0..1.

    None if it shows something else than the frame.
    """
    seen, shown = _luma(blurry), _luma(candidate)
    shrunk = _fitted(
        F.avg_pool2d(seen, 2, ceil_mode=True), F.avg_pool2d(shown, 2, ceil_mode=True)
    )
    left, energy = _smoothed(shrunk["left"]), _smoothed(shrunk["energy"])
    if float(left.sum() / (energy.sum() + _NOISE)) > _REFUSED:
        return None
    fits = _fitted(seen, shown)
    explained = 1 - ramp(left / (energy + _NOISE), _EXPLAINED, _UNEXPLAINED)
    texture = fits["energy"].sqrt() + 1 / 255
    width = _smoothed(fits["width"] * texture) / _smoothed(texture)
    displaced = _smoothed(fits["offset"] * texture) / _smoothed(texture)
    differs = fits["difference"] / tolerance(fits["energy"].sqrt())
    trust = ramp(width, _SHARP, _BLURRED) * resized(explained, (width.shape[2], width.shape[3]))
    trust *= ramp(_smoothed(fits["energy"]).sqrt(), _FLAT, _TEXTURED)
    trust *= 1 - ramp(displaced, _NEAR, _DISPLACED)
    return trust * differs.square_().neg_().exp_()


def _luma(pixels: Tensor) -> Tensor:
    """Return the luma of `[H, W, 3]`, float32 `[1, 1, H, W]`."""
    color = rearrange(pixels, "h w c -> 1 c h w").to(torch.float32, copy=True)
    return to_luma_(color)[:, :1].contiguous()


def _blocks_of(luma: Tensor, margin: int = 0) -> Tensor:
    """Cut a picture into overlapping blocks with margins, a view `[rows, columns, S, S]`.

    Each is centred on its share of the picture, so that maps of blocks are pictures, shrunk.
    """
    height, width = luma.shape[2:]
    before = (_BLOCK - _HOP) // 2 + margin
    padding = (before, before + -width % _HOP, before, before + -height % _HOP)
    side = _BLOCK + 2 * margin
    padded = F.pad(luma, padding, mode="replicate")[0, 0]
    return padded.unfold(0, side, _HOP).unfold(1, side, _HOP)


def _fitted(blurry: Tensor, candidate: Tensor) -> dict[str, Tensor]:
    """Fit a kernel in every block of two pictures `[1, 1, H, W]`, luma.

    Returns:
        Maps `[1, 1, rows, columns]`: `energy` of the blurry block; what is `left` of it
        unexplained; `width` of the kernel and `offset` of its centre, in pixels; `difference`
        of the means.
    """
    rows = []
    both = _blocks_of(blurry), _blocks_of(candidate, _RADIUS)
    for blocks, others in zip(*both, strict=True):
        parts = zip(blocks.split(_BLOCKS_AT_ONCE), others.split(_BLOCKS_AT_ONCE), strict=True)
        rows.append(torch.cat([_fitted_blocks(*part) for part in parts], dim=1))
    names = ("energy", "left", "width", "offset", "difference")
    maps = torch.stack(rows, dim=1)
    return {name: each[None, None] for name, each in zip(names, maps, strict=True)}


def _fitted_blocks(blurry: Tensor, candidate: Tensor) -> Tensor:
    """Fit blocks `[N, S, S]`; see `_fitted` for the five values of each, `[5, N]`."""
    window = _window(blurry.device)
    target = blurry.flatten(1)
    mean = (target * window).sum(1, keepdim=True)
    target = target - mean
    # [N, pixels, shifts]
    shifted = F.unfold(candidate[:, None], _BLOCK) - mean[..., None]
    weighted = shifted * window[:, None]
    normal = shifted.mT @ weighted
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal += _RIDGE * diagonal.mean(1, keepdim=True) + _NOISE
    kernel = torch.linalg.solve(normal, weighted.mT @ target[..., None])
    left = (target - (shifted @ kernel)[..., 0]).square_()
    middle = shifted[:, :, shifted.shape[2] // 2]
    width, offset = _extent(kernel[..., 0])
    energy, left, difference = (
        (each * window).sum(1) for each in (target.square(), left, middle)
    )
    return torch.stack([energy, left, width, offset, difference.abs_()])


def _extent(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the width of kernels `[N, shifts]` and how far off their centres are."""
    side = 2 * _RADIUS + 1
    weights = kernels.clamp_min(0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min_(1e-6)
    steps = torch.arange(-_RADIUS, _RADIUS + 1.0, device=kernels.device)
    y, x = steps.repeat_interleave(side), steps.repeat(side)
    centre_x, centre_y = (weights * x).sum(1), (weights * y).sum(1)
    offset = centre_x.square() + centre_y.square()
    spread = (weights * (x.square() + y.square())).sum(1) - offset
    return spread.clamp_min_(0).sqrt_(), offset.sqrt_()


def _smoothed(maps: Tensor) -> Tensor:
    """Average over 5 x 5 blocks."""
    return F.avg_pool2d(F.pad(maps, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


@lru_cache(maxsize=16)
def _window(device: torch.device) -> Tensor:
    """Return the weights of a block's pixels, which sum to one."""
    line = torch.hann_window(_BLOCK, periodic=False)
    window = (line[:, None] * line).flatten()
    return (window / window.sum()).to(device)
