"""The `synthesize` command: blurry/sharp pairs from sharp media."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .progress import ProgressBar, end_progress_line


def add_synthesize(commands: Any) -> None:
    """Add the parser of `synthesize`."""
    parser = commands.add_parser("synthesize", help="make blurry/sharp pairs from sharp media")
    parser.add_argument("inputs", nargs="+", metavar="SHARP", help="photos, folders or videos")
    parser.add_argument("-o", "--output", required=True, help="folder for the pairs")
    parser.add_argument("--frames", type=int, default=24, help="frames per sequence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--average",
        type=int,
        default=0,
        help="average so many frames of a high-speed video (an odd number) instead of shaking",
    )
    parser.set_defaults(
        run=_synthesize, interrupted="the sequences that were finished are kept"
    )


def _synthesize(args: argparse.Namespace) -> None:
    from ..synthesis.pairs import synthesize_pairs

    written = synthesize_pairs(
        [Path(path) for path in args.inputs],
        Path(args.output),
        num_frames=args.frames,
        seed=args.seed,
        average=args.average,
        callback=ProgressBar("synthesizing"),
    )
    end_progress_line()
    print(f"{args.output}: {len(written)} sequences")
