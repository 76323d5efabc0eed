"""What a network can learn from a clip: its own result after borrowing, where it is trusted."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from itertools import count

import torch
from einops import rearrange
from torch import Tensor

from ...video.blur_score import SHARP_BELOW, measure_blur
from ..borrowing.candidates import Panel
from ..borrowing.filters import enlarged
from ..borrowing.passes import borrow_with_trust
from ..engine import Engine
from ..progress import ProgressCallback
from ..settings import RestorationSettings, takes_steps

_HELD_OUT_SHARE = 0.2
"""Share of the columns, in the middle, that are not learned from in any frame: they decide
whether what was learned is kept. What a frame has to gain depends on how blurred it is, so that
a few frames held out would be no sample."""
FEWEST_FRAMES = 5
"""Of a lesson, so that there are neighbours."""
_ORIENTATIONS = 4
"""At least so many have their mean fused."""
_UNTRUSTED = 0.1
"""Weight of pixels that took nothing from neighbours: there the network hardly changes."""
_LEAST_TRUST = 0.01
"""Mean trust of a lesson that there is something to learn from."""
LESSON_BYTES = 22
"""Of a lesson, for each pixel of each frame: eleven channels in half precision."""


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
    trust: Tensor
    """`[T, H, W, 1]`, 0 to 1: how far pixels of the target were taken from neighbours.

    Where none was, the target is what the network made, and says nothing against another.
    """
    weights: Tensor
    """`[T, H, W, 1]`: how far each pixel of the target counts: 0 in columns held out, elsewhere
    `_UNTRUSTED` to 1.

    1 in frames that came sharp: others take detail from them, and would take what a tuned
    network spoils.
    """

    @property
    def held_out(self) -> slice:
        """The columns that what was learned is judged by."""
        return held_out_columns(self.blurry.shape[2])

    @property
    def is_useful(self) -> bool:
        """Whether frames took detail from others, in the columns held out as well."""
        trust = self.trust.float()
        return min(float(trust.mean()), float(trust[:, :, self.held_out].mean())) > _LEAST_TRUST


def held_out_columns(width: int) -> slice:
    """Return the columns of a lesson that are kept for judging."""
    margin = round(width * (1 - _HELD_OUT_SHARE) / 2)
    return slice(margin, width - margin)


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
        callback: Progress, by frames, each `pieces_per_frame` times; may raise to cancel.
    """
    orientations = _orientations(engine, settings)
    pieces = len(frames) * pieces_per_frame(engine, settings)
    report = _Report(callback, pieces)
    restored = restored_alone(engine, frames, settings, report.over(len(frames)))
    candidates = restored
    if orientations > settings.self_ensemble:
        several = dataclasses.replace(settings, self_ensemble=orientations)
        advance = report.over(len(frames) * orientations)
        candidates = restored_alone(engine, frames, several, advance)
    step = report.over(len(frames))
    fused = count()

    def before() -> None:
        step(next(fused), len(frames))

    panels = map(Panel, frames.to(engine.device), candidates)
    targets, trusts = [], []
    for pixels, taken in borrow_with_trust(panels, engine.device, before_frame=before):
        # Where memory runs out, fusion goes on beside the device.
        targets.append(pixels.half().to(engine.device))
        trusts.append(_full_size(taken, pixels).half().to(engine.device))
    target, trust = torch.stack(targets), torch.stack(trusts)
    weights = trust.clamp_min(_UNTRUSTED)
    pictures = frames.float().cpu().numpy()
    weights[[measure_blur(picture) < SHARP_BELOW for picture in pictures]] = 1
    weights[:, :, held_out_columns(weights.shape[2])] = 0
    blurry = frames.to(engine.device).half()
    return Lesson(blurry, restored.half(), target, trust, weights)


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


def pieces_per_frame(engine: Engine, settings: RestorationSettings) -> int:
    """Return how often `make_lesson` counts each frame in its progress."""
    orientations = _orientations(engine, settings)
    return 2 + (orientations if orientations > settings.self_ensemble else 0)


def _orientations(engine: Engine, settings: RestorationSettings) -> int:
    """Return how many are averaged in what frames are fused from.

    A network that takes no steps errs differently in each, so that their mean is nearer: there
    is something to be learned where no neighbour is sharper, too.
    """
    return 1 if takes_steps(engine.config) else max(_ORIENTATIONS, settings.self_ensemble)


class _Report:
    """Progress of tasks one after the other, in pieces of all of them."""

    def __init__(self, callback: ProgressCallback | None, total: int) -> None:
        self._callback = callback or (lambda part, parts: None)
        self._total = total
        self._done = 0

    def over(self, pieces: int) -> ProgressCallback:
        """Return the callback of the next task, which takes so many pieces."""
        start = self._done
        self._done += pieces
        return lambda part, parts: self._callback(
            start + pieces * part // max(parts, 1), self._total
        )


def _full_size(trust: Tensor | None, pixels: Tensor) -> Tensor:
    height, width = pixels.shape[:2]
    if trust is None:
        return pixels.new_zeros(height, width, 1)
    large = enlarged(trust.to(pixels), (height, width), 0, height)
    return rearrange(large, "1 c h w -> h w c").clamp_(0, 1)
