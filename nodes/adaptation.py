"""Networks that learn from the clip before they restore it: the input `adapt`.

A copy of the network is read from the checkpoint's file and tuned in float32; the networks
that nodes share, and what LoRA or 8-bit storage made of them, are never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import comfy.model_management
import numpy as np
from comfy_api.latest import io
from torch import Tensor

from ..models.checkpoint import CheckpointInfo, read_info
from ..restoration.settings import RestorationSettings
from .backend import LoadedCheckpoint, LoadedFeedForward, advanced, build_checkpoint
from .checkpoint import checkpoint_path
from .memory import load_to_device
from .progress import Cancellable, Progress

if TYPE_CHECKING:
    from ..jobs.adaptation import Kept
    from ..jobs.ends import Ends

logger = logging.getLogger(__name__)

Loaded = LoadedCheckpoint | LoadedFeedForward


def adapt_input() -> io.Boolean.Input:
    """Return the input that has networks learn from the clip."""
    return io.Boolean.Input(
        "adapt",
        default=False,
        optional=True,
        tooltip="Whether a copy of the network first learns from the clip itself, which takes "
        "minutes on a CPU. What it learned is dropped where it gains less than 0.5 dB in "
        "the part of the picture held out. For DIVD with one step, and CPGD-Net without a "
        "second stage.",
        **advanced(io.Boolean.Input),
    )


def learns(adapt: bool, settings: RestorationSettings) -> bool:
    """Tell whether networks are to learn: not where the result is the input anyway."""
    if adapt and settings.strength == 0:
        logger.info("adapt: strength 0 gives the input, nothing is learned")
        return False
    return adapt


def learned_from_frames(
    frames: Tensor, loaded: Loaded, checkpoint: str, settings: RestorationSettings
) -> Loaded:
    """Return networks that learned from a clip in memory, or the same ones.

    Args:
        frames: `[T, H, W, C]`, float32 in 0..1.
        loaded: Left as they are.
        checkpoint: The choice that was loaded.
        settings: What the user chose.

    Raises:
        ValueError: If networks of this kind do not learn from clips.
    """
    from ..restoration.adaptation.stretches import stretches_of

    @contextmanager
    def clip() -> Iterator[tuple[Iterable[Sequence[np.ndarray]], int]]:
        yield stretches_of(frames)

    return _learned(loaded, checkpoint, settings, clip, frames.shape[1:3])


def learned_from_ends(
    ends: Ends,
    loaded: Loaded,
    checkpoint: str,
    settings: RestorationSettings,
    kept: Kept,
    size: tuple[int, int],
) -> Loaded:
    """Return networks that learned from a clip of a file, or the same ones.

    Args:
        ends: Read the file; nothing is written.
        loaded: As for `learned_from_frames`, and so are the next two.
        checkpoint: See there.
        settings: See there.
        kept: Where what was learned is kept, for a run that goes on.
        size: Height and width of the frames, in pixels.
    """
    from ..restoration.adaptation.stretches import plan_stretches, taken_stretches

    @contextmanager
    def clip() -> Iterator[tuple[Iterable[Sequence[np.ndarray]], int]]:
        with ends:
            spans = plan_stretches(ends.num_frames)
            length = sum(stop - start for start, stop in spans)
            yield taken_stretches(ends.frames(), spans), length

    return _learned(loaded, checkpoint, settings, clip, size, kept)


def _learned(
    loaded: Loaded,
    checkpoint: str,
    settings: RestorationSettings,
    clip: Callable[[], AbstractContextManager[tuple[Iterable[Sequence[np.ndarray]], int]]],
    size: Sequence[int],
    kept: Kept | None = None,
) -> Loaded:
    # Here, so that ComfyUI starts without it.
    from ..jobs.adaptation import adapt_once
    from ..restoration.adaptation.learners import check_adaptable
    from ..restoration.adaptation.settings import AdaptationSettings
    from ..restoration.load import load_deblurrer

    info, adaptation = read_info(checkpoint_path(checkpoint)), AdaptationSettings()
    check_adaptable(info.config, settings)
    advance = Progress(1).stage(0)
    advance(0, 1)
    device = comfy.model_management.get_torch_device()
    load_to_device([], _memory_bytes(info, loaded, settings, adaptation, size))
    with Cancellable():
        engine = load_deblurrer(info.path, str(device))
        adapted = adapt_once(engine, clip, settings, adaptation, kept, advance)
    if adapted.gain_db is None:
        logger.info("adapt: frames took too little from one another, nothing was learned")
        return loaded
    logger.info(
        "adapt: %+.2f dB in the part held out, %s",
        adapted.gain_db,
        "dropped" if adapted.weights is None else "used",
    )
    if adapted.weights is None:
        return loaded
    return build_checkpoint(info, "auto", adapted.weights)


def _memory_bytes(
    info: CheckpointInfo,
    loaded: Loaded,
    settings: RestorationSettings,
    adaptation: Any,
    size: Sequence[int],
) -> float:
    """Return what learning takes at most: gradients, or the restoration before."""
    from ..restoration.adaptation.memory import adaptation_bytes
    from ..restoration.adaptation.stretches import SIDE, lessons_bytes
    from ..restoration.borrowing.passes import borrowing_bytes

    network = info.architecture.build(info.config, device="meta")
    height, width = (min(side, SIDE) for side in size)
    restoring = loaded.memory_bytes(settings, height, width) + borrowing_bytes(height, width)
    lessons = lessons_bytes(height, width)
    # They are copied to be learned from, as what nodes make takes no part in gradients.
    return lessons + max(adaptation_bytes(network, adaptation) + lessons, restoring)
