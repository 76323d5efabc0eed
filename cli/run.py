"""The `run` command: restore a video, a folder of frames or a photo."""

from __future__ import annotations

import argparse
import logging
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adaptation import Adaptation, add_adaptation_options, check_adaptation_options
from .options import (
    add_encoding_options,
    add_engine_options,
    described,
    load_engine,
    memory_advice,
)
from .progress import ProgressBar, end_progress_line
from .side_files import check_side_file, engine_files, named_files, write_json

if TYPE_CHECKING:
    from ..jobs.files import Resumable
    from ..jobs.report import Report

logger = logging.getLogger(__name__)

_NTSC = 1001
"""Largest denominator of a rate that is given as a decimal number."""
_SINGLE_PICTURE = (
    "a single picture has no neighbours to take detail from: expect little; a burst or a clip "
    "of the same scene gains more"
)


def add_run(commands: Any) -> None:
    """Add the parser of `run`."""
    parser = commands.add_parser("run", help="restore a video, a folder of frames or a photo")
    parser.add_argument(
        "input", help="video, folder of images, animation (GIF, WebP, APNG, TIFF) or photo"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="video (.mp4, .mov, .mkv), folder for PNGs (of a video too), or PNG of a photo",
    )
    parser.add_argument(
        "--fps",
        type=_fps,
        help="frames per second of a folder of images, or a TIFF, that becomes a video: 25 if "
        "not given; also 30000/1001",
    )
    add_engine_options(parser)
    add_encoding_options(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep finished parts in a hidden folder beside the output; the same command goes "
        "on from there after a stop",
    )
    add_adaptation_options(parser)
    parser.add_argument(
        "--json",
        dest="json_path",
        help="write what was done to this file, with scene cuts and the blur of every frame "
        "(null for frames that --resume keeps of a run without --json)",
    )
    parser.set_defaults(run=_run)


def _fps(text: str) -> Fraction:
    try:
        if "/" in text:
            return Fraction(text)
        # 23.976023976 stands for 24000/1001; rates of film and television are such fractions.
        return Fraction(float(text)).limit_denominator(_NTSC)
    except (ValueError, ArithmeticError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no rate, expected a number such as 25 or 30000/1001"
        ) from error


def _run(args: argparse.Namespace) -> None:
    from ..jobs.files import restore_ends
    from ..jobs.kinds import make_ends

    if args.input == "-":
        raise ValueError("-: an input is read more than once; save it as a file first")
    check_adaptation_options(args)
    named = named_files(("the input", args.input), ("the output", args.output))
    check_side_file("--json", args.json_path, engine_files(args) + named)
    source, output = Path(args.input), Path(args.output)
    if source.exists() and output.exists() and output.samefile(source):
        raise ValueError(f"{output}: is the input itself, choose another output")
    # The text, whose last slash asks for a folder.
    ends = make_ends(
        source,
        args.output,
        args.codec,
        args.crf,
        audio=args.audio,
        deinterlace=args.deinterlace,
        fps=args.fps,
    )
    resumable = _resumable(args, ends.output) if args.resume else None
    deblurrer, settings = load_engine(args)
    adaptation = Adaptation(args, ends, settings) if args.adapt else None
    if adaptation is not None:
        deblurrer, resumable = adaptation.learn(deblurrer, resumable)
    started = time.monotonic()
    with memory_advice(settings, deblurrer.device.type, lambda: ends.size):
        report = restore_ends(
            ends,
            deblurrer,
            settings,
            resumable=resumable,
            measure_blur=args.json_path is not None,
            callback=ProgressBar(source.name, "frames"),
        )
    elapsed = time.monotonic() - started
    end_progress_line()
    count = report.num_frames
    print(f"{output}: {_told(report, elapsed)}")
    unknown = report.blur.count(None)
    if args.json_path is not None and unknown:
        logger.warning(
            "%s: the blur of %d frames is null, as they were finished by a run without --json",
            *(args.json_path, unknown),
        )
    if count == 1:
        print(_SINGLE_PICTURE)
    result = {"input": str(source), "output": str(output), "frames": count}
    found = {
        "scene_cuts": report.cuts,
        "blur": report.blur,
        "frames_left_alone": report.untouched,
    }
    if deblurrer.first_stage is not None:
        found["first_stage_not_trusted"] = deblurrer.first_stage.not_trusted
    if adaptation is not None:
        found["adaptation"] = adaptation.report
    result.update(seconds=elapsed, **found, **described(args, settings))
    write_json(args.json_path, result)
    if adaptation is not None:
        adaptation.check_saved()


def _told(report: Report, elapsed_s: float) -> str:
    """Return how many frames took how long: those of this run, beside what was kept."""
    done = report.num_frames - report.num_kept
    speed = f" ({elapsed_s / done:.2f} s per frame)" if done else ""
    kept = f", {report.num_kept} of them finished before" if report.num_kept else ""
    return f"{report.num_frames} frames in {elapsed_s:.1f} s{kept}{speed}"


def _resumable(args: argparse.Namespace, output: Path) -> Resumable:
    from ..jobs.files import Resumable
    from ..jobs.part_store import checkpoint_identity, resume_folder
    from ..models.checkpoint import read_info

    args.interrupted = "finished parts are kept, run the same command again to go on"
    identity = checkpoint_identity(read_info(args.checkpoint).path)
    return Resumable(folder=resume_folder(output), identity=identity)
