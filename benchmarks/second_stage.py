"""What a second stage of CPGD-Net had better start from, before it is trained.

    python -m video_deblur.benchmarks.second_stage PAIRS [--share 0.12]

A fresh second stage is the diffusion model that it is built around. It is run on first stages
that are made up: the blurry clip with a share of what separates it from the sharp one added.
Printed is the mean PSNR over the pairs: of the first stage, and of its refinement where the
UNet is conditioned on the blurry clip and where it is conditioned on the first stage's result;
besides, of the diffusion model alone, with its image tokens and without.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..models.checkpoint import load_model
from ..models.cpgd import Cpgd
from ..models.divd import Divd
from ..models.schedule import clean_from_velocity
from ..training.config import DataConfig
from ..training.presets import CPGD_TINY, PRESETS
from ..training.start import with_second_stage
from ..training.validation import ValidationClips, psnr


@torch.no_grad()
def measure(pairs: str, num_frames: int, share: float) -> dict[str, float]:
    """Return mean PSNR in dB over the clips of a data set `KIND:PATH`, by what was done."""
    divd, stage = load_model("divd-tiny"), PRESETS["cpgd-tiny"].cpc
    assert stage is not None
    network = with_second_stage(Cpgd(CPGD_TINY), divd, stage, seed=0).eval()
    clips = ValidationClips(pairs, DataConfig(num_frames=num_frames), Path()).clips
    scores: dict[str, list[float]] = {}
    for blurry, sharp in clips:
        results = {"blurry": blurry[None]}
        for name, kept in (("divd-tiny", 1.0), ("divd-tiny, no tokens", 0.0)):
            results[name] = _restored(divd, blurry[None], kept)
        first = blurry + share * (sharp - blurry)
        results["first stage"] = first[None]
        for name, clip in (("blurry", blurry), ("first stage", first)):
            results[f"refined from {name}"] = _refined(network, first[None], clip[None])
        for name, result in results.items():
            scores.setdefault(name, []).append(psnr(result[0].clamp(-1, 1), sharp))
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _noise(divd: Divd, latents: Tensor) -> Tensor:
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))


def _restored(divd: Divd, blurry: Tensor, kept: float) -> Tensor:
    """Restore `[1, 3, T, H, W]` in one step, the image tokens scaled."""
    condition = divd.encode_blur(blurry)
    noise, timesteps = _noise(divd, condition), torch.tensor([999])
    tokens = kept * divd.encode_tokens(blurry[:, :, blurry.shape[2] // 2])
    v = divd.unet(torch.cat([noise, condition], dim=1), timesteps, tokens)
    latents = clean_from_velocity(divd.config.schedule, noise, v, timesteps)
    return divd.decode_restored(latents, blurry)


def _refined(network: Cpgd, first: Tensor, condition: Tensor) -> Tensor:
    """Refine `[1, 3, T, H, W]` in one step, the UNet conditioned on another clip."""
    cpc = network.cpc
    assert cpc is not None
    first = first.clamp(-1, 1)
    prior = torch.zeros(1, 3, first.shape[2], first.shape[3] // 4, first.shape[4] // 4)
    given = cpc.encode(first, first, prior)
    given = given._replace(condition=cpc.divd.encode_blur(condition))
    noise, timesteps = _noise(cpc.divd, given.first), torch.tensor([999])
    v = cpc.predict(noise, given, timesteps, cpc.tokens(first))
    latents = clean_from_velocity(cpc.divd.config.schedule, noise, v, timesteps)
    return cpc.decode(latents, first, given.first)


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description="Measure what a second stage starts from.")
    parser.add_argument("pairs", help="folder of pairs, <sequence>/{blur,sharp}/<frame>")
    parser.add_argument("--frames", type=int, default=6, help="per clip (default: 6)")
    parser.add_argument("--share", type=float, default=0.12, help="restored (default: 0.12)")
    args = parser.parse_args()
    for name, score in measure(f"pairs:{args.pairs}", args.frames, args.share).items():
        print(f"{name:24} {score:.2f} dB", flush=True)


if __name__ == "__main__":
    main()
