"""Try a first stage on test pictures whose sharp form is known, before it is used.

In a frame a network that sharpens too much cannot be told from one that restores: blurred
again, both give the frame back. Here the answer is known. What would be followed of its result
(`first_candidate`) must leave a sharp picture as it is, and make a blurred one no worse; and a
network for single images must itself make a blurred one better, or it is of no use.

The picture shows *dead leaves*, discs of many sizes one over another, whose edges and spectrum
are like those of photographs (Lee, Mumford and Huang, "Occlusion models for natural images",
IJCV 2001).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ..borrowing.candidates import Panel
from ..borrowing.first_candidate import completed, judged
from ..engine import Engine
from ..settings import RestorationSettings

_SIDE = 192
"""Of the pictures, in pixels."""
_FINER = 4
"""How many times larger they are painted, for smooth edges."""
_SMALLEST, _LARGEST = 2.0, 64.0
"""Radii of the discs, in pixels; their number falls with the cube of the radius."""
_NUM_DISCS = 30_000
"""Enough to cover the picture."""
_BLUR, _ANGLE = 7.0, 2.2
"""Length in pixels and direction in radians of the straight motion in the blurred picture."""
_NOISE = 1 / 255
"""Deviation of the noise of both pictures."""
# docs/decisions.md has what real and wrong networks reach.
_LEAST_DB = 22.0
"""PSNR below which a result of the sharp picture is another one, or this one displaced."""
_MOST_LOST_DB = {"sharp": 1.0, "blurred": 0.1}
"""What following a network's result may take from the PSNR of a picture."""
_LEAST_GAINED_DB = 0.5
"""What a network for single images must itself give to the PSNR of the blurred picture."""
_SETTINGS = RestorationSettings(borrow=False, scene_cuts=False)


@dataclass(frozen=True)
class Outcome:
    """What became of a test picture, PSNR in dB."""

    before: float
    """Of what the network was given."""
    own: float
    """Of its result."""
    followed: float | None
    """Of the picture after as much of the result was followed as would be of a frame's; None:
    it was refused."""


@dataclass(frozen=True)
class _Picture:
    shown: Tensor
    """`[H, W, 3]`, float32 in 0..1: what the network is given."""
    sharp: Tensor
    """The same shape: what it should make of it."""


def fault_of(engine: Engine) -> str | None:
    """Try the network of an engine.

    Args:
        engine: On its device, ready to work.

    Returns:
        Why its results are not to be trusted, as the end of a sentence, or None.
    """
    restores_images = engine.near(engine.config) == 0
    try:
        for kind, outcome in outcomes(engine):
            if (fault := _fault(kind, outcome, restores_images)) is not None:
                return fault
    except FloatingPointError:
        return "it gave values that are not finite on a test picture"
    return None


@torch.no_grad()
def outcomes(engine: Engine) -> Iterator[tuple[str, Outcome]]:
    """Restore the test pictures, `sharp` first, then `blurred`.

    Raises:
        FloatingPointError: If the network gives values that are not finite.
    """
    for kind, picture in _pictures().items():
        result = engine.restore(picture.shown[None], _SETTINGS)[0]
        part = judged(Panel(picture.shown, picture.shown, result))
        followed = None
        if not part.is_refused:
            followed = _psnr(completed(part.pixels, part.rest, None), picture.sharp)
        before = _psnr(picture.shown, picture.sharp)
        yield kind, Outcome(before, _psnr(result, picture.sharp), followed)


def _fault(kind: str, outcome: Outcome, restores_images: bool) -> str | None:
    before, own, followed = outcome.before, outcome.own, outcome.followed
    if followed is None or (kind == "sharp" and own < _LEAST_DB):
        return f"it shows something else than a {kind} test picture"
    if before - followed > _MOST_LOST_DB[kind]:
        return (
            f"what would be followed of it makes a {kind} test picture worse "
            f"({before:.1f} dB becomes {followed:.1f} dB)"
        )
    if kind == "blurred" and restores_images and own - before < _LEAST_GAINED_DB:
        return (
            f"it hardly deblurs a blurred test picture ({before:.1f} dB becomes {own:.1f} dB)"
        )
    return None


def _pictures() -> dict[str, _Picture]:
    """Paint the test pictures."""
    draw = np.random.default_rng(0)
    margin = math.ceil(_BLUR / 2) * _FINER
    painted = _dead_leaves(_SIDE * _FINER + 2 * margin, draw)
    sharp = _shrunk(painted, (margin, margin))
    half = _BLUR / 2 * _FINER
    path = np.linspace(-half, half, math.ceil(2 * half) + 1)
    moved = [
        _shrunk(
            painted,
            (
                margin + round(along * math.sin(_ANGLE)),
                margin + round(along * math.cos(_ANGLE)),
            ),
        )
        for along in path
    ]
    shown = {"sharp": sharp, "blurred": np.mean(moved, axis=0)}
    pictures = {}
    for kind, pixels in shown.items():
        noisy = pixels + draw.normal(0, _NOISE, pixels.shape)
        clipped = noisy.clip(0, 1).astype(np.float32)
        pictures[kind] = _Picture(torch.from_numpy(clipped), torch.from_numpy(sharp))
    return pictures


def _dead_leaves(side: int, draw: np.random.Generator) -> np.ndarray:
    """Paint discs over a square picture, float32 `[side, side, 3]` in 0..1."""
    picture = np.zeros((side, side, 3), np.float32)
    place = draw.random(_NUM_DISCS)
    radii = (place / _LARGEST**2 + (1 - place) / _SMALLEST**2) ** -0.5 * _FINER
    centres = draw.uniform(-0.1, 1.1, (_NUM_DISCS, 2)) * side
    gray, tint = draw.random((_NUM_DISCS, 1)), draw.random((_NUM_DISCS, 3))
    colors = 0.05 + 0.9 * (0.6 * gray + 0.4 * tint)
    for centre, radius, color in zip(centres, radii, colors, strict=True):
        at = (round(centre[0]), round(centre[1]))
        cv2.circle(picture, at, round(radius), color.tolist(), thickness=cv2.FILLED)
    return picture


def _shrunk(painted: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """Cut a picture out of a painted one and shrink it to its size."""
    top, left = corner
    side = _SIDE * _FINER
    cut = painted[top : top + side, left : left + side]
    return cv2.resize(cut, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def _psnr(pixels: Tensor, sharp: Tensor) -> float:
    """Return the PSNR in dB."""
    error = float((pixels.to(sharp.device) - sharp).square().mean())
    return -10 * math.log10(max(error, 1e-10))
