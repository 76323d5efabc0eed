r"""Train a feed-forward network, DBLRNet, on the bundled checkpoint's data, to compare with.

    python -m video_deblur.benchmarks.feed_forward --data synthetic:DATA*0.92 \
        --data pairs:DATA/pairs*0.08 --steps 2000 --out RUN
    video-deblur evaluate --dataset pairs:DEV --no-borrow \
        --checkpoint RUN/checkpoint.safetensors

Clips, blur, losses of pixels, optimisers and averaging are those of `train tiny-further`; only
the network differs. The same command goes on with a run that was stopped. The weights are in
`RUN/checkpoint.safetensors`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.checkpoint import save_checkpoint
from ..models.dblrnet import DblrNet, DblrNetConfig, to_luma
from ..training.accelerator import make_accelerator
from ..training.config import DiffusionStage
from ..training.data.clips import DrawnClip
from ..training.data.loader import ClipLoader, TrainingData, clip_generator
from ..training.loop import Run, train
from ..training.losses import log_error, spectrum_l1
from ..training.preflight import data_name
from ..training.presets import PRESETS
from ..training.states import whole_weights

_WINDOWS = 2
"""Middle frames that are restored of every clip of an update."""
_SEED = 0
_CONFIG = DblrNetConfig(input_skip=True)

_Update = tuple[int, list[DrawnClip]]


class FeedForwardTraining(nn.Module):
    """The loss of a clip: that of the pixels in the diffusion model's joint stage.

    Args:
        network: Trained in place.
        stage: Weights and floors of the losses.
    """

    def __init__(self, network: DblrNet, stage: DiffusionStage):
        super().__init__()
        self.network = network
        self.stage = stage

    def forward(self, blurry: Tensor, sharp: Tensor, progress: float) -> dict[str, Tensor]:
        """Return the loss of each clip and what it gained.

        Args:
            blurry: `[B, K, 5, H, W]`, luma in 0..1 of K windows per clip.
            sharp: `[B, K, H, W]`, the middle frames.
            progress: Point of the run, 0 to 1.
        """
        clips = len(blurry)
        restored = self.network(rearrange(blurry, "b k t h w -> (b k) t h w"))
        # Values of -1..1, as the floors expect.
        pred = rearrange(restored, "(b k) 1 h w -> b 1 k h w", b=clips) * 2 - 1
        target = sharp[:, None] * 2 - 1
        before = blurry[:, None, :, self.network.num_frames // 2] * 2 - 1
        start, end = self.stage.pixel_floor
        floor = start * (end / start) ** progress
        error = log_error(pred, target, floor)
        gain = 10 * (log_error(before, target, floor) - error).detach()
        return {
            "loss": error + self.stage.fft_weight * spectrum_l1(pred, target),
            "gain_db": gain,
        }


def train_network(
    data_specs: Sequence[str], folder: Path, steps: int, device: str = "auto"
) -> Path:
    """Train, or go on with the run in `folder`; returns the checkpoint of averaged weights."""
    stage = PRESETS["tiny-further"].joint
    assert stage is not None
    assert stage.easy_data is not None
    data = TrainingData(data_specs, num_frames=stage.data.num_frames, crop=stage.data.crop)
    easy_steps = max(1, int(stage.easy_until * steps))
    loader = ClipLoader(
        data,
        [(0, stage.easy_data), (easy_steps, stage.data)],
        clips=stage.data.clips_per_batch,
        seed=_SEED,
        num_workers=1,
    )
    accelerator = make_accelerator(device, "auto", folder)

    def batches(first: int, last: int) -> Iterator[list[_Update]]:
        for step, drawn in enumerate(loader.batches(first, last), start=first):
            yield [(step, drawn)]

    def prepare(update: _Update) -> tuple[Tensor, Tensor, float]:
        step, drawn = update
        blurry, sharp = data.finish(drawn, accelerator.device)
        blurry, sharp = _windows(to_luma(blurry), to_luma(sharp), step)
        return blurry, sharp, step / steps

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(_SEED)
    module = FeedForwardTraining(DblrNet(_CONFIG), stage)
    run = Run(
        name="dblrnet",
        folder=folder,
        steps=steps,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        betas=stage.betas,
        takes_muon=lambda name, parameter: "units." in name and parameter.ndim > 1,
        gradient_clip=stage.gradient_clip,
        # Of fewer updates than that preset's, the last few hundred.
        ema_decay=0.995,
        images_per_sample=_WINDOWS,
        progress=_print_progress,
    )
    weights = whole_weights(module, train(run, accelerator, module, batches, prepare))
    path = folder / "checkpoint.safetensors"
    save_checkpoint(
        path,
        {name.removeprefix("network."): weight for name, weight in weights.items()},
        _CONFIG,
        provenance={
            "benchmark": "feed_forward",
            "data": [data_name(spec) for spec in data_specs],
            "steps": steps,
            "seed": _SEED,
        },
        # As it was trained: the statistics of batch normalisation may exceed half precision.
        dtype=torch.float32,
    )
    return path


def _windows(blurry: Tensor, sharp: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Cut windows of five frames out of `[B, T, H, W]`, each clip's own."""
    chosen, middles = [], []
    for index, (clip, truth) in enumerate(zip(blurry, sharp, strict=True)):
        generator = clip_generator(_SEED, step, index, "windows")
        length = _CONFIG.num_frames
        starts = torch.randperm(len(clip) - length + 1, generator=generator)[:_WINDOWS]
        chosen.append(torch.stack([clip[s : s + length] for s in starts]))
        middles.append(torch.stack([truth[s + length // 2] for s in starts]))
    return torch.stack(chosen), torch.stack(middles)


def _print_progress(step: int, steps: int, values: dict[str, float] | None) -> None:
    if values is None:
        return
    print(
        f"{step}/{steps}  loss {values['loss']:.4f}  gain dB {values['gain_db']:.3f}  "
        f"{values['images_per_s']:.2f} images/s  {values['left_s'] / 60:.0f} min left",
        flush=True,
    )


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description="Train DBLRNet to compare with.")
    parser.add_argument("--data", action="append", required=True, metavar="KIND:PATH[*WEIGHT]")
    parser.add_argument("--steps", type=int, default=2000, help="updates (default: 2000)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_network(args.data, args.out, args.steps, args.device)


if __name__ == "__main__":
    main()
