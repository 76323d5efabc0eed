"""What fifteen minutes of a GPU are worth: training first, then measurements.

    python -m video_deblur.benchmarks.gpu_report --data synthetic:DATA --validation pairs:DEV
        --out OUT [--work WORK] [--minutes 14] [--train-minutes 9] [--part-size 15]

Trains from the bundled checkpoint with as many clips per update as the device is good for, and
writes to OUT, as soon as they are there:

    report.json                   every figure; written anew after each part
    weights.safetensors           trained, averaged, in half precision: a checkpoint like any
                                  other; over `--part-size` MiB as weights.safetensors.part00,
                                  .part01..., which `benchmarks.file_parts` or `cat` joins

WORK (default: OUT/work) keeps the state of training. The same command with the same WORK goes
on from there: a run that ended early is trained further, with the clips and updates that it was
begun with, and parts that were not reached, or failed, are done; what is done is kept. So a
machine that allows ten minutes at a time is used up in two calls.

Every part is a process of its own: what goes wrong in one, on the device too, costs that part
alone, and the report says what it was. A part that lacks a package is left out by name. PyAV,
diffusers and open_clip are not needed; without PyAV training has no compressed clips.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..video.atomic import write_file

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "accelerate", "numpy", "opencv-python", "einops", "safetensors")
_OPTIONAL = ("av", "diffusers", "open_clip")
_RESERVE_S = 30.0
"""Kept of the time while training runs, to validate, and to write state and weights."""
_ENOUGH_S = 5.0
"""With less time left no part is begun."""

PartFn = Callable[[argparse.Namespace, "dict[str, Any]"], "dict[str, Any]"]
"""From the options and the results so far to JSON values."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One section of the report."""

    run: PartFn
    needs: tuple[str, ...] = ()
    """Packages."""
    follows_training: bool = False
    """Whether it is done again when the weights have been trained further."""


def parts_of(args: argparse.Namespace) -> dict[str, Part]:
    """Return what is done, in order: training, and what is cheap before what is not."""
    measured = partial(partial, _call, "gpu_measurements")
    parts = {
        "training": Part(run=partial(_call, "gpu_training", "train"), needs=("accelerate",)),
        "weights": Part(
            run=partial(_call, "gpu_training", "write_weights"), follows_training=True
        ),
        "device": Part(run=measured("device")),
        "matrix_products": Part(run=measured("matrix_products"), follows_training=True),
        "validation": Part(run=partial(_call, "gpu_runs", "validate"), follows_training=True),
        "unet_beside_diffusers": Part(
            run=measured("unet_beside_diffusers"), needs=("diffusers",)
        ),
        "memory": Part(run=measured("memory")),
        "precision": Part(run=measured("precision")),
    }
    if args.validation is None:
        del parts["validation"]
    runs = {size: partial(_call, "gpu_runs", "whole_run", size=size) for size in args.sizes}
    return parts | {f"run_{size}": Part(run=run) for size, run in runs.items()}


