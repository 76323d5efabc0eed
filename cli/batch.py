"""The `batch` command: many clips, or one long one, on the machines of a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_encoding_options,
    add_engine_options,
    less_memory,
    ran_out_of_memory,
    settings_of,
)
from .progress import ProgressBar, end_progress_line

if TYPE_CHECKING:
    from ..jobs.batch import BatchClip
    from ..restoration.settings import RestorationSettings


def add_batch(commands: Any) -> None:
    """Add the parser of `batch`."""
    parser = commands.add_parser(
        "batch",
        help="restore many videos or folders of frames, on many machines",
        description="Restore videos and folders of frames part by part with the workers of a "
        "Ray cluster. The same command goes on after a stop. One input that fails does not "
        "stop the others.",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="videos, folders of images, images"
    )
    parser.add_argument("-o", "--output", required=True, help="folder for the results")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="Ray cluster, or auto; default: this machine alone"
    )
    parser.add_argument(
        "--workers", type=int, help="default: one for each GPU, or for each four CPU cores"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="restore again videos that are there already; folders are never replaced",
    )
    add_engine_options(parser)
    add_encoding_options(parser)
    parser.set_defaults(
        run=_batch,
        interrupted="finished parts are kept, run the same command again to go on",
    )


def _batch(args: argparse.Namespace) -> None:
    from ..jobs.batch import BatchSettings, plan_batch, restore_batch
    from ..jobs.part_store import checkpoint_identity
    from ..jobs.ray_pool import RayPool, WorkerOptions, connected, shipped_checkpoint
    from ..models.checkpoint import read_info
    from ..restoration.first_stage.stage import check_network_input
    from ..restoration.load import kind_of, load_first_stage

    if args.workers is not None and args.workers < 1:
        raise ValueError(f"workers must be at least 1, got {args.workers}")
    info = read_info(args.checkpoint)
    kind_of(info)
    settings = settings_of(info.config, args)
    identity = checkpoint_identity(info.path)
    # Loaded here only to refuse it before anything starts; workers load their own.
    first = args.first_stage and load_first_stage(args.first_stage, "cpu", "float32")
    check_network_input(settings, first or None)
    if first:
        identity |= first.identity
    sources = [Path(path) for path in args.inputs]
    clips = plan_batch(sources, Path(args.output), args.codec, args.audio, args.deinterlace)
    options = WorkerOptions(
        checkpoint=shipped_checkpoint(args.checkpoint),
        identity=identity,
        dtype=args.dtype,
        settings=settings,
        first_stage=args.first_stage and shipped_checkpoint(args.first_stage),
    )
    if first:
        # Every worker finds the same, but what it logs may stay on another machine.
        first.passes()
    with connected(args.ray):
        pool = RayPool(options, args.device, args.workers)
        described = {
            **identity,
            "settings": vars(settings),
            "device": pool.device,
            "dtype": args.dtype,
        }
        batch = BatchSettings(
            config=info.config,
            restoration=settings,
            identity=described,
            codec=args.codec,
            crf=args.crf,
            audio=args.audio,
            deinterlace=args.deinterlace,
            first_config=first and first.planned_config,
            overwrite=args.overwrite,
        )
        try:
            restore_batch(clips, pool, batch, ProgressBar(f"{len(clips)} clips", "frames"))
        finally:
            pool.close()
    end_progress_line()
    for clip in clips:
        if clip.state == "failed":
            print(f"video-deblur: {_advised(clip, settings, pool.device)}", file=sys.stderr)
        else:
            print(f"{clip.output}: {_note(clip)}")
    counts = [
        sum(c.state == state for c in clips) for state in ("restored", "skipped", "failed")
    ]
    summary = "{} restored, {} there already, {} failed".format(*counts)
    print(summary)
    if counts[2]:
        raise ValueError(f"{counts[2]} of {len(clips)} inputs failed")


def _advised(clip: BatchClip, settings: RestorationSettings, device: str) -> str:
    """Return what went wrong, and what to do where memory ran out."""
    if not ran_out_of_memory(RuntimeError(clip.error)):
        return clip.error
    return f"{clip.error}; {less_memory(settings, device)}"


def _note(clip: BatchClip) -> str:
    if clip.state == "restored":
        return f"{clip.num_frames} frames"
    if not clip.changes:
        return "was there already"
    again = "remove it" if clip.source.is_dir() else "--overwrite"
    return (
        f"was there already, but made with another {', '.join(clip.changes)}: {again} to "
        "restore again"
    )
