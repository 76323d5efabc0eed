"""What several commands have in common: options of the engine, advice on memory."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..models.bundled import BUNDLED, DEFAULT, DEFAULT_DIFFUSION

if TYPE_CHECKING:
    from ..restoration.engine import Engine
    from ..restoration.settings import RestorationSettings

logger = logging.getLogger(__name__)

_OF_STEPS = ("steps", "solver", "guidance_scale")
"""Options that only networks which denoise in steps heed."""
_SMALL_TILE = 256
"""Pixels of the side of a tile that takes little memory, and costs little in seams."""


def engine_options_given(args: argparse.Namespace) -> bool:
    """Tell whether any of `add_engine_options` differs from its default."""
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    defaults = vars(parser.parse_args([]))
    return any(getattr(args, name) != default for name, default in defaults.items())


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add what all commands that restore have in common."""
    parser.add_argument(
        "--checkpoint",
        default=DEFAULT,
        help=f"a bundled one ({', '.join(BUNDLED)}) or a path (default: {DEFAULT})",
    )
    parser.add_argument(
        "--preset",
        default="fast",
        help="fast, detailed (the mean of four orientations, four times as slow; for a network "
        "that takes no denoising steps) or paper (50 steps, for one that does)",
    )
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--solver", help="ddim or dpmpp_2m")
    parser.add_argument("--guidance-scale", type=float, help="1 means no guidance")
    parser.add_argument(
        "--self-ensemble",
        type=int,
        help="orientations that a network without steps restores and averages: 1, 2, 4 or 8",
    )
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
        "--first-stage",
        metavar="FILE",
        help="a network that restores each frame as well, for more to choose from: another "
        "checkpoint, or .pth and .safetensors of other projects (docs/first_stage.md)",
    )
    parser.add_argument(
        "--network-input",
        help="what the network of the checkpoint restores: blurry, or first_stage",
    )
    parser.add_argument(
        "--skip-sharp",
        action="store_true",
        default=None,
        help="leave frames alone that are sharp already, which also saves their time",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")


def add_encoding_options(parser: argparse.ArgumentParser) -> None:
    """Add what all commands that write videos have in common."""
    parser.add_argument("--codec", default="h264", help="h264, h265, ffv1 or prores")
    parser.add_argument("--crf", type=int, help="quality of h264 and h265, 0 to 51")
    parser.add_argument(
        "--audio",
        default="copy",
        choices=("copy", "encode", "drop"),
        help="sound: copy (what the output cannot hold is encoded to AAC), encode all, or drop",
    )
    parser.add_argument(
        "--deinterlace",
        default="off",
        choices=("off", "frame", "field"),
        help="interlaced video: make a frame of each frame, or of each field (twice the rate)",
    )


def load_engine(args: argparse.Namespace) -> tuple[Engine, RestorationSettings]:
    """Load the checkpoint that the options name; returns it with its settings."""
    from ..restoration.first_stage.stage import check_network_input
    from ..restoration.load import load_deblurrer

    deblurrer = load_deblurrer(args.checkpoint, args.device, args.dtype, args.first_stage)
    settings = settings_of(deblurrer.config, args)
    check_network_input(settings, deblurrer.first_stage)
    return deblurrer, settings


def settings_of(config: Any, args: argparse.Namespace) -> RestorationSettings:
    """Return the settings that the options ask for, with a checkpoint's defaults.

    Options of denoising steps that its network has no use for are named in a warning.
    """
    from ..restoration.settings import preset_settings, takes_steps

    named = [name for name in _OF_STEPS if getattr(args, name) is not None]
    if args.preset == "paper":
        named.append("preset")
    if takes_steps(config):
        given = ["--self-ensemble"] if args.self_ensemble is not None else []
        given += ["--preset detailed"] if args.preset == "detailed" else []
        if given:
            logger.warning(
                "%s: no effect on %s, which takes denoising steps",
                ", ".join(given),
                args.checkpoint,
            )
    # A first stage may take steps, by the same settings.
    elif named and args.first_stage is None:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        logger.warning(
            "%s: no effect on %s, which takes no denoising steps; --checkpoint %s does",
            options,
            args.checkpoint,
            DEFAULT_DIFFUSION,
        )
    return preset_settings(
        config,
        args.preset,
        steps=args.steps,
        solver=args.solver,
        guidance_scale=args.guidance_scale,
        self_ensemble=args.self_ensemble,
        strength=args.strength,
        seed=args.seed,
        window=args.window,
        overlap=args.overlap,
        tile=args.tile,
        color_match=args.color_match,
        borrow=args.borrow,
        scene_cuts=args.scene_cuts,
        skip_sharp=args.skip_sharp,
        network_input=args.network_input,
    )


@contextlib.contextmanager
def memory_advice(
    settings: RestorationSettings,
    device: str,
    size: Callable[[], tuple[int, int] | None] = lambda: None,
) -> Iterator[None]:
    """Say what to do where memory runs out in spite of smaller pieces.

    Args:
        settings: What the user chose.
        device: Its kind: `cpu`, `cuda`, `mps`.
        size: Returns height and width of the frames, where they are known.

    Raises:
        ValueError: With one line, instead of the error.
    """
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        found = size()
        where = "" if found is None else f" at {found[1]}x{found[0]}"
        raise ValueError(f"out of memory{where}: {less_memory(settings, device)}") from error


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out, on any device."""
    from ..restoration.denoising.layout import is_out_of_memory

    return is_out_of_memory(error)


def less_memory(settings: RestorationSettings, device: str) -> str:
    """Return which options take less memory than those of a run."""
    pieces = []
    if settings.tile == 0 or settings.tile > _SMALL_TILE:
        pieces.append(f"--tile {_SMALL_TILE}")
    if settings.window > 2:
        pieces.append("a smaller --window")
    choices = [" or ".join(pieces)] if pieces else []
    if device != "cpu":
        choices.append("--device cpu")
    return f"use {', or '.join(choices)}" if choices else "choose a smaller video"


def described(args: argparse.Namespace, settings: RestorationSettings) -> dict[str, Any]:
    """Return what a report says about how it was restored."""
    return {
        "checkpoint": str(args.checkpoint),
        "first_stage": args.first_stage,
        "settings": dataclasses.asdict(settings),
    }
