"""The `convert` command: the checkpoint that full-size training starts from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .progress import ProgressBar, end_progress_line


def add_convert(commands: Any) -> None:
    """Add the parser of `convert`."""
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
        callback=ProgressBar("converting"),
    )
    end_progress_line()
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB")
