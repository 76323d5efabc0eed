"""Decode restored latents onto the frames they were encoded from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any

import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..models.autoencoder import normalise_latents
from ..models.hardware import decode_bytes
from ..restoration.denoising.coding import pixels_at_once
from ..restoration.denoising.windows import shots
from ..restoration.frames import TensorFrames, copied, usable_frames
from ..restoration.orientation import refuse_turned
from ..restoration.phases import blend_clip, decode, frame_groups, fuse
from ..restoration.progress import Work
from ..restoration.settings import RestorationSettings
from .backend import CATEGORY, advanced, make_schema
from .denoiser import OPTIONS_KEY
from .first_stage import UpscaleStage
from .memory import load_to_device
from .progress import Cancellable, Progress, ProgressFn
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
        display_name="use sharper neighbours",
        default=True,
        optional=True,
        tooltip="Whether frames take detail from sharper neighbours, up to six frames away. "
        "Most of the gain where a hand shakes; on a CPU it can take as long as the networks.",
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
    *,
    first: UpscaleStage | None = None,
    settings: RestorationSettings | None = None,
    may_be_turned: bool = False,
) -> Tensor:
    """Decode LATENT to frames `[T, H, W, C]` of the size and channels of the blurry ones.

    `shares` are factors on the strength, one per frame. `first` restores the frames as well,
    by the `settings`. `may_be_turned` has latents checked that came through nodes of others.

    Raises:
        ValueError: If the blurry frames are missing or do not fit the latents.
    """
    # Not at the top, as much as comes with it: ComfyUI starts without.
    from ..restoration.first_stage.stage import panel_of

    divd = decoding_divd(vae)
    samples = _frames_as_batch(latent["samples"])
    frames = _blurry_frames(latent, original)
    _check_fit(samples, frames, divd)
    if strength == 0:
        return copied(frames)
    shares = shares or [1.0] * len(frames)
    device = vae.patcher.load_device
    _reserve(vae, divd, frames, borrow, first, settings)
    latents = normalise_latents(divd.config.autoencoder, samples.float())
    on_device = TensorFrames(frames, device)
    if may_be_turned:
        refuse_turned(divd, latents, TensorFrames(_made_from(latent, frames), device))
    latents = rearrange(latents, "t c h w -> 1 c t h w")
    spans = shots(len(frames), _cuts(latent, frames) if borrow else ())
    groups = [frame_groups(divd.config.autoencoder, span, on_device.size) for span in spans]
    passes = borrow + (first is not None)
    work = Work(callback, sum(map(len, groups)) + passes * len(frames))
    amounts = [strength * share for share in shares]
    result = copied(frames)
    for (start, stop), part in zip(spans, groups, strict=True):
        decoded = decode(divd, latents, on_device, shares, part, work.advance)
        firsts = repeat(None)
        if first is not None and settings is not None:
            shot = (start, stop)
            firsts = first.candidates(frames, shares, shot, settings, work, device)
        panels = map(partial(panel_of, on_device), range(start, stop), decoded, firsts)
        refused = first and first.stage.on_refused
        fused = fuse(panels, device, work.advance, borrow=borrow, refused=refused)
        blend_clip(result, on_device, enumerate(fused, start), amounts, color_match)
    work.finish()
    return result


def _reserve(
    vae: Any,
    divd: AssembledDivd,
    frames: Tensor,
    borrow: bool,
    first: UpscaleStage | None,
    settings: RestorationSettings | None,
) -> None:
    """Have the decoder loaded, with room for what follows."""
    from ..restoration.borrowing.passes import borrowing_bytes

    num_frames, height, width = frames.shape[:3]
    config = divd.config.autoencoder
    memory = decode_bytes(config, pixels_at_once(config, num_frames, height, width))
    memory += borrow * borrowing_bytes(height, width)
    if first is not None and settings is not None:
        memory += first.memory_bytes(settings, height, width)
    load_to_device([vae.patcher], memory, first and first.model)


def _cuts(latent: dict[str, Any], frames: Tensor) -> Sequence[int]:
    """Return the cuts found when these frames were encoded, or find them.

    Nodes of others pass on what travels with latents as it was, also with some of the frames.
    """
    from ..video.scene_cuts import find_cuts

    source = latent.get(OPTIONS_KEY)
    if source and source["cuts"] is None:
        return ()
    if source and _equal(source["frames"], frames):
        return source["cuts"]
    return find_cuts(frame.cpu().numpy() for frame in frames)


def _equal(encoded: Tensor, frames: Tensor) -> bool:
    """Tell whether clips show the same, whatever their alpha."""
    if encoded is frames:
        return True
    return encoded.shape[:3] == frames.shape[:3] and all(
        torch.equal(first[..., :3].to(second.device), second[..., :3])
        for first, second in zip(encoded, frames, strict=True)
    )


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
    return usable_frames(frames)


def _made_from(latent: dict[str, Any], frames: Tensor) -> Tensor:
    """Return the frames that were encoded, where the latents still have them all."""
    source = latent.get(OPTIONS_KEY)
    made_from = source["frames"] if source else frames
    return made_from if made_from.shape[:3] == frames.shape[:3] else frames


def _check_fit(samples: Tensor, frames: Tensor, divd: AssembledDivd) -> None:
    downscale, channels = divd.downscale, divd.config.autoencoder.latent_channels
    height, width = (-(-extent // downscale) for extent in frames.shape[1:3])
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
                    **advanced(io.Boolean.Input),
                ),
                borrow_input(),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="Restored frames.")],
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
        with Cancellable():
            restored = decode_latents(
                vae,
                latent,
                original,
                strength,
                color_match,
                advance,
                borrow=borrow,
                may_be_turned=True,
            )
        return io.NodeOutput(restored)
