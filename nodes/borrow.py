"""Let frames take detail from sharper neighbours, whatever restored them."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from ..restoration.denoising.windows import shots
from ..restoration.frames import copied, usable_frames
from ..restoration.phases import fuse
from ..restoration.progress import Work
from .backend import CATEGORY, make_schema
from .encode import scene_cuts_input
from .memory import load_to_device
from .progress import Cancellable, Progress, ProgressFn, watched


class Borrow(io.ComfyNode):
    """Frames to frames with the detail of their neighbours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_Borrow",
            display_name="Borrow Detail",
            found_by="shake",
            category=CATEGORY,
            description="Give each frame of shaking footage the detail of sharper neighbours, "
            "up to six frames away. Needs no checkpoint. Deblur Frames, Deblur Video and "
            "Decode Deblurred Latents do it already: this is for frames that came another way.",
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
                    display_name="IMAGE", tooltip="The frames, sharper where one could help."
                )
            ],
        )

    @classmethod
    def execute(cls, frames: Tensor, scene_cuts: bool = True) -> io.NodeOutput:
        from ..video.scene_cuts import find_cuts

        progress = Progress(0.05, 1)
        progress.stage(0)(0, 1)
        with Cancellable():
            frames = usable_frames(frames)
            cuts = find_cuts(watched(frames, progress.stage(0))) if scene_cuts else ()
            return io.NodeOutput(_borrowed(frames, cuts, progress.stage(1)))


def _borrowed(frames: Tensor, cuts: Sequence[int], callback: ProgressFn) -> Tensor:
    """Let the frames `[T, H, W, C]` of every shot take detail from sharper neighbours."""
    from ..restoration.borrowing.candidates import Panel
    from ..restoration.borrowing.passes import borrowing_bytes

    device = comfy.model_management.get_torch_device()
    load_to_device([], borrowing_bytes(*frames.shape[1:3]))
    work, result = Work(callback, len(frames)), copied(frames)
    for start, stop in shots(len(frames), cuts):
        # Sent to the device there, where it is known what to do when memory runs out.
        colors = (frame[..., :3] for frame in frames[start:stop])
        panels = (Panel(blurry=each, restored=each) for each in colors)
        for index, pixels in enumerate(fuse(panels, device, work.advance), start):
            result[index, ..., :3] = pixels
    work.finish()
    return result
