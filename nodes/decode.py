"""Decode restored latents onto the frames they were encoded from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..models.autoencoder import normalise_latents
from ..restoration.layout import is_out_of_memory
from ..restoration.pipeline import (
    blend,
    check_frames,
    frames_at_once,
    frames_to_video,
    video_to_frames,
)
from ..restoration.windows import shots
from .backend import (
    CATEGORY,
    OPTIONS_KEY,
    make_schema,
)
from .memory import decode_bytes, load_to_device
from .progress import Progress, ProgressFn
from .vae import AssembledDivd, decoding_divd


def strength_input() -> io.Float.Input:
    """Return the input that mixes restored and blurry frames."""
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Mix with the blurry frames, in pixels: 0 returns them, 1 the restored ones.",
    )


def borrow_input() -> io.Boolean.Input:
    """Return the input that lets frames borrow from each other."""
    return io.Boolean.Input(
        "borrow",
        default=True,
        optional=True,
        tooltip="Whether frames take detail from sharper neighbours, up to four frames away. "
        "Most of the gain where a hand shakes.",
    )


def decode_latents(
    vae: Any,
    latent: dict[str, Any],
    original: Tensor | None,
    strength: float,
    color_match: bool,
    callback: ProgressFn,
    shares: Sequence[float] | None = None,
    borrow: bool = True,
) -> Tensor:
    """Decode LATENT to frames `[T, H, W, C]` of the size and channels of the blurry ones.

    `shares` are factors on the strength, one per frame.

    Raises:
        ValueError: If the blurry frames are missing or do not fit the latents.
    """
    divd = decoding_divd(vae)
    samples = _frames_as_batch(latent["samples"])
    frames = _blurry_frames(latent, original)
    color = frames[..., :3].float()
    video = frames_to_video(color, divd.downscale)
    _check_fit(samples, video, frames, divd)
    if strength == 0:
        return frames.clone()
    latents = normalise_latents(divd.config.autoencoder, samples.float())
    total = len(frames) * (1 + borrow)
    restored = _decode_chunks(
        divd, vae.patcher, latents, video, lambda done, _: callback(done, total)
    )
    restored = video_to_frames(restored, *frames.shape[1:3])
    if borrow:
        shares = shares or [1.0] * len(frames)
        # Frames that stay as they are lend what they have, too.
        kept = torch.tensor([share == 0 for share in shares])[:, None, None, None]
        restored = borrow_detail(
            torch.where(kept, color, restored),
            _cuts(latent, frames),
            vae.patcher.load_device,
            lambda done, _: callback(len(frames) + done, total),
        )
    return blend(frames, restored, strength, color_match, shares)


def borrow_detail(
    frames: Tensor, cuts: Sequence[int], device: Any, callback: ProgressFn
) -> Tensor:
    """Let the frames `[T, H, W, 3]` of every shot take detail from sharper neighbours."""
    from ..restoration.borrowing import borrow_stream, borrowing_bytes

    load_to_device([], borrowing_bytes(*frames.shape[1:3]))
    borrowed = torch.empty_like(frames)
    for start, stop in shots(len(frames), cuts):
        for index, pixels in enumerate(borrow_stream(frames[start:stop], device), start=start):
            callback(index, len(frames))
            borrowed[index] = pixels
    callback(len(frames), len(frames))
    return borrowed


def _cuts(latent: dict[str, Any], frames: Tensor) -> Sequence[int]:
    """Return the cuts found when the frames were encoded, or find them."""
    from ..video.scene_cuts import find_cuts

    source = latent.get(OPTIONS_KEY) or {}
    cuts = source.get("cuts")
    return find_cuts(frames.float().cpu().numpy()) if cuts is None else cuts


def _frames_as_batch(samples: Tensor) -> Tensor:
    if samples.ndim == 5:
        return rearrange(samples, "b c t h w -> (b t) c h w")
    return samples


def _blurry_frames(latent: dict[str, Any], original: Tensor | None) -> Tensor:
    source = latent.get(OPTIONS_KEY)
    # What is connected counts: the user may have resized or re-ordered both.
    frames = original if original is not None else source and source["frames"]
    if frames is None:
        raise ValueError(
            "latent has lost its blurry frames (Save Latent drops them). Connect them to the "
            "input `original`."
        )
    check_frames(frames)
    return frames


def _check_fit(samples: Tensor, video: Tensor, frames: Tensor, divd: AssembledDivd) -> None:
    downscale, channels = divd.downscale, divd.config.autoencoder.latent_channels
    height, width = (extent // downscale for extent in video.shape[3:])
    if samples.shape[1] != channels:
        raise ValueError(
            f"latent has {samples.shape[1]} channels, this vae decodes {channels}. Take both "
            f"from the same checkpoint."
        )
    if samples.shape[0] != frames.shape[0] or samples.shape[2:] != (height, width):
        raise ValueError(
            f"latent is {samples.shape[0]} frames of {samples.shape[3] * downscale}x"
            f"{samples.shape[2] * downscale} pixels but the blurry frames are "
            f"{frames.shape[0]} of {frames.shape[2]}x{frames.shape[1]}. Connect the frames it "
            f"was made from to `original`."
        )


def _decode_chunks(
    divd: AssembledDivd, patcher: Any, latents: Tensor, video: Tensor, callback: ProgressFn
) -> Tensor:
    num_frames, height, width = video.shape[2:]
    config = divd.config.autoencoder
    chunk_frames = min(frames_at_once(config, height, width), num_frames)
    pixels = chunk_frames * height * width
    load_to_device([patcher], decode_bytes(config, pixels))
    parts: list[Tensor] = []
    start = 0
    while start < num_frames:
        callback(start, num_frames)
        stop = min(start + chunk_frames, num_frames)
        try:
            parts.append(_decode(divd, patcher.load_device, latents, video, start, stop))
            start = stop
        except Exception as error:
            if chunk_frames == 1 or not is_out_of_memory(error):
                raise
            chunk_frames //= 2
    callback(num_frames, num_frames)
    return torch.cat(parts, dim=2)


def _decode(
    divd: AssembledDivd, device: Any, latents: Tensor, video: Tensor, start: int, stop: int
) -> Tensor:
    part = rearrange(latents[start:stop], "t c h w -> 1 c t h w").to(device)
    return divd.decode_restored(part, video[:, :, start:stop].to(device)).cpu()


class DecodeLatents(io.ComfyNode):
    """Restored latents to frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_DecodeLatents",
            display_name="Decode Deblurred Latents",
            category=CATEGORY,
            description="Decode restored latents, keeping every detail that the blurry frames "
            "still have, at their exact size.",
            search_aliases=["deblur decode", "vae decode"],
            inputs=[
                io.Vae.Input("vae", tooltip="From Load Deblur Checkpoint."),
                io.Latent.Input("latent", tooltip="Restored latents, from a sampler."),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The blurry frames. Only needed when the latents have lost them, "
                    "for example after Save Latent.",
                ),
                strength_input(),
                io.Boolean.Input(
                    "color_match",
                    default=False,
                    tooltip="Whether to take colour and brightness (low frequencies) from the "
                    "blurry frames.",
                ),
                borrow_input(),
            ],
            outputs=[io.Image.Output(display_name="frames", tooltip="Restored frames.")],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        latent: dict[str, Any],
        strength: float,
        color_match: bool,
        original: Tensor | None = None,
        borrow: bool = True,
    ) -> io.NodeOutput:
        advance = Progress(1).stage(0)
        return io.NodeOutput(
            decode_latents(vae, latent, original, strength, color_match, advance, borrow=borrow)
        )
