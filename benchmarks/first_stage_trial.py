"""What first stages make of the test pictures that decide whether they are used.

    python -m video_deblur.benchmarks.first_stage_trial [FILE ...]

Prints PSNR in dB of the sharp and the blurred picture as they are given, as each network
restores them, and as far as it would be followed: for networks of files, and for the wrong ones
of `wrong_first_stages` and sharpening of other strengths and widths. The last column says why a
network would be left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..restoration.engine import Engine
from ..restoration.feed_forward import FeedForward
from ..restoration.first_stage.trial import fault_of, outcomes
from ..restoration.load import load_first_stage
from .wrong_first_stages import WRONG, WrongNetwork, oversharpened

SHARPENED: dict[str, Callable[[Tensor], Tensor]] = {
    f"sharpened by {amount:g}, {side} pixels": partial(oversharpened, amount=amount, side=side)
    for side in (3, 5, 9)
    for amount in (0.3, 0.5, 0.75, 1.0)
}


def main() -> None:
    """Try networks and print."""
    parser = argparse.ArgumentParser(description="Try first stages on test pictures.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="as --first-stage takes them")
    args = parser.parse_args()
    made = {**WRONG, "nothing changed": lambda frame: frame, **SHARPENED}
    print("| first stage | sharp | own | followed | blurred | own | followed | s | fault |")
    print("|---" * 9 + "|")
    for file in args.files:
        show(file, load_first_stage(file, "cpu").engine)
    for name, restore in made.items():
        show(name, FeedForward(WrongNetwork(restore), torch.device("cpu")))


def show(name: str, engine: Engine) -> None:
    """Print the row of a network."""
    started = time.perf_counter()
    fault = fault_of(engine) or "none"
    seconds = time.perf_counter() - started
    try:
        cells = [
            "refused" if value is None else f"{value:.1f}"
            for _, each in outcomes(engine)
            for value in (each.before, each.own, each.followed)
        ]
    except FloatingPointError:
        cells = ["not finite"] * 6
    print(f"| {name} | {' | '.join(cells)} | {seconds:.1f} | {fault} |", flush=True)


if __name__ == "__main__":
    main()
