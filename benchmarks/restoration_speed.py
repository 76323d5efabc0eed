"""A whole restoration: ours with its fast setting, beside the paper's loop of diffusers' parts.

    python -m video_deblur.benchmarks.restoration_speed

The paper's loop takes 50 guided DDIM steps with diffusers' UNet, autoencoder and scheduler;
image tokens come from our tower on both sides. The networks are Stable Diffusion's and
ModelScopeT2V's at reduced width with the same random weights on both sides, so times compare
and pictures say nothing. Times are the process's own on a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models import inference_layers
from ..models.config import AutoencoderConfig, DivdConfig, ImageEncoderConfig, UNet3DConfig
from ..models.divd import Divd
from ..restoration.denoising.noise import FrameNoise
from ..restoration.diffusion import Deblurrer
from ..restoration.settings import RestorationSettings
from .unet_speed import build, clock

GUIDANCE = 7.5
"""Of the paper's loop; any but 1 costs the same."""
LATENT_SCALE = 0.18215
"""Of Stable Diffusion's latents."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare whole restorations.")
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 256])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=256, help="pixels, both ways")
    parser.add_argument("--steps", type=int, default=50, help="of the paper's loop")
    parser.add_argument("--fast-steps", type=int, default=1, help="of the fast setting")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    config = make_config(tuple(args.channels))
    divd, theirs = build_networks(config, args.device, dtype)
    frames = torch.rand(args.frames, args.size, args.size, 3)
    now = clock(torch.device(args.device))

    def timed(restore: Callable[[], Tensor]) -> float:
        started = now()
        restore()
        return now() - started

    deblurrer = Deblurrer(divd, args.device, dtype)
    fast = RestorationSettings(steps=args.fast_steps, borrow=False, scene_cuts=False)
    paper = dataclasses.replace(fast, steps=args.steps, guidance_scale=GUIDANCE)
    deblurrer.restore(frames, fast)  # not counted
    seconds = {
        f"ours, {args.fast_steps} step": timed(lambda: deblurrer.restore(frames, fast)),
        f"ours, {args.steps} guided steps": timed(lambda: deblurrer.restore(frames, paper)),
        f"diffusers' parts, {args.steps} guided steps": timed(
            lambda: restore_with_diffusers(divd, theirs, frames, args.steps, dtype)
        ),
    }
    count = sum(parameter.numel() for parameter in divd.unet.parameters()) / 1e6
    print(
        f"\nUNet of {count:.0f} M, {args.frames} frames of {args.size}x{args.size}, {dtype}\n"
    )
    slowest = max(seconds.values())
    print("| | time | against diffusers |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.1f} s | {slowest / value:.1f} |")


def make_config(channels: tuple[int, ...]) -> DivdConfig:
    """Return the layout of converted public weights with UNet levels of these widths."""
    return DivdConfig(
        unet=UNet3DConfig(in_channels=8, block_channels=channels),
        autoencoder=AutoencoderConfig(
            kind="kl",
            latent_channels=4,
            channels=(32, 64, 128, 128),  # a quarter of Stable Diffusion's
            blocks=(2, 2, 2, 2),
            latent_std=(1 / LATENT_SCALE,) * 4,
        ),
        image_encoder=ImageEncoderConfig(width=160, heads=2, layers=4),
        residual_decoding=False,
    )


@dataclasses.dataclass(frozen=True)
class Theirs:
    """diffusers' networks with the weights of ours."""

    unet: nn.Module
    autoencoder: Any


def build_networks(config: DivdConfig, device: Any, dtype: torch.dtype) -> tuple[Divd, Theirs]:
    """Return our model, its UNet in `dtype`, and diffusers' networks with its weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    unet, their_unet = build(config.unet, device, dtype)
    divd = Divd(config, device=device, operations=inference_layers)
    divd.unet = unet
    divd.image_encoder.to(dtype)
    # Its annotations name tuples of one element.
    levels: Any = config.autoencoder.channels
    blocks: Any = ("DownEncoderBlock2D",) * len(levels), ("UpDecoderBlock2D",) * len(levels)
    autoencoder = AutoencoderKL(
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=levels,
        layers_per_block=config.autoencoder.blocks[0],
        latent_channels=config.autoencoder.latent_channels,
    )
    weights = {
        name.replace("post_quant", "decoder.post_quant")
        if name.startswith("post")
        else name.replace("quant_conv", "encoder.quant_conv"): value
        for name, value in autoencoder.state_dict().items()
    }
    divd.autoencoder.load_state_dict(weights)
    divd.blur_encoder.load_state_dict(divd.autoencoder.encoder.state_dict())
    return (
        divd.eval().requires_grad_(False),
        Theirs(their_unet, autoencoder.to(device).eval().requires_grad_(False)),
    )


@torch.no_grad()
def restore_with_diffusers(
    divd: Divd, theirs: Theirs, frames: Tensor, steps: int, dtype: torch.dtype
) -> Tensor:
    """Restore `[T, H, W, 3]` by the paper's loop; the autoencoder computes in float32."""
    scheduler = make_scheduler()
    device = next(theirs.unet.parameters()).device
    images = rearrange(frames * 2 - 1, "t h w c -> t c h w").to(device)
    condition = theirs.autoencoder.encode(images).latent_dist.mode() * LATENT_SCALE
    condition = rearrange(condition, "t c h w -> 1 c t h w").to(dtype)
    tokens = divd.encode_tokens(images[len(images) // 2, None].to(dtype))
    context = torch.cat([torch.zeros_like(tokens), tokens])
    latents = FrameNoise(0).draw(*[condition.shape[i] for i in (2, 1, 3, 4)]).to(condition)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        both = torch.cat([latents, condition], dim=1).repeat(2, 1, 1, 1, 1)
        uncond, cond = theirs.unet(both, timestep, context).sample.chunk(2)
        guided = uncond + GUIDANCE * (cond - uncond)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    flat = rearrange(latents.float() / LATENT_SCALE, "1 c t h w -> t c h w")
    decoded = theirs.autoencoder.decode(flat).sample
    return rearrange(decoded * 0.5 + 0.5, "t c h w -> t h w c")


def make_scheduler() -> Any:
    """Return diffusers' DDIM with the schedule that both sides sample with."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )


if __name__ == "__main__":
    main()
