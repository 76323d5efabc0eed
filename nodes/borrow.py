"""Let frames take detail from sharper neighbours, whatever restored them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..restoration.denoising.windows import shots
from ..restoration.engine import check_frames
from .backend import CATEGORY, make_schema
from .encode import scene_cuts_input
from .memory import load_to_device
from .progress import Progress, ProgressFn


class Borrow(io.ComfyNode):
    """Frames to frames with the detail of their neighbours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_Borrow",
            display_name="Borrow Detail",
            category=CATEGORY,
            description="Give each frame the detail of sharper neighbours, up to three frames "
            "away. Needs no checkpoint. Deblur Frames, Deblur Video and Decode Deblurred "
            "Latents do it already: this is for frames that came another way.",
            search_aliases=["deblur", "lucky frames", "shake", "temporal fusion", "align"],
            inputs=[
                io.Image.Input(
                    "frames",
                    tooltip="Frames in order, of one clip. Size, number and transparency are "
                    "kept.",
                ),
                scene_cuts_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="frames", tooltip="The frames, sharper where one could help."
                )
            ],
        )

    @classmethod
    def execute(cls, frames: Tensor, scene_cuts: bool = True) -> io.NodeOutput:
        from ..video.scene_cuts import find_cuts

        check_frames(frames)
        cuts = find_cuts(frames.float().cpu().numpy()) if scene_cuts else ()
        device = comfy.model_management.get_torch_device()
        color = frames[..., :3].float().cpu()
        borrowed = _borrowed(color, cuts, device, Progress(1).stage(0))
        return io.NodeOutput(torch.cat([borrowed, frames[..., 3:].to(borrowed)], dim=-1))


def _borrowed(frames: Tensor, cuts: Sequence[int], device: Any, callback: ProgressFn) -> Tensor:
    """Let the frames `[T, H, W, 3]` of every shot take detail from sharper neighbours."""
    from ..restoration.borrowing.passes import borrow_stream, borrowing_bytes

    load_to_device([], borrowing_bytes(*frames.shape[1:3]))
    borrowed = torch.empty_like(frames)
    for start, stop in shots(len(frames), cuts):
        for index, pixels in enumerate(borrow_stream(frames[start:stop], device), start=start):
            callback(index, len(frames))
            borrowed[index] = pixels
    callback(len(frames), len(frames))
    return borrowed
