"""The two nodes that do everything: for frames in memory, and for videos of any length."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from ..restoration.frames import rounded, to_array, usable_frames
from ..restoration.settings import PRESET_NAMES, RestorationSettings, preset_settings
from ..video.codecs import CODECS
from .backend import (
    CATEGORY,
    LoadedCheckpoint,
    LoadedFeedForward,
    has_other_frames,
    make_schema,
    trim_window,
)
from .checkpoint import checkpoint_input, checkpoint_path, fingerprint, load_checkpoint
from .decode import borrow_input, decode_latents, strength_input
from .encode import encode_frames, scene_cuts_input
from .mask import feather_input, mask_input, mask_weights, mix_by_mask
from .memory import load_to_device
from .progress import Progress, ProgressFn
from .sample import sample_preset, seed_input

CODEC_NAMES = ("h264", "h265")
"""Codecs of `video.codecs` that Save Video can put into its mp4 files."""


def preset_input() -> io.Combo.Input:
    """Return the input that chooses how many steps are taken."""
    return io.Combo.Input(
        "preset",
        options=list(PRESET_NAMES),
        default=PRESET_NAMES[0],
        tooltip="fast: the checkpoint's own number of steps. detailed: four times as many. "
        "paper: 50 steps as in the paper, fifty times slower; the bundled checkpoint gains "
        "nothing from it.",
    )


def skip_sharp_input() -> io.Boolean.Input:
    """Return the input that leaves sharp frames alone."""
    return io.Boolean.Input(
        "skip_sharp",
        default=False,
        optional=True,
        tooltip="Whether to leave frames alone that are sharp already, with a smooth change to "
        "restored ones. Measure Blur shows what counts as sharp.",
    )


class Deblur(io.ComfyNode):
    """Restore frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_Deblur",
            display_name="Deblur Frames",
            category=CATEGORY,
            description="Remove motion blur from the frames of a clip, or from one image.",
            search_aliases=["deblur", "motion blur", "sharpen", "restore", "unblur"],
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
            ],
            outputs=[io.Image.Output(display_name="frames", tooltip="Restored frames.")],
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
    ) -> io.NodeOutput:
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
        frames = usable_frames(frames)
        if mask is None:
            return io.NodeOutput(_restore_frames(frames, loaded, settings))
        weights = mask_weights(mask, frames, feather)
        if not weights.any():
            return io.NodeOutput(frames)
        restored = _restore_frames(frames, loaded, settings)
        return io.NodeOutput(mix_by_mask(frames, restored, weights))


def _restore_frames(
    frames: Tensor, loaded: LoadedCheckpoint | LoadedFeedForward, settings: RestorationSettings
) -> Tensor:
    """Restore a clip `[T, H, W, C]`."""
    # Here and below: what works on frames and files is imported when it is needed, so that
    # ComfyUI starts without it.
    from ..restoration.streaming.footage import survey_clip

    if isinstance(loaded, LoadedFeedForward):
        _load(loaded, settings, *frames.shape[1:3])
        return loaded.engine().restore(frames, settings, Progress(1).stage(0))
    cuts, shares = survey_clip((frame.cpu().numpy() for frame in frames), settings)
    if settings.strength == 0 or not any(shares):
        return frames
    progress = Progress(1, 4 * settings.passes, 1 + 2 * settings.borrow)
    conditions = encode_frames(loaded.encoder, frames, progress.stage(0), cuts)
    latent = sample_preset(loaded.model, *conditions, settings, progress.stage(1))
    return decode_latents(
        loaded.vae,
        latent,
        None,
        settings.strength,
        settings.color_match,
        progress.stage(2),
        shares,
        settings.borrow,
    )