def _call(
    module: str, function: str, args: argparse.Namespace, done: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """Import what a part needs, in its own process, and run it.

    Not before: PyTorch computes as it is imported, and threads of OpenMP that one process has
    started are waited for in vain by one that is forked from it.
    """
    return getattr(import_module(f".{module}", __package__), function)(args, done, **more)


def main() -> None:
    """Train, measure, write."""
    started = time.monotonic()
    args = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    for folder in (args.out, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    report = Report(args)
    deadline = started + 60 * args.minutes
    parts = parts_of(args)
    for name, part in parts.items():
        missing = _missing(part)
        if missing:
            logger.warning("%s is left out: it needs %s", name, ", ".join(missing))
    for name, part in parts.items():
        if report.has(name, part):
            continue
        missing = _missing(part)
        left_s = deadline - time.monotonic()
        if name == "training":
            args.train_minutes = min(args.train_minutes, (left_s - _RESERVE_S) / 60)
        if missing:
            values = {"left_out": f"needs the package {', '.join(missing)}"}
        elif left_s < _ENOUGH_S or (name == "training" and args.train_minutes <= 0):
            values = {"left_out": "no time was left"}
        else:
            logger.info("%s, %.0f s left", name, left_s)
            values = run_part(part.run, args, report.values, left_s)
        report.add(name, part, values)


class Report:
    """`report.json`, in the working folder for the next call and beside the weights."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._paths = [folder / "report.json" for folder in (args.work, args.out)]
        self.values: dict[str, Any] = {}
        if self._paths[0].is_file():
            self.values = json.loads(self._paths[0].read_text())
        calls = [*self.values.get("calls", []), sys.argv[1:]]
        self.values |= {"calls": calls, "packages": _versions(), "missing": _absent()}
        self._write()

    @property
    def _updates(self) -> int | None:
        return self.values.get("training", {}).get("updates")

    def has(self, name: str, part: Part) -> bool:
        """Tell whether a part is done; training, if it came to the end of its schedule."""
        values = self.values.get(name)
        if values is None or {"left_out", "failed"} & {*values}:
            return False
        if name == "training":
            return values["updates"] == values["of"]
        return not part.follows_training or values["after_updates"] == self._updates

    def add(self, name: str, part: Part, values: dict[str, Any]) -> None:
        """Enter a part and write the files."""
        if part.follows_training:
            values = {**values, "after_updates": self._updates}
        if "failed" in values:
            logger.error("%s failed: %s", name, values["failed"])
        before = self.values.get(name, {})
        if name == "training" and "updates" in before and "updates" not in values:
            # What was trained in an earlier call stays true.
            values = {**before, "last_call": values}
        self.values[name] = values
        self._write()

    def _write(self) -> None:
        text = json.dumps(_finite(self.values), indent=1, default=str)
        for path in self._paths:
            write_file(path, f"{text}\n".encode())


def run_part(
    function: PartFn, args: argparse.Namespace, done: dict[str, Any], limit_s: float
) -> dict[str, Any]:
    """Run a part in a process of its own, which is ended when its time is up.

    Returns:
        What it returns and "seconds", or "failed": why.
    """
    started = time.monotonic()
    # Forked before CUDA is touched here: imports are not done again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sending, function, args, done))
    process.start()
    sending.close()
    try:
        if receiving.poll(limit_s):
            values = receiving.recv()
        else:
            values = {"failed": f"was not done after {limit_s:.0f} s"}
    except EOFError:
        process.join(10)
        values = {"failed": f"its process ended with exit code {process.exitcode}"}
    process.join(0 if "failed" in values else 10)
    if process.is_alive():
        process.kill()
        process.join()
    return {**values, "seconds": round(time.monotonic() - started, 1)}


def _child(
    sending: Connection, function: PartFn, args: argparse.Namespace, done: dict[str, Any]
) -> None:
    try:
        values = function(args, done)
    except Exception as error:
        logger.exception("a part failed")
        values = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    sending.send(values)
    sending.close()


def _missing(part: Part) -> list[str]:
    return [name for name in part.needs if find_spec(name) is None]


def _absent() -> list[str]:
    return [name for name in _OPTIONAL if find_spec(name) is None]


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _finite(value: Any) -> Any:
    """Return JSON values with texts for numbers that JSON has not."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train on a GPU, then measure.")
    parser.add_argument("--data", action="append", required=True, metavar="KIND:PATH[*WEIGHT]")
    parser.add_argument("--validation", metavar="KIND:PATH", help="pairs to restore")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of the state (default: OUT/work)")
    parser.add_argument("--minutes", type=float, default=14.0, help="of all (default: 14)")
    parser.add_argument("--train-minutes", type=float, default=9.0, help="default: 9")
    parser.add_argument("--part-size", type=int, default=1024, help="MiB (default: 1024)")
    parser.add_argument("--init", default="divd-tiny", help="checkpoint to train from")
    parser.add_argument("--preset", default="tiny-further", help="name, or a file of changes")
    parser.add_argument("--clips", type=int, help="per update (default: by trial)")
    parser.add_argument("--crop", type=int, help="pixels (default: by the device)")
    parser.add_argument("--workers", type=int, help="that draw clips (default: by cores)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"))
    measured = parser.add_argument_group("what is measured after training")
    measured.add_argument("--sizes", nargs="*", default=["1280x720", "1920x1080"])
    measured.add_argument("--run-frames", type=int, default=24)
    measured.add_argument("--validation-frames", type=int, default=24)
    measured.add_argument("--precision-size", type=int, default=256, help="pixels")
    measured.add_argument("--product-size", type=int, default=8192)
    measured.add_argument(
        "--unet-channels", type=int, nargs="+", default=[320, 640, 1280, 1280]
    )
    measured.add_argument("--unet-frames", type=int, default=16)
    measured.add_argument("--unet-size", type=int, default=32, help="latent positions")
    args = parser.parse_args()
    args.work = args.work or args.out / "work"
    return args


if __name__ == "__main__":
    main()
