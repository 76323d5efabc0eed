"""What a video codec knows of a clip: motion and residual, to look at and for networks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..restoration.frames import usable_frames
from .backend import (
    CATEGORY,
    LoadedCheckpoint,
    LoadedFeedForward,
    advanced,
    has_other_frames,
    make_schema,
    show_text,
    trim_window,
)
from .progress import Cancellable, Progress, ProgressFn, watched

if TYPE_CHECKING:
    from ..restoration.clip_priors import GivenPriors
    from ..video.coding_priors import CodingPriors, FramePriors
    from ..video.reader import VideoReader

logger = logging.getLogger(__name__)

CodingPriorsType = io.Custom("CODING_PRIORS")
"""Socket type of `CodingPriors`; engines refuse those of other frames as they come to them."""

_SOURCES = ("auto", "stream", "encoded")


def coding_priors_input() -> Any:
    """Return the input for priors that were made beforehand."""
    return CodingPriorsType.Input(
        "coding_priors",
        optional=True,
        tooltip="Motion and residual of the same clip, from Coding Priors. Only checkpoints of "
        "CPGD-Net read them, and find their own where nothing is connected.",
    )


def used_priors(
    priors: Any | None,
    loaded: LoadedCheckpoint | LoadedFeedForward,
    checkpoint: str,
    num_frames: int | None = None,
) -> GivenPriors | None:
    """Return what an engine takes of CODING_PRIORS, or None where it takes nothing.

    Args:
        priors: CODING_PRIORS, if connected.
        loaded: What restores.
        checkpoint: The choice that was loaded.
        num_frames: Of the clip, where it is known.

    Raises:
        ValueError: If they are of another clip.
    """
    if priors is None:
        return None
    if not loaded.reads_priors:
        # Trying another checkpoint should not take rewiring.
        logger.info("coding_priors: %s does not read them and restores without", checkpoint)
        return None
    # Not at the top: ComfyUI starts without.
    from ..restoration.clip_priors import GivenPriors
    from ..video.coding_priors import CodingPriors, check_number

    if not isinstance(priors, CodingPriors):
        raise ValueError("coding_priors must come from Coding Priors")
    if num_frames is not None:
        check_number(priors, num_frames)
    with Cancellable():
        return GivenPriors(priors)


class ShowCodingPriors(io.ComfyNode):
    """A clip to its coding priors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_CodingPriors",
            display_name="Coding Priors",
            found_by="optical flow",
            category=CATEGORY,
            description="Show what a video codec knows of a clip: how each frame moved, as "
            "optical flow, and what motion does not explain. Without any network.",
            search_aliases=["optical flow", "motion vectors", "residual", "codec", "h264"],
            inputs=[
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="A video, whose own motion vectors serve where it has any. Connect "
                    "this or frames, not both.",
                ),
                io.Image.Input(
                    "frames",
                    optional=True,
                    tooltip="Frames in order, of one clip, which are encoded in memory to find "
                    "their motion. Connect this or video, not both.",
                ),
                io.Combo.Input(
                    "source",
                    options=list(_SOURCES),
                    default=_SOURCES[0],
                    tooltip="Where the motion of a video comes from. stream: its own vectors, "
                    "of H.264 and MPEG-4. encoded: its frames are encoded in memory, which "
                    "finds more. auto: the stream where it has vectors.",
                    **advanced(io.Combo.Input),
                ),
                io.Float.Input(
                    "scale",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    tooltip="Motion that has full colour, in pixels; more is darker. 0 takes a "
                    "fortieth (1/40) of the longer side.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="flow",
                    tooltip="Where pixels come from in the frame before: the hue is the "
                    "direction, white stands still, black has no vector.",
                ),
                io.Image.Output(
                    display_name="residual",
                    tooltip="Each frame less the moved frame before, four times as strong: "
                    "grey is no difference.",
                ),
                CodingPriorsType.Output(
                    display_name="CODING_PRIORS",
                    tooltip="Motion, residual and validity of every pixel, for networks.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        source: str,
        scale: float,
        video: Any | None = None,
        frames: Tensor | None = None,
    ) -> io.NodeOutput:
        if (video is None) == (frames is None):
            raise ValueError("connect either video or frames to Coding Priors, one of them")
        advance = Progress(1).stage(0)
        advance(0, 1)
        if video is not None and has_other_frames(video):
            # Of what was edited the file's vectors say nothing.
            frames, video = video.get_components().images, None
        if video is not None:
            priors, from_stream = _of_file(video, source, advance)
        else:
            assert frames is not None
            if source == "stream":
                raise ValueError("source stream needs a video that comes from a file")
            priors, from_stream = _of_frames(frames, advance), False
        if cls.hidden and cls.hidden.unique_id:
            show_text(cls.hidden.unique_id, _found(priors, from_stream))
        return io.NodeOutput(*_pictures(priors, scale), priors)


def _of_frames(frames: Tensor, advance: ProgressFn) -> CodingPriors:
    """Encode frames `[T, H, W, C]`."""
    from ..video.coding_priors import encoded_priors, gather_priors

    with Cancellable():
        frames = usable_frames(frames)
    return gather_priors(encoded_priors(watched(frames, advance)))


def _of_file(video: Any, source: str, advance: ProgressFn) -> tuple[CodingPriors, bool]:
    """Read a VIDEO's file, as far as it is trimmed to; tell whether its vectors served."""
    from ..video.coding_priors import gather_priors
    from ..video.reader import VideoReader

    with VideoReader(video.get_stream_source(), vectors=True) as reader:
        if source == "stream" and not reader.has_vectors:
            raise ValueError(
                f"{reader.name}: brings no motion vectors along that can be used; choose auto"
            )
        from_stream = source != "encoded" and reader.has_vectors
        return gather_priors(_within(video, reader, from_stream, advance)), from_stream


def _within(
    video: Any, reader: VideoReader, from_stream: bool, advance: ProgressFn
) -> Iterator[FramePriors]:
    """Yield the priors of the frames that a VIDEO shows of its file."""
    from ..video.coding_priors import file_priors

    start_s, duration_s = trim_window(video)
    unit, total = reader.info.time_base, reader.info.num_frames or 1
    reader.start_at(int(start_s / unit))
    stop = int((start_s + duration_s) / unit) if duration_s else None
    for index, (frame, priors) in enumerate(file_priors(reader, from_stream)):
        if stop is not None and frame.pts >= stop:
            return
        advance(min(index, total), total)
        yield priors


def _found(priors: CodingPriors, from_stream: bool) -> str:
    """Say where motion comes from and for how much of the clip, its first frame aside."""
    share = priors.valid[1:].mean() if len(priors.valid) > 1 else 0.0
    source = "from the stream" if from_stream else "encoded in memory"
    return f"{source}: vectors for {100 * share:.0f} % of the pixels"


def _pictures(priors: CodingPriors, scale: float) -> tuple[Tensor, Tensor]:
    """Draw motion and residual, as IMAGEs."""
    from ..video.prior_pictures import flow_picture, flow_scale, residual_picture

    num_frames, _, height, width = priors.motion.shape
    shown = scale or flow_scale(height, width)
    flow, residual = torch.empty((2, num_frames, height, width, 3))
    for index in range(num_frames):
        picture = flow_picture(priors.motion[index], priors.valid[index], shown)
        flow[index] = torch.from_numpy(picture) / 255
        residual[index] = torch.from_numpy(residual_picture(priors.residual[index])) / 255
    return flow, residual