class DeblurVideo(io.ComfyNode):
    """Restore a video of any length in bounded memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_DeblurVideo",
            display_name="Deblur Video",
            category=CATEGORY,
            description="Remove motion blur from a video of any length. Sound and time stamps "
            "stay as they are.",
            search_aliases=[
                "deblur",
                "motion blur",
                "sharpen video",
                "restore video",
                "unblur",
            ],
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
                ),
                io.Int.Input(
                    "crf",
                    default=14,
                    min=0,
                    max=51,
                    tooltip="Quality of the stored pictures, a number from 0 (lossless, large) "
                    "to 51 (poor, small). 14 looks lossless.",
                ),
                scene_cuts_input(),
                skip_sharp_input(),
                borrow_input(),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video", tooltip="Restored video, a file for Save Video."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **others: Any) -> str:
        return fingerprint(checkpoint)

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
    ) -> io.NodeOutput:
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
        progress = Progress(1).stage(0)
        if has_other_frames(video):
            path = _restore_components(video, loaded, settings, codec, crf, progress)
        else:
            path = _restore_file(video, loaded, settings, codec, crf, progress, checkpoint)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)))


def _restore_file(
    video: Any,
    loaded: LoadedCheckpoint | LoadedFeedForward,
    settings: RestorationSettings,
    codec: str,
    crf: int,
    callback: ProgressFn,
    checkpoint: str,
) -> Path:
    """Restore a file; a run that is cancelled goes on where it was when it is queued again."""
    from ..jobs.ends import VideoEnds
    from ..jobs.files import Resumable, restore_ends
    from ..jobs.part_store import checkpoint_identity, file_identity, identity_digest
    from ..jobs.window import WindowEnds
    from ..video.codecs import container_for
    from ..video.reader import VideoReader

    source = video.get_stream_source()
    with VideoReader(source) as reader:
        info = reader.info
    identity = checkpoint_identity(checkpoint_path(checkpoint))
    # One folder per work, as every run has an output of its own.
    start_s, duration_s = trim_window(video)
    work = {
        **identity,
        "input": file_identity(source),
        "window": [start_s, duration_s],
        "codec": codec,
        "crf": crf,
    }
    digest = identity_digest({**work, "settings": dataclasses.asdict(settings)})
    folder = Path(folder_paths.get_temp_directory()) / f"video_deblur_parts_{digest}"
    with _temporary_file(container_for(info.audio_codecs, codec)) as path:
        if start_s or duration_s:
            ends = WindowEnds(source, path, codec, crf, start_s=start_s, duration_s=duration_s)
        else:
            ends = VideoEnds(source, path, codec, crf)
        restore_ends(
            ends,
            loaded.engine(),
            settings,
            resumable=Resumable(folder=folder, identity=identity),
            callback=lambda done, total: callback(done, total or done + 1),
            before_segment=lambda: _load(loaded, settings, info.height, info.width),
        )
    return path


def _restore_components(
    video: Any,
    loaded: LoadedCheckpoint | LoadedFeedForward,
    settings: RestorationSettings,
    codec: str,
    crf: int,
    callback: ProgressFn,
) -> Path:
    """Restore a video that exists only as frames, without encoding them first."""
    from ..restoration.streaming.stream import restore_stream
    from ..video.writer import VideoWriter

    parts = video.get_components()
    images = usable_frames(parts.images)
    num_frames, height, width = images.shape[:3]
    rate = parts.frame_rate
    # As deep as the codec can store.
    deep = CODECS[codec].max_depth > 8
    dtype = np.dtype(np.uint16 if deep else np.uint8)
    frames = (to_array(rounded(image[..., :3], dtype)) for image in images)
    with _temporary_file(".mp4") as path, _sound_of(parts) as sound:
        writer = VideoWriter(
            path,
            width=width,
            height=height,
            time_base=1 / (rate * rate.denominator),
            average_rate=rate,
            codec=codec,
            crf=crf,
            bit_depth=CODECS[codec].max_depth,
            audio_from=sound,
        )
        with writer:
            restored = restore_stream(
                frames,
                loaded.engine(),
                settings,
                lambda done, total: callback(done, num_frames),
                num_frames,
                lambda: _load(loaded, settings, height, width),
            )
            for index, frame in enumerate(restored):
                writer.write(frame, index * rate.denominator, rate.denominator)
    return path


def _load(
    loaded: LoadedCheckpoint | LoadedFeedForward,
    settings: RestorationSettings,
    height: int,
    width: int,
) -> None:
    from ..restoration.borrowing.passes import borrowing_bytes

    memory = loaded.memory_bytes(settings, height, width)
    # Frames borrow while the next ones are decoded.
    memory += settings.borrow * borrowing_bytes(height, width)
    load_to_device(loaded.patchers(), memory)


@contextmanager
def _temporary_file(suffix: str) -> Iterator[Path]:
    """Give a free path in ComfyUI's temporary folder; nothing is left there on failure.

    Except of a video that ends early: what came before is there, and the error names it.
    """
    from ..video.source import VideoError

    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="video_deblur_", suffix=suffix, dir=folder)
    os.close(handle)
    path = Path(name)
    try:
        yield path
    except VideoError:
        if path.stat().st_size == 0:
            path.unlink()
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _sound_of(parts: Any) -> Iterator[str | None]:
    """Give a file with the sound of video components, or None where there is none."""
    if parts.audio is None:
        yield None
        return
    with _temporary_file(".mp4") as path:
        # ComfyUI cuts the sound to the number of frames, so that many small ones it is.
        images = parts.images[:1, :1, :1, :3].expand(len(parts.images), 16, 16, 3)
        small = Types.VideoComponents(
            images=images, audio=parts.audio, frame_rate=parts.frame_rate
        )
        InputImpl.VideoFromComponents(small).save_to(str(path))
        try:
            yield str(path)
        finally:
            path.unlink(missing_ok=True)
