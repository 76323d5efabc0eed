"""The two nodes that do everything: for frames in memory, and for videos of any length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ..restoration.frames import usable_frames
from ..restoration.settings import PRESET_NAMES, RestorationSettings, preset_settings
from .adaptation import adapt_input, learned_from_frames, learns
from .backend import (
    CATEGORY,
    LoadedCheckpoint,
    LoadedFeedForward,
    advanced,
    has_other_frames,
    make_schema,
)
from .checkpoint import LoadingNode, checkpoint_input, fingerprint, load_checkpoint
from .clip_file import VideoJob, load_for, restore_components, restore_file
from .decode import borrow_input, decode_latents, strength_input
from .encode import encode_frames, scene_cuts_input
from .first_stage import UpscaleStage, first_stage_input, used_first_stage
from .live import LiveView
from .mask import feather_input, mask_input, mask_weights, mix_by_mask
from .priors import coding_priors_input, used_priors
from .progress import Cancellable, Progress, watched
from .sample import sample_preset, seed_input
from .temporary import RESULTS, TemporaryVideo

if TYPE_CHECKING:
    from ..restoration.clip_priors import GivenPriors

CODEC_NAMES = ("h264", "h265")
"""Codecs of `video.codecs` that Save Video can put into its mp4 files."""


def preset_input() -> io.Combo.Input:
    """Return the input that chooses how thoroughly frames are restored."""
    return io.Combo.Input(
        "preset",
        options=list(PRESET_NAMES),
        default=PRESET_NAMES[0],
        tooltip="fast: restores once; divd-tiny takes one step. detailed: cpgd-tiny takes the "
        "mean of four mirror images, four times as slow and a little closer; divd-tiny as with "
        "fast. paper: 50 steps of divd-tiny, slower and worse; cpgd-tiny as with fast.",
    )


def skip_sharp_input() -> io.Boolean.Input:
    """Return the input that leaves sharp frames alone."""
    return io.Boolean.Input(
        "skip_sharp",
        default=False,
        optional=True,
        tooltip="Whether to leave frames alone that are sharp already, with a smooth change to "
        "restored ones. Measure Blur shows what counts as sharp.",
        **advanced(io.Boolean.Input),
    )


class Deblur(LoadingNode):
    """Restore frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_Deblur",
            display_name="Deblur Frames",
            found_by="unblur, sharpen",
            category=CATEGORY,
            description="Remove motion blur and camera shake from the frames of a clip, or "
            "from one image: unblur and sharpen what moved.",
            search_aliases=["deblur", "motion blur", "unblur", "sharpen", "shake", "restore"],
            essentials_category="Image Tools",
            inputs=[
                io.Image.Input(
                    "frames",
                    tooltip="Blurry frames in order, of one clip, or one image. Size, number "
                    "and transparency are kept.",
                ),
                checkpoint_input(),
                preset_input(),
                strength_input(),
                seed_input(),
                scene_cuts_input(),
                skip_sharp_input(),
                borrow_input(),
                feather_input(),
                mask_input(),
                first_stage_input(),
                coding_priors_input(),
                adapt_input(),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="Restored frames.")],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **others: Any) -> str:
        return fingerprint(checkpoint)

    @classmethod
    def execute(
        cls,
        frames: Tensor,
        checkpoint: str,
        preset: str,
        strength: float,
        seed: int,
        scene_cuts: bool = True,
        skip_sharp: bool = False,
        borrow: bool = True,
        feather: int = 8,
        mask: Tensor | None = None,
        first_stage: Any | None = None,
        coding_priors: Any | None = None,
        adapt: bool = False,
    ) -> io.NodeOutput:
        # At once: loading takes a while.
        Progress(1).stage(0)(0, 1)
        loaded = load_checkpoint(checkpoint)
        settings = preset_settings(
            loaded.config,
            preset,
            strength=strength,
            seed=seed,
            scene_cuts=scene_cuts,
            skip_sharp=skip_sharp,
            borrow=borrow,
        )
        with Cancellable():
            frames = usable_frames(frames)
            weights = None if mask is None else mask_weights(mask, frames, feather)
        if weights is not None and not weights.any():
            return io.NodeOutput(frames)
        priors = used_priors(coding_priors, loaded, checkpoint, len(frames))
        if learns(adapt, settings):
            loaded = learned_from_frames(frames, loaded, checkpoint, settings)
        with used_first_stage(first_stage) as first:
            restored = _restore_frames(frames, loaded, settings, first, priors)
        if weights is not None:
            with Cancellable():
                restored = mix_by_mask(frames, restored, weights)
        return io.NodeOutput(restored)


