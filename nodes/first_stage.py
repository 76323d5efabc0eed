"""The input `first_stage`: a network of Load Upscale Model whose results frames choose from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy_api.latest import io
from torch import Tensor

from ..restoration.denoising.windows import Span
from ..restoration.feed_forward import FeedForward, network_pixels
from ..restoration.frames import TensorFrames
from ..restoration.progress import Work
from ..restoration.settings import RestorationSettings
from ..restoration.streaming.segments import Segment
from .memory import unload_upscale_model, upscale_device

_digests: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Of the weights of networks that were used."""


def first_stage_input() -> io.UpscaleModel.Input:
    """Return the input for another network."""
    return io.UpscaleModel.Input(
        "first_stage",
        optional=True,
        tooltip="A network that deblurs single images (NAFNet, FFTformer, ...), from Load "
        "Upscale Model. Each frame takes of its result what fits. It must keep the size (1x): "
        "those of 2x and 4x belong after this node.",
    )


class UpscaleStage:
    """A network of Load Upscale Model as first stage.

    Args:
        model: UPSCALE_MODEL.

    Raises:
        ValueError: If it does not make an RGB image of the same size of one.
    """

    def __init__(self, model: Any) -> None:
        # Not at the top: ComfyUI starts without.
        from ..restoration.first_stage.foreign import ForeignNetwork
        from ..restoration.first_stage.stage import FirstStage

        if not hasattr(model, "architecture"):
            raise ValueError(
                "first_stage: this model was loaded by a node of others; connect Load Upscale "
                "Model"
            )
        self.model = model
        engine = FeedForward(ForeignNetwork(model, "first_stage"), upscale_device(model))
        self.stage = FirstStage(engine, model.architecture.name, _digest(model))

    def memory_bytes(self, settings: RestorationSettings, height: int, width: int) -> float:
        """Return its working memory on frames of this size, in bytes."""
        model = self.stage.engine.model
        return model.bytes_per_pixel * network_pixels(model, settings, height, width)

    def candidates(
        self,
        frames: Tensor,
        shares: Sequence[float],
        shot: Span,
        settings: RestorationSettings,
        work: Work,
        device: torch.device,
    ) -> Iterator[Tensor | None]:
        """Restore the frames of a shot; see `FirstStageSession.candidates`.

        Args:
            frames: Of the whole clip, `[T, H, W, C]`.
            shares: Of each.
            shot: First of its frames, and one past the last.
            settings: What the user chose.
            work: To count with, a piece for each frame.
            device: Where results are wanted; with --cpu-vae not where the network is.
        """
        there = TensorFrames(frames, self.stage.engine.device)
        grid = self.stage.engine.joint_grid(settings, *there.size)
        session = self.stage.session(settings, *there.size, grid)
        segment = Segment(start=shot[0], stop=shot[1], context_start=0, context_stop=len(there))
        results = session.candidates(there, shares, segment, shot, shot[1], work)
        # Not a generator, which would keep the frame it has handed out.
        return map(lambda result: None if result is None else result.to(device), results)


@contextmanager
def used_first_stage(model: Any | None) -> Iterator[UpscaleStage | None]:
    """Give what stands for an UPSCALE_MODEL, or None, and take it off the device at the end."""
    if model is None:
        yield None
        return
    stage = UpscaleStage(model)
    try:
        yield stage
    finally:
        unload_upscale_model(model)


def _digest(model: Any) -> str:
    """Return a hash of its weights: resumed work depends on them."""
    if model not in _digests:
        digest = hashlib.sha256()
        for name, tensor in sorted(model.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            values = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy())
        _digests[model] = digest.hexdigest()
    return _digests[model]
