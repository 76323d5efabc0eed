"""The `train` command: one preset, a comparison of several, or the page on a run."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import sys
import time
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .progress import draw_bar, end_progress_line

if TYPE_CHECKING:
    from torch import nn

    from ..training.config import Preset


def add_train(commands: Any) -> None:
    """Add the parser of `train`."""
    parser = commands.add_parser(
        "train",
        help="train a checkpoint",
        description="Train a checkpoint, or go on with a run that was stopped. On several "
        "devices: accelerate launch -m video_deblur.cli train ...",
    )
    parser.add_argument(
        "preset",
        nargs="*",
        help="tiny, tiny-further, paper, dblrnet, dblrgan, cpgd-tiny, cpgd-paper, or a JSON "
        "file of changes to one",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="KIND:PATH[*WEIGHT]",
        help="training data: synthetic, pairs, gopro, gopro_gamma or dvd; may be repeated",
    )
    parser.add_argument("--out", required=True, help="folder of the run; resumed if it exists")
    parser.add_argument("--init", help="checkpoint to start from instead of stage 0")
    parser.add_argument(
        "--autoencoder", metavar="CHECKPOINT", help="take its autoencoder instead of stage 0"
    )
    parser.add_argument(
        "--diffusion",
        metavar="CHECKPOINT",
        help="diffusion model that CPGD-Net's stage cpc begins from (cpgd-tiny: divd-tiny)",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        metavar="STAGE",
        help="run these of the preset's stages alone: autoencoder, joint, stage1, stage2, "
        "content, adversarial, cpfp, cpc",
    )
    parser.add_argument("--steps", type=int, help="updates of the one main stage that runs")
    parser.add_argument("--autoencoder-steps", type=int, help="updates of stage 0")
    parser.add_argument("--seed", type=int, help="seed of weights, data and noise")
    parser.add_argument(
        "--validation", metavar="KIND:PATH", help="pairs to restore and measure now and then"
    )
    parser.add_argument(
        "--validate-every", type=int, default=500, help="updates between (default: 500)"
    )
    parser.add_argument(
        "--save-every",
        type=float,
        help="seconds between states (default: 60, or 1800 where a state has over 1 GB)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that draw clips (default: one on a CPU, else up to 16 by cores)",
    )
    parser.add_argument(
        "--lpips-weights",
        metavar="FILE",
        help="torchvision's weights of an LPIPS network, for stages with an lpips_weight",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    parser.add_argument("--export", metavar="FILE", help="write the checkpoint here as well")
    parser.add_argument(
        "--report",
        action="store_true",
        help="write OUT/report.html, of a new run or of one that exists",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="train every preset given with every seed, and write a table",
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="for --compare (default: 0 1)")
    parser.add_argument(
        "--unequal-budget",
        action="store_true",
        help="compare presets that differ in updates, clips, frames or crop",
    )
    parser.set_defaults(run=_train, interrupted="the same command goes on from the last state")


def _train(args: argparse.Namespace) -> None:
    from ..training.report.page import write_report

    logging.getLogger("video_deblur").setLevel(logging.INFO)
    _check_options(args)
    if args.compare:
        _compare(args)
        return
    if args.preset:
        print(_train_one(args))
    elif not args.report:
        raise ValueError("name a preset or a JSON file to train, or --report for the page")
    if args.report and int(os.environ.get("RANK", "0")) == 0:
        print(write_report(args.out))


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what would be passed over in silence, or be missed only at the end."""
    if not args.out:
        raise ValueError("--out names no folder")
    if args.compare:
        for option, value in (
            ("--export", args.export),
            ("--report", args.report),
            ("--seed", args.seed),
        ):
            if value not in (None, False):
                raise ValueError(f"{option} is of one run, not of a comparison; leave it out")
    elif args.seeds is not None or args.unequal_budget:
        option = "--unequal-budget" if args.seeds is None else "--seeds"
        raise ValueError(f"{option} is for --compare; add it, or name one --seed")
    if args.report and find_spec("matplotlib") is None:
        raise ValueError("--report needs matplotlib; install it, or leave out --report")


def _train_one(args: argparse.Namespace) -> Path:
    from ..training.presets import load_preset

    if len(args.preset) > 1:
        raise ValueError(f"expected one preset, got {', '.join(args.preset)}; or --compare")
    return _run_alone(_with_changes(load_preset(args.preset[0]), args), args.out, args)


def _compare(args: argparse.Namespace) -> None:
    from ..training.compare import compare, config_names
    from ..training.presets import load_preset
    from ..training.report.page import read_log

    if args.validation is None:
        raise ValueError("--compare measures by --validation KIND:PATH; give one")
    configs = {
        name: _with_changes(load_preset(path), args)
        for name, path in config_names(args.preset).items()
    }

    def score(checkpoint: Path) -> dict[str, float]:
        preset = load_preset(checkpoint.parent / "config.json")
        # The last score of each, not the best one, which would pick by luck. Stage 0 has none.
        return {
            name: read_log(checkpoint.parent / f"{name}.jsonl")[-1]["validation_psnr"]
            for name in preset.stages
            if name != "autoencoder"
        }

    comparison = compare(
        configs,
        [0, 1] if args.seeds is None else args.seeds,
        lambda preset, folder: _run_alone(preset, folder, args),
        score,
        args.out,
        score_name="validation PSNR, dB",
        settings={
            "data": args.data,
            "init": args.init,
            "autoencoder": args.autoencoder,
            **({"diffusion": args.diffusion} if args.diffusion else {}),
            "validation": args.validation,
            **({"lpips_weights": args.lpips_weights} if args.lpips_weights else {}),
        },
        unequal_budget=args.unequal_budget,
    )
    print(comparison.to_markdown())
    if comparison.failures:
        raise ValueError(f"runs failed: {', '.join(comparison.failures)}; see above")


