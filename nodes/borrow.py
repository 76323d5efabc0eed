"""Let frames take detail from sharper neighbours, whatever restored them."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..restoration.pipeline import check_frames
from .backend import CATEGORY, make_schema
from .decode import borrow_detail
from .encode import scene_cuts_input
from .progress import Progress


class Borrow(io.ComfyNode):
    """Frames to frames with the detail of their neighbours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_Borrow",
            display_name="Borrow Detail",
            category=CATEGORY,
            description="Give each frame the detail of sharper neighbours, up to four frames "
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
        borrowed = borrow_detail(color, cuts, device, Progress(1).stage(0))
        return io.NodeOutput(torch.cat([borrowed, frames[..., 3:].to(borrowed)], dim=-1))
