"""The `priors` command: what a codec knows of a clip, as pictures and arrays."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from .progress import ProgressBar, end_progress_line
from .side_files import check_side_file, named_files, write_json


def add_priors(commands: Any) -> None:
    """Add the parser of `priors`."""
    parser = commands.add_parser(
        "priors", help="write a clip's motion and residual, as a codec knows them"
    )
    parser.add_argument("input", help="video, folder of images, animation or photo")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="folder for NAME_flow.png (motion from the frame before by the colour wheel, "
        "black where there is none), NAME_residual.png (grey is zero) and NAME.npz (motion, "
        "residual, valid) of every frame",
    )
    parser.add_argument(
        "--source",
        default="auto",
        choices=("auto", "stream", "encoded"),
        help="where motion comes from: the stream where it brings any along, else x264 (auto), "
        "the stream alone, or x264 alone, which encodes the frames in memory",
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="motion at full colour, pixels; a fortieth of the longer side if not given",
    )
    parser.add_argument(
        "--json", dest="json_path", help="write the mean motion and residual of every frame"
    )
    parser.set_defaults(run=_priors)


def _priors(args: argparse.Namespace) -> None:
    from ..jobs.priors import write_priors

    taken = named_files(("the input", args.input), ("the output", args.output))
    check_side_file("--json", args.json_path, taken)
    source, started = Path(args.input), time.monotonic()
    report = write_priors(
        source,
        Path(args.output),
        motion_from=args.source,
        scale=args.scale,
        callback=ProgressBar(source.name, "frames"),
    )
    end_progress_line()
    elapsed, count = time.monotonic() - started, len(report.frames)
    origin = {"stream": "from the stream", "encoded": "by x264"}[report.source]
    valid = sum(frame["valid"] for frame in report.frames) / count
    print(
        f"{args.output}: {count} frames in {elapsed:.1f} s, motion {origin} for "
        f"{100 * valid:.0f} % of the pixels"
    )
    result = {"input": str(source), "output": str(args.output), "seconds": elapsed}
    write_json(args.json_path, {**result, **dataclasses.asdict(report)})
