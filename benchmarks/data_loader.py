"""Whether data keeps up with training: the loader's rate, and what training waits for it.

    python -m video_deblur.benchmarks.data_loader PRESET|CONFIG --data KIND:PATH[*WEIGHT]
        [--init CHECKPOINT] [--workers 0 1 2] [--updates 40] [--device auto|cpu]

The loader alone draws the clips of the preset's last stage as fast as it can. Then the stage
trains for a few updates from `--init` on this machine's device, and the log's `data_wait` says
for what share of the time it waited. Without `--init` only the loader runs: enough to know how
many workers feed a device of which the rate is known.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from ..training.config import DiffusionStage, Preset
from ..training.data.loader import ClipLoader, TrainingData
from ..training.presets import load_preset
from ..training.recipe import train_preset
from ..training.report.page import read_log

_WARM_UP = 4
"""Updates that start workers and fill queues: not counted."""


def last_stage(preset: Preset) -> tuple[str, DiffusionStage]:
    """Return the name and settings of the stage that is measured."""
    name = preset.stages[-1]
    stage = getattr(preset, name)
    if not isinstance(stage, DiffusionStage):
        raise ValueError(
            f"{preset.preset}: ends with stage {name}, and this takes stages of the "
            f"diffusion model; choose a preset such as tiny-further"
        )
    return name, stage


def loader_rate(stage: DiffusionStage, data: TrainingData, workers: int, updates: int) -> float:
    """Return how many clips per second the loader draws when nothing else is done."""
    clips = stage.data.clips_per_batch
    loader = ClipLoader(data, [(0, stage.data)], clips=clips, seed=0, num_workers=workers)
    # As much is drawn ahead at the end as at the start.
    batches = loader.batches(0, _WARM_UP + updates + 2 * workers)
    for _ in range(_WARM_UP):
        next(batches)
    started = time.perf_counter()
    for _ in range(updates):
        next(batches)
    seconds = time.perf_counter() - started
    del batches
    return updates * clips / seconds


def training_rate(
    preset: Preset, args: argparse.Namespace, workers: int
) -> tuple[float, float]:
    """Return clips per second of training, and the share of the time it waited for data."""
    name, stage = last_stage(preset)
    stage = dataclasses.replace(stage, steps=_WARM_UP + args.updates)
    short = dataclasses.replace(preset.only([name]), **{name: stage})
    with tempfile.TemporaryDirectory() as folder:
        train_preset(
            short,
            args.data,
            folder,
            init=args.init,
            device=args.device,
            num_workers=workers,
            log_every=_WARM_UP,
        )
        lines = read_log(Path(folder) / f"{name}.jsonl")[1:]
    frames = stage.data.num_frames
    waited = sum(line["data_wait"] / line["images_per_s"] for line in lines)
    per_image = sum(1 / line["images_per_s"] for line in lines)
    return len(lines) / per_image / frames, waited / per_image


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure whether data keeps up.")
    parser.add_argument("preset", help="name, or a JSON file of changes to one")
    parser.add_argument("--data", action="append", required=True, metavar="KIND:PATH[*WEIGHT]")
    parser.add_argument("--init", help="checkpoint to train from; without one only the loader")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=40, help="measured (default: 40)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    args = parser.parse_args()
    preset = load_preset(args.preset)
    stage = last_stage(preset)[1]
    clips = stage.data
    print(
        f"clips of {clips.num_frames} frames of {clips.crop}x{clips.crop}, "
        f"{clips.clips_per_batch} per update"
    )
    data = TrainingData(args.data, num_frames=clips.num_frames, crop=clips.crop)
    print("| workers | loader alone, clips/s | training, clips/s | waiting for data |")
    print("|---|---|---|---|")
    for workers in args.workers:
        drawn = loader_rate(stage, data, workers, args.updates)
        trained = " | |"
        if args.init is not None:
            rate, waited = training_rate(preset, args, workers)
            trained = f" {rate:.2f} | {100 * waited:.1f} % |"
        print(f"| {workers} | {drawn:.1f} |{trained}", flush=True)


if __name__ == "__main__":
    main()