def _run_training(preset: Preset, folder: str | Path, args: argparse.Namespace) -> Path:
    from ..training.recipe import train_preset

    return train_preset(
        preset,
        args.data,
        folder,
        device=args.device,
        init=args.init,
        autoencoder=args.autoencoder,
        diffusion=args.diffusion,
        validation=args.validation,
        validate_every=args.validate_every,
        save_every_s=args.save_every,
        export=args.export,
        num_workers=args.workers,
        progress=_TrainingProgress(),
        lpips=_read_lpips(args.lpips_weights),
    )


def _read_lpips(path: str | None) -> nn.Module | None:
    from ..evaluation.lpips import Lpips, read_backbones

    if path is None:
        return None
    ((network, weights),) = read_backbones([path]).items()
    return Lpips(network, weights)


def _run_alone(preset: Preset, folder: str | Path, args: argparse.Namespace) -> Path:
    """Train while no other run writes to the folder; say what to do when memory ends."""
    import torch

    from ..training.preflight import run_lock

    try:
        with run_lock(folder):
            return _run_training(preset, folder, args)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"out of memory ({error}); raise accumulation, take gradient_checkpointing, fewer "
            "clips_per_batch or num_frames, or a smaller crop"
        ) from error
    except RuntimeError as error:
        # The loader's signal handler raises it wherever the main thread is.
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ValueError(
            f"a process that draws clips has died ({error}), maybe of too little memory or "
            "/dev/shm; take fewer --workers, the same command goes on from the last state"
        ) from error


def _with_changes(preset: Preset, args: argparse.Namespace) -> Preset:
    """Apply --stages, --steps, --autoencoder-steps and --seed."""
    if args.stages is not None:
        preset = preset.only(args.stages)
    changes: dict[str, Any] = {} if args.seed is None else {"seed": args.seed}
    if args.autoencoder_steps is not None:
        replaced = args.autoencoder or (args.init and preset.stages != ("autoencoder",))
        if preset.autoencoder is None or replaced:
            raise ValueError("--autoencoder-steps: this run has no stage 0; leave it out")
        changes["autoencoder"] = dataclasses.replace(
            preset.autoencoder, steps=args.autoencoder_steps
        )
    if args.steps is not None:
        names = [n for n in preset.stages if n != "autoencoder"]
        if not names:
            raise ValueError("--steps: only stage 0 runs; use --autoencoder-steps")
        if len(names) > 1:
            raise ValueError(
                f"--steps: this preset has the stages {', '.join(names)}; choose one with "
                "--stages, or set their steps in a JSON file"
            )
        changes[names[0]] = dataclasses.replace(getattr(preset, names[0]), steps=args.steps)
    return dataclasses.replace(preset, **changes)


class _TrainingProgress:
    """A bar where the output is a terminal, a line at every log line where it is not."""

    def __init__(self) -> None:
        self._stage = ""
        self._shown: dict[str, float] = {}

    def __call__(
        self, stage: str, step: int, steps: int, values: dict[str, float] | None
    ) -> None:
        if stage != self._stage:
            self._stage, self._shown = stage, {}
            self._first, self._started = step, time.monotonic()
        terminal = sys.stderr.isatty()
        label = f"{stage} {step}/{steps}"
        if values is not None:
            self._shown = values
            # In a terminal, validations and the end of a stage stay readable above the bar.
            if not terminal or step == steps or "validation_gain_db" in values:
                end_progress_line()
                print("  ".join([label, *_described(values, values["left_s"])]), flush=True)
        if terminal and step < steps:
            # What fits beside a bar in 80 columns.
            shown = {n: v for n, v in self._shown.items() if n in ("loss", "images_per_s")}
            more = _described(shown, self._left_s(step, steps))
            draw_bar(label, step / steps, "  ".join(more))

    def _left_s(self, step: int, steps: int) -> float:
        """Estimate from the updates since the first one, which is slow."""
        done = step - self._first
        if not done:
            return math.nan
        return (time.monotonic() - self._started) / done * (steps - step)


def _described(values: dict[str, float], left_s: float) -> list[str]:
    """Say what a line of the log says, in a person's words."""
    forms = {
        "loss": "loss {:.4f}",
        "gain_db": "gain dB {:.2f}",
        "psnr": "PSNR {:.2f}",
        "validation_gain_db": "validation gain dB {:.2f}",
        "images_per_s": "{:.1f} images/s",
    }
    shown = [form.format(values[name]) for name, form in forms.items() if name in values]
    if values.get("skipped_updates"):
        shown.append(f"{values['skipped_updates']:.0f} skipped")
    if math.isfinite(left_s):
        shown.append(f"{timedelta(seconds=round(left_s))} left")
    return shown