def _restore_frames(
    frames: Tensor,
    loaded: LoadedCheckpoint | LoadedFeedForward,
    settings: RestorationSettings,
    first: UpscaleStage | None,
    priors: GivenPriors | None,
) -> Tensor:
    """Restore a clip `[T, H, W, C]`."""
    # Here and below: what works on frames and files is imported when it is needed, so that
    # ComfyUI starts without it.
    from ..restoration.streaming.footage import survey_clip

    if isinstance(loaded, LoadedFeedForward):
        num_frames, height, width = frames.shape[:3]
        load_for(loaded, settings, height, width, first, num_frames)
        engine = loaded.engine()
        engine.first_stage = first and first.stage
        engine.priors = priors
        with Cancellable():
            return engine.restore(frames, settings, Progress(1).stage(0))
    decoding = 1 + 2 * settings.borrow + 8 * (first is not None)
    progress = Progress(0.2, 1, 4 * settings.passes, decoding)
    cuts, shares = survey_clip(watched(frames, progress.stage(0)), settings)
    if settings.strength == 0 or not any(shares):
        return frames
    with Cancellable():
        conditions = encode_frames(loaded.encoder, frames, progress.stage(1), cuts)
    latent = sample_preset(loaded.model, *conditions, settings, progress.stage(2))
    with Cancellable():
        return decode_latents(
            loaded.vae,
            latent,
            None,
            settings.strength,
            settings.color_match,
            progress.stage(3),
            shares,
            settings.borrow,
            first=first,
            settings=settings,
        )


class DeblurVideo(LoadingNode):
    """Restore a video of any length in bounded memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_DeblurVideo",
            display_name="Deblur Video",
            found_by="motion blur, shake",
            category=CATEGORY,
            description="Remove motion blur and camera shake from a video of any length: "
            "unblur and sharpen what moved. Sound and time stamps stay as they are.",
            search_aliases=[
                "deblur",
                "motion blur",
                "unblur",
                "sharpen video",
                "shake",
                "restore video",
            ],
            essentials_category="Video Tools",
            inputs=[
                io.Video.Input(
                    "video", tooltip="Blurry video, from Load Video or Create Video."
                ),
                checkpoint_input(),
                preset_input(),
                strength_input(),
                seed_input(),
                io.Combo.Input(
                    "codec",
                    options=list(CODEC_NAMES),
                    default=CODEC_NAMES[0],
                    tooltip="How the pictures are stored. h264 plays everywhere; h265 makes "
                    "smaller files and keeps 10 bits.",
                    **advanced(io.Combo.Input),
                ),
                io.Int.Input(
                    "crf",
                    default=14,
                    min=0,
                    max=51,
                    tooltip="Quality of the stored pictures, a number from 0 (lossless, large) "
                    "to 51 (poor, small). 14 looks lossless.",
                    **advanced(io.Int.Input),
                ),
                scene_cuts_input(),
                skip_sharp_input(),
                borrow_input(),
                first_stage_input(),
                coding_priors_input(),
                adapt_input(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Video.Output(
                    display_name="VIDEO", tooltip="Restored video, a file for Save Video."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **others: Any) -> str:
        removed = RESULTS.num_removed(repr((checkpoint, sorted(others.items()))))
        return f"{fingerprint(checkpoint)} {removed}"

    @classmethod
    def execute(
        cls,
        video: Any,
        checkpoint: str,
        preset: str,
        strength: float,
        seed: int,
        codec: str,
        crf: int,
        scene_cuts: bool = True,
        skip_sharp: bool = False,
        borrow: bool = True,
        first_stage: Any | None = None,
        coding_priors: Any | None = None,
        adapt: bool = False,
    ) -> io.NodeOutput:
        view = LiveView(Progress(1).stage(0), cls.hidden and cls.hidden.unique_id)
        loaded = load_checkpoint(checkpoint)
        settings = preset_settings(
            loaded.config,
            preset,
            strength=strength,
            seed=seed,
            scene_cuts=scene_cuts,
            skip_sharp=skip_sharp,
            borrow=borrow,
        )
        with used_first_stage(first_stage) as first:
            job = VideoJob(
                loaded=loaded,
                settings=settings,
                codec=codec,
                crf=crf,
                view=view,
                checkpoint=checkpoint,
                first=first,
                priors=used_priors(coding_priors, loaded, checkpoint),
                adapt=learns(adapt, settings),
            )
            if has_other_frames(video):
                path = restore_components(video, job)
            else:
                path = restore_file(video, job)
        return io.NodeOutput(TemporaryVideo.of(path))
