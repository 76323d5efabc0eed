"""Encode blurry frames: the condition of the sampler, and the latents to start from."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..models.autoencoder import normalise_latents
from ..models.hardware import encode_bytes
from ..models.precision import exact_float32
from ..restoration.denoising.coding import pixels_at_once
from ..restoration.frames import TensorFrames, usable_frames
from ..restoration.phases import encode, encode_tokens, frame_groups
from ..restoration.progress import Work
from .backend import CATEGORY, DeblurEncoder, DeblurEncoderType, advanced, make_schema
from .denoiser import CUTS_KEY, OPTIONS_KEY
from .memory import load_to_device
from .progress import Cancellable, Progress, ProgressFn, watched
from .vae import AssembledDivd


def scene_cuts_input() -> io.Boolean.Input:
    """Return the input that lets windows end at scene cuts."""
    # Optional, as everything that came later: graphs in API format name every input.
    return io.Boolean.Input(
        "scene_cuts",
        default=True,
        optional=True,
        tooltip="Whether to find scene cuts and restore every shot on its own. Off takes the "
        "frames for one shot.",
        **advanced(io.Boolean.Input),
    )


def encode_frames(
    encoder: Any, frames: Tensor, callback: ProgressFn, cuts: tuple[int, ...] | None
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Encode frames `[T, H, W, C]` into positive, negative and LATENT.

    H and W are padded to the grid of the latents, never cropped. `cuts` travel with the
    conditioning, so that any sampler's windows end there; None takes the frames for one shot,
    whatever they show, also when they are decoded.

    Raises:
        ValueError: If the frames or the encoder cannot be used.
    """
    network = getattr(encoder, "model", None)
    if not isinstance(network, DeblurEncoder):
        raise ValueError("encoder must come from Load Deblur Checkpoint")
    frames = usable_frames(frames)
    num_frames, height, width = frames.shape[:3]
    config = network.config.autoencoder
    pixels = pixels_at_once(config, num_frames, height, width)
    load_to_device([encoder], encode_bytes(config, pixels))

    @exact_float32()
    def encode_both(video: Tensor) -> Tensor:
        images = rearrange(video, "1 c t h w -> t c h w")
        blur = normalise_latents(config, network.blur_encoder(images))
        return torch.stack([network.sharp_encoder(images), blur])

    groups = frame_groups(config, (0, num_frames), (height, width))
    on_device = TensorFrames(frames, encoder.load_device)
    work = Work(callback, len(groups) + num_frames)
    coded = encode(encode_both, config, on_device, groups, work.advance)
    sharp, blur = (_to_host(latents) for latents in torch.cat(coded, dim=1))
    tower = AssembledDivd(network.config, image_encoder=network.image_encoder)
    tokens = []
    # Of every frame: a sampler that comes later chooses the windows.
    for index in range(num_frames):
        work.advance()
        tokens.append(_to_host(encode_tokens(tower, on_device, index)))
    work.finish()
    context = torch.cat(tokens)
    latent = {
        "samples": sharp,
        OPTIONS_KEY: {"frames": frames, "cuts": cuts},
    }
    shared = {"concat_latent_image": blur, CUTS_KEY: cuts or ()}
    return (
        [[context, dict(shared)]],
        [[torch.zeros_like(context), dict(shared)]],
        latent,
    )


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.float().to(comfy.model_management.intermediate_device())


class EncodeFrames(io.ComfyNode):
    """Frames to conditioning and latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_EncodeFrames",
            display_name="Encode Blurry Frames",
            category=CATEGORY,
            description="Encode blurry frames for the sampler. Any size and number of frames.",
            search_aliases=["deblur conditioning", "motion blur encode"],
            inputs=[
                DeblurEncoderType.Input(
                    "encoder", tooltip="The image encoders, from Load Deblur Checkpoint."
                ),
                io.Image.Input(
                    "frames",
                    tooltip="Blurry frames in order, of one clip. One image works too. "
                    "Transparency is kept.",
                ),
                scene_cuts_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="Blur latents and image tokens of each frame.",
                ),
                io.Conditioning.Output(
                    display_name="negative",
                    tooltip="The same blur latents with empty tokens, for cfg above 1.",
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Latents of the blurry frames. They keep a reference to the frames "
                    "for Decode Deblurred Latents.",
                ),
            ],
        )

    @classmethod
    def execute(cls, encoder: Any, frames: Tensor, scene_cuts: bool = True) -> io.NodeOutput:
        from ..video.scene_cuts import find_cuts

        progress = Progress(0.2, 1)
        progress.stage(0)(0, 1)
        with Cancellable():
            frames = usable_frames(frames)
            cuts = find_cuts(watched(frames, progress.stage(0))) if scene_cuts else None
            encoded = encode_frames(encoder, frames, progress.stage(1), cuts)
        return io.NodeOutput(*encoded)
