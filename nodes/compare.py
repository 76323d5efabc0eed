"""Show and measure two clips against each other."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..restoration.frames import usable_frames
from .backend import CATEGORY, advanced, make_schema
from .progress import Progress

VIEW_NAMES = ("split", "wipe", "difference", "crops")
"""Keys of `evaluation.comparison.VIEWS`, which is imported when it is needed."""


class Compare(io.ComfyNode):
    """Two clips to pictures of both."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_Compare",
            display_name="Compare Before and After",
            category=CATEGORY,
            description="Show blurry and restored frames in one picture: side by side, as a "
            "wipe, as their difference, or enlarged where most has changed.",
            search_aliases=["before after", "side by side", "split view", "image compare"],
            essentials_category="Image Tools",
            inputs=[
                io.Image.Input("before", tooltip="Frames before, such as the blurry ones."),
                io.Image.Input(
                    "after",
                    tooltip="Frames after, of the same size. As many as before, or one of "
                    "the two is a single image.",
                ),
                io.Combo.Input(
                    "view",
                    options=list(VIEW_NAMES),
                    default=VIEW_NAMES[0],
                    tooltip="split: side by side. wipe: before left of a line, after right of "
                    "it. difference: what changed, 8 times as strong. crops: the three "
                    "squares that changed most in the clip, enlarged.",
                ),
                io.Float.Input(
                    "position",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Place of the wipe's line, 0 to 1: from left to right.",
                ),
                io.Boolean.Input(
                    "labels",
                    default=True,
                    tooltip="Whether bars above the pictures say which is which.",
                    **advanced(io.Boolean.Input),
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="A picture per frame.")],
        )

    @classmethod
    def execute(
        cls, before: Tensor, after: Tensor, view: str, position: float, labels: bool
    ) -> io.NodeOutput:
        from ..evaluation.comparison import VIEWS, View

        before, after = _aligned(before=before, after=after).values()
        advance = Progress(1).stage(0)
        places = _largest_changes(before, after) if view == "crops" else ()
        layout = View(position=position, labels=labels, places=places)
        pictures = []
        for index, (first, second) in enumerate(zip(before, after, strict=True)):
            advance(index, len(before))
            picture = VIEWS[view](_colors(first), _colors(second), layout)
            pictures.append(torch.from_numpy(picture))
        advance(len(before), len(before))
        return io.NodeOutput(torch.stack(pictures))


class MeasureRestoration(io.ComfyNode):
    """Restored and sharp frames to PSNR and SSIM."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_MeasureRestoration",
            display_name="Measure PSNR and SSIM",
            category=CATEGORY,
            description="Measure how close restored frames are to the sharp ones, where those "
            "are known: behind Synthesize Blur, or with a test set.",
            search_aliases=["psnr", "ssim", "image quality", "metric", "compare"],
            inputs=[
                io.Image.Input("restored", tooltip="Frames to measure."),
                io.Image.Input(
                    "sharp", tooltip="What they should look like: as many, of the same size."
                ),
                io.Image.Input(
                    "blurry",
                    optional=True,
                    tooltip="The frames before restoring, for the report: it then shows what "
                    "was gained.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="psnr",
                    tooltip="Mean peak signal-to-noise ratio in dB; higher is closer.",
                ),
                io.Float.Output(
                    display_name="ssim",
                    tooltip="Mean structural similarity, 1 where frames are equal.",
                ),
                io.String.Output(
                    display_name="report", tooltip="The figures as text, a line per frame."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, restored: Tensor, sharp: Tensor, blurry: Tensor | None = None
    ) -> io.NodeOutput:
        given = {"restored": restored, "sharp": sharp}
        clips = _aligned(**given, **({} if blurry is None else {"blurry": blurry}))
        sharp, advance = clips.pop("sharp"), Progress(1).stage(0)
        done, total = 0, len(clips) * len(sharp)
        figures = {}
        for name, clip in clips.items():
            rows = []
            for pred, target in zip(clip, sharp, strict=True):
                advance(done, total)
                rows.append(_fidelity(_colors(pred), _colors(target)))
                done += 1
            figures[name] = np.array(rows)
        advance(total, total)
        psnr, ssim = figures["restored"].mean(axis=0)
        report = _report(figures["restored"], figures.get("blurry"))
        return io.NodeOutput(float(psnr), float(ssim), report)


def _fidelity(pred: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    from ..evaluation.fidelity import psnr, ssim

    return psnr(pred, target, data_range=1), ssim(pred, target, data_range=1)


def _report(restored: np.ndarray, blurry: np.ndarray | None) -> str:
    def line(label: str, after: np.ndarray, before: np.ndarray | None) -> str:
        if before is None:
            return f"{label}: PSNR {after[0]:.2f} dB, SSIM {after[1]:.4f}"
        return (
            f"{label}: PSNR {before[0]:.2f} -> {after[0]:.2f} dB, "
            f"SSIM {before[1]:.4f} -> {after[1]:.4f}"
        )

    lines = [line("mean", restored.mean(0), None if blurry is None else blurry.mean(0))]
    for index, row in enumerate(restored):
        lines.append(line(str(index), row, None if blurry is None else blurry[index]))
    return "\n".join(lines)


def _colors(frame: Tensor) -> np.ndarray:
    return frame[..., :3].cpu().numpy()


def _largest_changes(before: Tensor, after: Tensor) -> tuple[tuple[int, int], ...]:
    from ..evaluation.comparison import largest_changes

    total = np.zeros(tuple(before.shape[1:3]))
    for first, second in zip(before, after, strict=True):
        total += np.square(_colors(second) - _colors(first)).sum(axis=-1)
    return largest_changes(total)


def _aligned(**clips: Tensor) -> dict[str, Tensor]:
    """Return clips of as many frames; a single image goes with every frame of the others.

    Raises:
        ValueError: If they differ in size or number.
    """
    usable = {name: usable_frames(clip) for name, clip in clips.items()}
    longest = max(usable, key=lambda name: len(usable[name]))
    count, (height, width) = len(usable[longest]), usable[longest].shape[1:3]
    for name, clip in usable.items():
        if clip.shape[1:3] != (height, width):
            raise ValueError(
                f"{longest} is {width}x{height} pixels but {name} is "
                f"{clip.shape[2]}x{clip.shape[1]}. Give both the same size, for example with "
                f"Upscale Image."
            )
        if len(clip) not in (1, count):
            raise ValueError(
                f"{longest} is {count} frames but {name} is {len(clip)}. Give as many of both, "
                f"or one single image."
            )
    return {name: clip.expand(count, -1, -1, -1) for name, clip in usable.items()}
