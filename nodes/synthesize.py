"""Make blurry frames of sharp ones, to try restoration where the sharp frames are known."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..restoration.frames import rounded, usable_frames
from .backend import CATEGORY, advanced, make_schema
from .memory import load_to_device
from .progress import Progress, ProgressFn
from .sample import seed_input

_BYTES_PER_PIXEL = 300
"""Working memory of one frame: its light on the doubled grid, a sub-frame and their sum. 140
bytes were measured on a CPU at 1920x1080; other devices enlarge in float, which takes more."""


class SynthesizeBlur(io.ComfyNode):
    """Sharp frames to blurry and sharp ones, as a shaking hand films them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_SynthesizeBlur",
            display_name="Synthesize Blur",
            found_by="camera shake",
            category=CATEGORY,
            description="Film sharp frames again with a shaking camera: blurry frames, and the "
            "sharp ones that belong to them. For trying settings on footage of your own.",
            search_aliases=["motion blur", "camera shake", "add blur", "degrade", "test data"],
            inputs=[
                io.Image.Input(
                    "sharp",
                    tooltip="Sharp frames of a clip in order, or one image. Transparency is "
                    "dropped.",
                ),
                io.Float.Input(
                    "amount",
                    default=12.0,
                    min=0.0,
                    max=60.0,
                    step=0.5,
                    tooltip="Length of the blur in pixels, on average; it varies as a hand "
                    "does. 0 blurs nothing, 8 is visible, 30 is heavy.",
                ),
                seed_input("Seed of the camera's path, a whole number."),
                io.Int.Input(
                    "length",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Number of frames to film of a single image. A clip keeps its own.",
                ),
                io.Boolean.Input(
                    "pauses",
                    default=False,
                    tooltip="Whether the hand rests now and then, so that some frames of a "
                    "clip are nearly sharp, as in most hand-held footage.",
                    **advanced(io.Boolean.Input),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="blurry", tooltip="Frames with motion blur."),
                io.Image.Output(
                    display_name="sharp",
                    tooltip="The same frames without, as the camera saw them at the middle of "
                    "each exposure.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, sharp: Tensor, amount: float, seed: int, length: int, pauses: bool
    ) -> io.NodeOutput:
        sharp = usable_frames(sharp)
        num_frames = len(sharp) if len(sharp) > 1 else length
        size = (int(sharp.shape[1]), int(sharp.shape[2]))
        shot = _film(num_frames, size, amount, seed, pauses and num_frames > 1)
        device = comfy.model_management.get_torch_device()
        load_to_device([], _BYTES_PER_PIXEL * size[0] * size[1])
        return io.NodeOutput(*_render(sharp, shot, device, Progress(1).stage(0)))


def _film(
    num_frames: int, size: tuple[int, int], amount: float, seed: int, pauses: bool
) -> Any:
    """Draw the path of a camera whose shutter is always open: blur as long as the motion."""
    from ..synthesis.camera_shake import ShakeConfig
    from ..synthesis.shot import draw_shot

    config = ShakeConfig(
        exposure=(1.0, 1.0),
        motion=(amount, amount),
        pause_probability=float(pauses),
        source_scale=(1.0, 1.0),
        sharp_probability=0.0,
    )
    return draw_shot(num_frames, size, config, torch.Generator().manual_seed(seed))


def _render(
    sharp: Tensor, shot: Any, device: torch.device, callback: ProgressFn
) -> tuple[Tensor, Tensor]:
    """Render frame by frame, so that memory holds the working data of one."""
    from ..synthesis.motion_blur import render_clips

    num_frames = len(shot.counts)
    results = torch.empty((2, num_frames, *shot.size, 3))
    for index in range(num_frames):
        callback(index, num_frames)
        pixels = sharp[index % len(sharp), ..., :3].to(device)
        source = rearrange(
            rounded(pixels, np.dtype(np.uint8)), "h w c -> 1 1 c h w"
        ).contiguous()
        rendered = render_clips(source, [shot.part(index, index + 1)])
        for result, frames in zip(results, rendered, strict=True):
            result[index] = rearrange(frames, "1 1 c h w -> h w c")
    callback(num_frames, num_frames)
    blurry, filmed = results
    return blurry, filmed
