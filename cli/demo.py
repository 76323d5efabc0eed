"""The `demo` command: restore the bundled clips and show the result."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from .options import add_engine_options, load_engine, memory_advice
from .progress import ProgressBar, end_progress_line


def add_demo(commands: Any) -> None:
    """Add the parser of `demo`."""
    parser = commands.add_parser("demo", help="restore the bundled clips and show the result")
    parser.add_argument("--out", default="video_deblur_demo", help="folder for the results")
    add_engine_options(parser)
    parser.set_defaults(run=_demo, interrupted="the files that were finished are kept")


def _demo(args: argparse.Namespace) -> None:
    from ..evaluation.demo import CLIPS, run_demo

    deblurrer, settings = load_engine(args)
    started = time.monotonic()
    files: list[Path] = []
    print("clip    frames  blurry            restored (PSNR and SSIM, mean)", flush=True)
    for clip in CLIPS:
        with memory_advice(settings, deblurrer.device.type):
            result = run_demo(clip, args.out, deblurrer, settings, ProgressBar(clip.name))
        end_progress_line()
        scores = (f"{s['psnr']:.2f} dB  {s['ssim']:.4f}" for s in (result.before, result.after))
        print(f"{clip.name:6}  {result.num_frames:6}  {'  '.join(scores)}", flush=True)
        files += result.files
    print(f"{args.checkpoint}, {time.monotonic() - started:.1f} s. Written:")
    for path in files:
        print(f"  {path}")
