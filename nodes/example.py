"""The clips that come with the extension, for a first run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import InputImpl, io

from .backend import CATEGORY, make_schema

CLIP_NAMES = ("shake", "street")
"""Folders of the bundled clips."""
_FOLDER = Path(__file__).parents[1] / "evaluation" / "demo_clips"


class ExampleClip(io.ComfyNode):
    """A bundled blurry clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_ExampleClip",
            display_name="Example Clip",
            category=CATEGORY,
            description="A short blurry clip that comes with the extension, to try motion "
            "deblurring. Put Load Video in its place for clips of your own.",
            search_aliases=["test video", "sample clip", "demo", "blurry video"],
            inputs=[
                io.Combo.Input(
                    "clip",
                    options=list(CLIP_NAMES),
                    default=CLIP_NAMES[0],
                    tooltip="shake: 17 frames of a photo, as a shaking hand films it. street: "
                    "24 frames of people walking, heavy blur in every frame.",
                )
            ],
            outputs=[
                io.Video.Output(display_name="VIDEO", tooltip="The clip as a file."),
                io.Image.Output(display_name="IMAGE", tooltip="All of its frames."),
            ],
        )

    @classmethod
    def execute(cls, clip: str) -> io.NodeOutput:
        from ..video.pixels import to_float
        from ..video.reader import VideoReader

        path = _FOLDER / clip / "blurry.mp4"
        with VideoReader(path) as reader:
            frames = np.stack([to_float(frame.pixels) for frame in reader])
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), torch.from_numpy(frames))
