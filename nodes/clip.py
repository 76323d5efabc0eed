"""The two nodes that do everything: for frames in memory, and for videos of any length."""

from __future__ import annotations

import dataclasses
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
    advanced,
    has_other_frames,
    make_schema,
    trim_window,
)
from .checkpoint import checkpoint_input, checkpoint_path, fingerprint, load_checkpoint
from .decode import borrow_input, decode_latents, strength_input
from .encode import encode_frames, scene_cuts_input
from .live import LiveView
from .mask import feather_input, mask_input, mask_weights, mix_by_mask
from .memory import load_to_device
from .progress import Cancellable, Progress, watched
from .sample import sample_preset, seed_input
from .temporary import PREFIX, RESULTS, TemporaryPath, temporary_file

CODEC_NAMES = ("h264", "h265")
"""Codecs of `video.codecs` that Save Video can put into its mp4 files."""


def preset_input() -> io.Combo.Input:
    """Return the input that chooses how many steps are taken."""
    return io.Combo.Input(
        "preset",
        options=list(PRESET_NAMES),
        default=PRESET_NAMES[0],
        tooltip="fast: the checkpoint's own number of steps, 1 for the bundled one. detailed: "
        "four times as many, a little steadier where a hand shakes; the bundled checkpoint "
        "gains no detail from it. paper: 50 times as slow, and worse with the bundled one.",
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


class Deblur(io.ComfyNode):
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
        with Cancellable():
            return loaded.engine().restore(frames, settings, Progress(1).stage(0))
    progress = Progress(0.2, 1, 4 * settings.passes, 1 + 2 * settings.borrow)
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
        )


class DeblurVideo(io.ComfyNode):
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
        if has_other_frames(video):
            path = _restore_components(video, loaded, settings, codec, crf, view)
        else:
            path = _restore_file(video, loaded, settings, codec, crf, view, checkpoint)
        return io.NodeOutput(InputImpl.VideoFromFile(RESULTS.add(TemporaryPath(path))))


def _restore_file(
    video: Any,
    loaded: LoadedCheckpoint | LoadedFeedForward,
    settings: RestorationSettings,
    codec: str,
    crf: int,
    view: LiveView,
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
    folder = Path(folder_paths.get_temp_directory()) / f"{PREFIX}parts_{digest}"
    suffix = container_for(info.audio_codecs, codec)
    with temporary_file(suffix) as path, Cancellable():
        if start_s or duration_s:
            ends = WindowEnds(source, path, codec, crf, start_s=start_s, duration_s=duration_s)
        else:
            ends = VideoEnds(source, path, codec, crf)
        restore_ends(
            ends,
            loaded.engine(),
            settings,
            resumable=Resumable(folder=folder, identity=identity),
            callback=view.on_progress,
            before_segment=lambda: _load(loaded, settings, info.height, info.width),
            on_frame=view.on_frame,
            on_read=view.on_read,
            check=view.check,
        )
    return path


def _restore_components(
    video: Any,
    loaded: LoadedCheckpoint | LoadedFeedForward,
    settings: RestorationSettings,
    codec: str,
    crf: int,
    view: LiveView,
) -> Path:
    """Restore a video that exists only as frames, without encoding them first."""
    from ..restoration.streaming.stream import restore_stream
    from ..video.writer import VideoWriter

    parts = video.get_components()
    with Cancellable():
        images = usable_frames(parts.images)
    num_frames, height, width = images.shape[:3]
    rate = parts.frame_rate
    # As deep as the codec can store.
    deep = CODECS[codec].max_depth > 8
    dtype = np.dtype(np.uint16 if deep else np.uint8)
    frames = (to_array(rounded(image[..., :3], dtype)) for image in images)
    with temporary_file(".mp4") as path, _sound_of(parts) as sound:
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
        with writer, Cancellable():
            restored = restore_stream(
                frames,
                loaded.engine(),
                settings,
                view.on_progress,
                num_frames,
                lambda: _load(loaded, settings, height, width),
                view.on_frame,
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
def _sound_of(parts: Any) -> Iterator[str | None]:
    """Give a file with the sound of video components, or None where there is none."""
    if parts.audio is None:
        yield None
        return
    with temporary_file(".mp4") as path:
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
