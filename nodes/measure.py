"""Show how blurry frames are."""

from __future__ import annotations

import numpy as np
from comfy_api.latest import io
from torch import Tensor

from ..restoration.frames import usable_frames
from .backend import CATEGORY, make_schema
from .progress import Progress


class MeasureBlur(io.ComfyNode):
    """Frames to blur scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_MeasureBlur",
            display_name="Measure Blur",
            found_by="blur detection",
            category=CATEGORY,
            description="Score how blurry each frame is (blur detection), without a sharp one "
            "to compare with.",
            search_aliases=["blur score", "sharpness", "blur detection", "focus"],
            inputs=[
                io.Image.Input(
                    "frames", tooltip="Any number of frames, each measured by itself."
                )
            ],
            outputs=[
                io.Float.Output(
                    display_name="mean", tooltip="Mean score, 0 (sharp) to 1 (blurry)."
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Score of each frame, 0 (sharp) to 1 (blurry), as a list.",
                ),
                io.String.Output(
                    display_name="report", tooltip="The scores as text, a line per frame."
                ),
            ],
        )

    @classmethod
    def execute(cls, frames: Tensor) -> io.NodeOutput:
        from ..video.blur_score import measure_blur

        frames = usable_frames(frames)
        advance = Progress(1).stage(0)
        scores = []
        for index, frame in enumerate(frames.cpu().numpy()):
            advance(index, len(frames))
            scores.append(measure_blur(frame))
        advance(len(frames), len(frames))
        return io.NodeOutput(float(np.mean(scores)), scores, _report(scores))


def _report(scores: list[float]) -> str:
    from ..video.blur_score import SHARP_BELOW

    sharp = sum(score < SHARP_BELOW for score in scores)
    lines = [f"{sharp} of {len(scores)} frames are sharp (below {SHARP_BELOW})"]
    lines += [f"{index}: {score:.3f}" for index, score in enumerate(scores)]
    return "\n".join(lines)
