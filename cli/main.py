"""The `video-deblur` command: parses, calls, prints.

Exit code 0 only on success; 2 for wrong usage or input, with one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from .batch import add_batch
from .evaluate import add_evaluate
from .options import (
    add_encoding_options,
    add_engine_options,
    cleared_line,
    described,
    end_progress_line,
    load_engine,
    progress_bar,
    write_json,
)
from .train import add_train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    form = f"{cleared_line()}%(levelname)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form)
    # A polite kill unwinds like Ctrl-C, so that nothing half-written stays behind.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"video-deblur: interrupted, {args.interrupted}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        end_progress_line()
        print(f"video-deblur: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="video-deblur", description="Remove motion blur from video."
    )
    parser.add_argument("--version", action="version", version=f"video-deblur {__version__}")
    parser.set_defaults(interrupted="nothing was written")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_run(commands)
    add_batch(commands)
    add_evaluate(commands)
    _add_synthesize(commands)
    add_train(commands)
    _add_convert(commands)
    _add_info(commands)
    return parser


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="restore the bundled clips and show the result")
    parser.add_argument("--out", default="video_deblur_demo", help="folder for the results")
    add_engine_options(parser)
    parser.set_defaults(run=_demo)


def _add_run(commands: Any) -> None:
    parser = commands.add_parser("run", help="restore a video, a folder of frames or a photo")
    parser.add_argument("input", help="video file, folder of images, or image")
    parser.add_argument(
        "-o", "--output", required=True, help="video file, folder for PNGs, or PNG"
    )
    add_engine_options(parser)
    add_encoding_options(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep finished parts in a hidden folder beside the output; the same command goes "
        "on from there after a stop",
    )
    parser.add_argument(
        "--json",
        dest="json_path",
        help="write what was done to this file, with scene cuts and the blur of every frame",
    )
    parser.set_defaults(run=_run)


def _add_synthesize(commands: Any) -> None:
    parser = commands.add_parser("synthesize", help="make blurry/sharp pairs from sharp media")
    parser.add_argument("inputs", nargs="+", metavar="SHARP", help="photos, folders or videos")
    parser.add_argument("-o", "--output", required=True, help="folder for the pairs")
    parser.add_argument("--frames", type=int, default=24, help="frames per sequence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--average", type=int, default=0, help="average this many frames instead of shaking"
    )
    parser.set_defaults(run=_synthesize)


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser(
        "convert", help="make the checkpoint that full-size training starts from"
    )
    for name, source in (
        ("unet", "ModelScopeT2V or TF-T2V"),
        ("vae", "Stable Diffusion's autoencoder, or a whole Stable Diffusion checkpoint"),
        ("clip", "OpenCLIP's ViT-H-14, or its image tower"),
    ):
        parser.add_argument(
            f"--{name}", required=True, metavar="FILE", help=f"{source}; a file or a folder"
        )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="checkpoint, .safetensors"
    )
    parser.add_argument("--dtype", default="float16", help="float32, bfloat16 or float16")
    parser.add_argument("--licence", help="SPDX identifier to store instead of the source's")
    parser.set_defaults(run=_convert)


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="show what is in a checkpoint")
    parser.add_argument("file", help="checkpoint file, or divd-tiny for the bundled one")
    parser.set_defaults(run=_info)


def _demo(args: argparse.Namespace) -> None:
    from ..evaluation.demo import CLIPS, run_demo

    deblurrer, settings = load_engine(args)
    started = time.monotonic()
    files: list[Path] = []
    print("clip    frames  blurry            restored (PSNR and SSIM, mean)", flush=True)
    for clip in CLIPS:
        result = run_demo(clip, args.out, deblurrer, settings, progress_bar(clip.name))
        end_progress_line()
        scores = (f"{s['psnr']:.2f} dB  {s['ssim']:.4f}" for s in (result.before, result.after))
        print(f"{clip.name:6}  {result.num_frames:6}  {'  '.join(scores)}", flush=True)
        files += result.files
    print(f"{settings.steps} step(s), {time.monotonic() - started:.1f} s. Written:")
    for path in files:
        print(f"  {path}")


def _run(args: argparse.Namespace) -> None:
    from ..jobs.files import Report, restore_file, restore_folder, restore_image
    from ..video.frames import SUFFIXES

    source, output = Path(args.input), Path(args.output)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output}: is the input itself, choose another output")
    resumable = _resumable(args, output) if args.resume else None
    deblurrer, settings = load_engine(args)
    started = time.monotonic()
    work = (source, output, deblurrer, settings)
    options: dict[str, Any] = {
        "callback": progress_bar(source.name),
        "measure_blur": args.json_path is not None,
    }
    report: Report
    if source.is_dir():
        report = restore_folder(*work, resumable=resumable, **options)
    elif source.suffix.lower() in SUFFIXES:
        report = restore_image(*work, **options)
    else:
        report = restore_file(
            *work, codec=args.codec, crf=args.crf, resumable=resumable, **options
        )
    elapsed = time.monotonic() - started
    end_progress_line()
    count = report.num_frames
    print(f"{output}: {count} frames in {elapsed:.1f} s ({elapsed / count:.2f} s per frame)")
    result = {"input": str(source), "output": str(output), "frames": count}
    found = {
        "scene_cuts": report.cuts,
        "blur": report.blur,
        "frames_left_alone": report.untouched,
    }
    result.update(seconds=elapsed, **found, **described(args, settings))
    write_json(args.json_path, result)


def _resumable(args: argparse.Namespace, output: Path) -> Any:
    from ..jobs.files import Resumable
    from ..jobs.part_store import checkpoint_identity, resume_folder
    from ..models.checkpoint import read_info

    args.interrupted = "finished parts are kept, run the same command again to go on"
    identity = checkpoint_identity(read_info(args.checkpoint).path)
    return Resumable(folder=resume_folder(output), identity=identity)


def _synthesize(args: argparse.Namespace) -> None:
    from ..synthesis.pairs import synthesize_pairs

    written = synthesize_pairs(
        [Path(path) for path in args.inputs],
        Path(args.output),
        num_frames=args.frames,
        seed=args.seed,
        average=args.average,
        callback=progress_bar("synthesizing"),
    )
    end_progress_line()
    print(f"{args.output}: {len(written)} sequences")


def _convert(args: argparse.Namespace) -> None:
    from ..models.hardware import named_dtype
    from ..models.import_weights.convert import convert_weights

    convert_weights(
        args.unet,
        args.vae,
        args.clip,
        args.output,
        dtype=named_dtype(args.dtype),
        licence=args.licence,
        callback=progress_bar("converting"),
    )
    end_progress_line()
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB")


def _info(args: argparse.Namespace) -> None:
    from ..models.checkpoint import read_info
    from ..models.config_fields import config_to_dict

    info = read_info(args.file)
    print(f"file          {info.path} ({info.path.stat().st_size / 1e6:.1f} MB)")
    architecture = info.architecture
    print(f"architecture  {architecture.name} ({architecture.title}): {architecture.summary}")
    print(f"kind          {architecture.kind}")
    print(f"parameters    {info.num_parameters / 1e6:.2f} M, stored as {info.dtype}")
    for prefix in architecture.prefixes:
        count = sum(
            math.prod(shape)
            for name, (_, shape) in info.tensors.items()
            if name.startswith(prefix)
        )
        print(f"  {prefix.removesuffix('.'):14}{count / 1e6:.2f} M")
    print(f"licence       {info.licence}")
    print("provenance    " + json.dumps(info.provenance, indent=2).replace("\n", "\n  "))
    config = json.dumps(config_to_dict(info.config), indent=2)
    print("config        " + config.replace("\n", "\n  "))


def _one_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        # Python writes "[Errno 28]" before it.
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split())


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
