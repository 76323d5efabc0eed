"""The `info` command: what is in a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any


def add_info(commands: Any) -> None:
    """Add the parser of `info`."""
    parser = commands.add_parser("info", help="show what is in a checkpoint")
    parser.add_argument("file", help="checkpoint file, or the name of a bundled one")
    parser.set_defaults(run=_info)


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
