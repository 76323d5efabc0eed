"""The `video-deblur` command: parses, calls, prints.

Exit code 0 only on success; 2 for wrong usage or input, with one line on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .cli_batch import add_batch
from .cli_train import add_train

if TYPE_CHECKING:
    from .evaluation.methods import Method


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # A polite kill unwinds like Ctrl-C, so that nothing half-written stays behind.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print(f"video-deblur: interrupted, {args.interrupted}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        _end_progress_line()
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
    add_batch(commands, _add_engine_options, _settings, _progress_bar)
    _add_evaluate(commands)
    _add_synthesize(commands)
    add_train(commands)
    _add_convert(commands)
    _add_info(commands)
    return parser


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="restore the bundled clip and show the result")
    parser.add_argument("--out", default="video_deblur_demo", help="folder for the results")
    _add_engine_options(parser)
    parser.set_defaults(run=_demo)


def _add_run(commands: Any) -> None:
    parser = commands.add_parser("run", help="restore a video, a folder of frames or a photo")
    parser.add_argument("input", help="video file, folder of images, or image")
    parser.add_argument(
        "-o", "--output", required=True, help="video file, folder for PNGs, or PNG"
    )
    _add_engine_options(parser)
    parser.add_argument("--codec", default="h264", help="h264, h265, ffv1 or prores")
    parser.add_argument("--crf", type=int, help="quality of h264 and h265, 0 to 51")
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


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser("evaluate", help="measure against sharp frames")
    parser.add_argument(
        "--dataset", required=True, help="pairs:, gopro:, gopro_gamma: or dvd:PATH"
    )
    parser.add_argument(
        "--method",
        default="checkpoint",
        help="checkpoint, unsharp, richardson_lucy, wiener or unsupervised_wiener",
    )
    parser.add_argument("--pred", help="folder of results <sequence>/<frame> to measure")
    parser.add_argument(
        "--sharp-input",
        action="store_true",
        help="restore the sharp frames: PSNR against them is what harm is done",
    )
    parser.add_argument(
        "--plain-decode",
        action="store_true",
        help="decode without the blurry frames, as ComfyUI's VAE Decode does",
    )
    parser.add_argument(
        "--metrics",
        default="psnr,ssim",
        help="comma-separated: psnr, ssim, lpips_alex, lpips_vgg, lpips_squeeze, niqe, "
        "warping, warping_lai, high_frequency",
    )
    parser.add_argument(
        "--lpips-weights",
        action="append",
        default=[],
        metavar="FILE",
        help="torchvision's weights of an LPIPS network; may be repeated",
    )
    parser.add_argument(
        "--protocol",
        default="rgb8",
        help="rgb8, vrt, shift_net, cdvd_tsp, pvdnet_unaligned or bsstnet",
    )
    _add_engine_options(parser)
    parser.add_argument("--json", dest="json_path", help="write all figures to this file")
    parser.add_argument("--page", help="write an HTML page with crops and error maps")
    parser.add_argument(
        "--save",
        metavar="FOLDER",
        help="write restored frames as FOLDER/<sequence>/<frame>.png",
    )
    parser.set_defaults(run=_evaluate)


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


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="divd-tiny", help="name or path")
    parser.add_argument("--preset", default="fast", help="fast or paper (DDIM, 50 steps)")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--solver", help="ddim or dpmpp_2m")
    parser.add_argument("--guidance-scale", type=float, help="1 means no guidance")
    parser.add_argument("--strength", type=float, help="0 (input) to 1 (restored)")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--window", type=int, help="frames restored together")
    parser.add_argument("--overlap", type=int, help="frames shared by neighbouring windows")
    parser.add_argument("--tile", type=int, help="tile side in pixels, 0 = automatic")
    parser.add_argument("--color-match", action="store_true", default=None)
    parser.add_argument(
        "--no-borrow",
        dest="borrow",
        action="store_false",
        default=None,
        help="restore each frame on its own account, without detail from sharper neighbours",
    )
    parser.add_argument(
        "--no-scene-cuts",
        dest="scene_cuts",
        action="store_false",
        default=None,
        help="take the clip for one shot; else windows end where scenes do",
    )
    parser.add_argument(
        "--skip-sharp",
        action="store_true",
        default=None,
        help="leave frames alone that are sharp already, which also saves their time",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")


def _demo(args: argparse.Namespace) -> None:
    from .evaluation.demo import run_demo

    deblurrer, settings = _engine(args)
    started = time.monotonic()
    results = run_demo(args.out, deblurrer, settings, _progress_bar("restoring"))
    _end_progress_line()
    before, after = results.input_scores, results.scores
    print(f"          PSNR      SSIM   ({results.num_frames} frames, mean)")
    print(f"blurry    {before['psnr']:.2f} dB  {before['ssim']:.4f}")
    print(f"restored  {after['psnr']:.2f} dB  {after['ssim']:.4f}")
    print(f"{settings.steps} step(s), {time.monotonic() - started:.1f} s. Written:")
    for path in results.files:
        print(f"  {path}")


def _run(args: argparse.Namespace) -> None:
    from .restoration.files import Report, restore_file, restore_folder, restore_image
    from .video.frames import SUFFIXES

    source, output = Path(args.input), Path(args.output)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if output.exists() and output.samefile(source):
        raise ValueError(f"{output}: is the input itself, choose another output")
    resumable = _resumable(args, output) if args.resume else None
    deblurrer, settings = _engine(args)
    started = time.monotonic()
    work = (source, output, deblurrer, settings)
    options: dict[str, Any] = {
        "callback": _progress_bar(source.name),
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
    _end_progress_line()
    count = report.num_frames
    print(f"{output}: {count} frames in {elapsed:.1f} s ({elapsed / count:.2f} s per frame)")
    result = {"input": str(source), "output": str(output), "frames": count}
    found = {
        "scene_cuts": report.cuts,
        "blur": report.blur,
        "frames_left_alone": report.untouched,
    }
    described = _described(args, settings)
    _write_json(args.json_path, {**result, "seconds": elapsed, **found, **described})


def _resumable(args: argparse.Namespace, output: Path) -> Any:
    from .models.checkpoint import read_info
    from .restoration.files import Resumable
    from .restoration.resume import checkpoint_identity, resume_folder

    args.interrupted = "finished parts are kept, run the same command again to go on"
    identity = checkpoint_identity(read_info(args.checkpoint).path)
    return Resumable(folder=resume_folder(output), identity=identity)


def _evaluate(args: argparse.Namespace) -> None:
    from .evaluation.metrics import build_metrics
    from .evaluation.page import Page
    from .evaluation.protocols import find_protocol
    from .evaluation.report import (
        MeasuredSequence,
        evaluate_sequences,
        with_sharp_input,
        write_predictions,
    )
    from .evaluation.table import MEANS, column_groups, header, row
    from .video.datasets import load_dataset

    protocol = find_protocol(args.protocol)
    metrics = build_metrics(args.metrics.split(","), protocol, args.lpips_weights)
    page = Page(args.page) if args.page else None
    sequences = load_dataset(args.dataset, "test")
    if args.sharp_input:
        sequences = with_sharp_input(sequences)
    method = _evaluated_method(args)
    groups = column_groups(metrics, sharp_input=args.sharp_input)
    print(header(groups))

    def show(measured: MeasuredSequence) -> None:
        print(row(measured.name, measured.figures["mean"], groups), flush=True)
        if args.save:
            write_predictions(args.save, measured)
        if page is not None:
            page.add(measured)

    results = evaluate_sequences(
        sequences, method.restore, show, metrics=metrics, protocol=protocol
    )
    for key, label in MEANS.items():
        if key in results:
            print(row(label, results[key], groups))
    described = {"dataset": args.dataset, "sharp_input": args.sharp_input, **method.described}
    report = {**described, **results}
    _write_json(args.json_path, report)
    if page is not None:
        page.write(report, groups)


def _evaluated_method(args: argparse.Namespace) -> Method:
    from .evaluation.methods import baseline_method, checkpoint_method, predictions_method

    if args.pred:
        if args.sharp_input or args.method != "checkpoint":
            raise ValueError("--pred is measured as it is: leave out --method, --sharp-input")
        return predictions_method(args.pred)
    if args.method != "checkpoint":
        return baseline_method(args.method)
    deblurrer, settings = _engine(args)
    return checkpoint_method(
        deblurrer, settings, name=str(args.checkpoint), plain_decode=args.plain_decode
    )


def _synthesize(args: argparse.Namespace) -> None:
    from .video.synthesize import synthesize_pairs

    written = synthesize_pairs(
        [Path(path) for path in args.inputs],
        Path(args.output),
        num_frames=args.frames,
        seed=args.seed,
        average=args.average,
        callback=_progress_bar("synthesizing"),
    )
    _end_progress_line()
    print(f"{args.output}: {len(written)} sequences")


def _convert(args: argparse.Namespace) -> None:
    from .models.import_weights.convert import convert_weights
    from .restoration.load import named_dtype

    convert_weights(
        args.unet,
        args.vae,
        args.clip,
        args.output,
        dtype=named_dtype(args.dtype),
        licence=args.licence,
        callback=_progress_bar("converting"),
    )
    _end_progress_line()
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB")


def _info(args: argparse.Namespace) -> None:
    from .models.checkpoint import read_info
    from .models.config import config_to_dict

    info = read_info(args.file)
    print(f"file          {info.path} ({info.path.stat().st_size / 1e6:.1f} MB)")
    print(f"architecture  {info.architecture}")
    print(f"parameters    {info.num_parameters / 1e6:.2f} M, stored as {info.dtype}")
    for part in ("unet", "blur_encoder", "autoencoder", "image_encoder"):
        count = sum(
            math.prod(shape)
            for name, (_, shape) in info.tensors.items()
            if name.startswith(f"{part}.")
        )
        print(f"  {part:14}{count / 1e6:.2f} M")
    print(f"licence       {info.licence}")
    print("provenance    " + json.dumps(info.provenance, indent=2).replace("\n", "\n  "))
    config = json.dumps(config_to_dict(info.config), indent=2)
    print("config        " + config.replace("\n", "\n  "))


def _engine(args: argparse.Namespace) -> tuple[Any, Any]:
    from .restoration.load import load_deblurrer

    deblurrer = load_deblurrer(args.checkpoint, args.device, args.dtype)
    return deblurrer, _settings(deblurrer.model.config, args)


def _settings(config: Any, args: argparse.Namespace) -> Any:
    from .restoration.settings import preset_settings

    return preset_settings(
        config,
        args.preset,
        steps=args.steps,
        solver=args.solver,
        guidance_scale=args.guidance_scale,
        strength=args.strength,
        seed=args.seed,
        window=args.window,
        overlap=args.overlap,
        tile=args.tile,
        color_match=args.color_match,
        borrow=args.borrow,
        scene_cuts=args.scene_cuts,
        skip_sharp=args.skip_sharp,
    )


def _described(args: argparse.Namespace, settings: Any) -> dict[str, Any]:
    return {"checkpoint": str(args.checkpoint), "settings": dataclasses.asdict(settings)}


def _progress_bar(label: str) -> Any:
    """Return a callback (done, total) that draws a bar when the output is a terminal."""
    started = time.monotonic()
    width = 30

    def draw(done: float, total: float | None) -> None:
        elapsed = time.monotonic() - started
        if not sys.stderr.isatty() or elapsed < 1:
            return
        if total:
            share = min(done / total, 1.0)
            left = elapsed * (1 - share) / share if share > 0 else 0
            bar = "#" * round(width * share)
            text = f"{label} [{bar:{width}}] {100 * share:3.0f} %  {left:5.0f} s left"
        else:
            text = f"{label} {done:.0f} frames, {elapsed:.0f} s"
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    return draw


def _end_progress_line() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _write_json(path: str | None, values: dict[str, Any]) -> None:
    if path is not None:
        Path(path).write_text(json.dumps(values, indent=2) + "\n")


def _one_line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        # Python writes "[Errno 28]" before it.
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split())


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
