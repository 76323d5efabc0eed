"""What a network can learn from a clip: its own result after borrowing, where it is trusted."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..borrowing.candidates import Panel
from ..borrowing.passes import borrow_with_trust
from ..engine import Engine
from ..progress import ProgressCallback
from ..settings import RestorationSettings

_HELD_OUT_EVERY, _HELD_OUT_FIRST = 5, 2
"""Of this many frames one, the first of them this one, is not learned from: it decides whether
what was learned is kept."""
FEWEST_FRAMES = _HELD_OUT_FIRST + 3
"""Of a lesson, so that one is held out and there are neighbours."""
_UNTRUSTED = 0.1
"""Weight of pixels that took nothing from neighbours: there the network stays what it is."""
_LEAST_TRUST = 0.01
"""Mean trust of a lesson that there is something to learn from."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Neighbouring frames of a shot, and what they should become.

    In half precision, which holds 8-bit colours to an eighth of a step; on the engine's device.
    """

    blurry: Tensor
    """`[T, H, W, 3]` in 0..1."""
    restored: Tensor
    """The same shape: what the network alone makes of it before it learns."""
    target: Tensor
    """The same shape: restored, with detail from neighbours."""
    weights: Tensor
    """`[T, H, W, 1]`: how far each pixel of the target counts, `_UNTRUSTED` to 1."""

    @property
    def held_out(self) -> list[int]:
        """The frames that what was learned is judged by."""
        return [index for index in range(len(self.blurry)) if is_held_out(index)]

    @property
    def trust(self) -> Tensor:
        """Float32 `[T, H, W, 1]`, 0 to 1: how far pixels were taken from neighbours.

        Where none was, the target is what the network made, and says nothing against another.
        """
        return (self.weights.float() - _UNTRUSTED).clamp_min(0) / (1 - _UNTRUSTED)

    @property
    def is_useful(self) -> bool:
        """Whether frames took detail from others, some of those held out as well."""
        trust = self.trust
        return min(float(trust.mean()), float(trust[self.held_out].mean())) > _LEAST_TRUST


def is_held_out(index: int) -> bool:
    """Tell whether a frame of a lesson is kept for judging."""
    return index % _HELD_OUT_EVERY == _HELD_OUT_FIRST


@torch.no_grad()
def make_lesson(
    engine: Engine,
    frames: Tensor,
    settings: RestorationSettings,
    callback: ProgressCallback | None = None,
) -> Lesson:
    """Restore neighbouring frames of a shot, and say where to trust the result.

    Args:
        engine: As it is before it learns.
        frames: `[T, H, W, 3]`, float32 in 0..1, at least `FEWEST_FRAMES`.
        settings: What the user chose.
        callback: Progress, by frames; may raise to cancel.
    """
    restored = restored_alone(engine, frames, settings, _first_half(callback, len(frames)))
    num_frames, done = len(frames), 0

    def before() -> None:
        nonlocal done
        if callback is not None:
            callback(num_frames + done, 2 * num_frames)
        done += 1

    panels = map(Panel, frames.to(engine.device), restored)
    targets, weights = [], []
    for pixels, trust in borrow_with_trust(panels, engine.device, before_frame=before):
        targets.append(pixels.half())
        weights.append(_weights(trust, pixels).half())
    parts = (torch.stack(part).to(engine.device) for part in (targets, weights))
    return Lesson(frames.to(engine.device).half(), restored.half(), *parts)


def restored_alone(
    engine: Engine,
    frames: Tensor,
    settings: RestorationSettings,
    callback: ProgressCallback | None = None,
) -> Tensor:
    """Restore frames by the network alone, without detail from neighbours or others.

    Returns:
        `[T, H, W, 3]`, float32 in 0..1, on the engine's device.
    """
    alone = dataclasses.replace(
        settings,
        borrow=False,
        strength=1.0,
        scene_cuts=False,
        skip_sharp=False,
        color_match=False,
    )
    bare = copy.copy(engine)
    # Priors of the whole clip are of other frames; a first stage is no part of the network.
    bare.priors = bare.first_stage = None
    return bare.restore(frames.to(engine.device), alone, callback)


def _first_half(callback: ProgressCallback | None, num_frames: int) -> ProgressCallback | None:
    if callback is None:
        return None
    return lambda part, parts: callback(num_frames * part // max(parts, 1), 2 * num_frames)


def _weights(trust: Tensor | None, pixels: Tensor) -> Tensor:
    height, width = pixels.shape[:2]
    if trust is None:
        return pixels.new_full((height, width, 1), _UNTRUSTED)
    large = F.interpolate(trust.to(pixels), (height, width), mode="bilinear")
    return rearrange(large, "1 c h w -> h w c").clamp_(_UNTRUSTED, 1)
