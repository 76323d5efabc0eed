"""DBLRNet window by window beside windows in a row: the same frames, in turn.

    python -m video_deblur.benchmarks.feed_forward_speed --sizes 128x128 256x256 640x360

In a row the first convolution sees each three frames once, and small windows are computed
together. On a CPU the time is the process's own, so that other work on the machine counts less.
Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models import inference_layers
from ..models.dblrnet import DblrNet, DblrNetConfig
from ..restoration import feed_forward
from ..restoration.feed_forward import FeedForward
from ..restoration.settings import RestorationSettings
from .unet_speed import clock

SETTINGS = RestorationSettings(borrow=False, scene_cuts=False)
PARTS = {
    "conv1": "first convolutions",
    "conv2": "first convolutions",
    "units": "residual units",
    "head1": "last convolutions",
    "head2": "last convolutions",
    "head3": "last convolutions",
}
"""Parts of the network by the names of its modules."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time DBLRNet's windows.")
    parser.add_argument("--sizes", nargs="+", default=["128x128", "256x256", "640x360"])
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3, help="the median counts")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    engine = make_engine(DblrNetConfig(), args.device, getattr(torch, args.dtype))
    print(
        f"\nDBLRNet, {args.frames} frames, {args.dtype}, {torch.get_num_threads()} threads, "
        "seconds per frame\n"
    )
    print("| frames | windows at once | one by one | in a row | | largest difference |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        width, height = map(int, size.split("x"))
        frames = torch.rand(args.frames, height, width, 3)
        windows = feed_forward.windows_at_once(engine.model, height * width)
        seconds, difference = compare(engine, frames, args.runs)
        alone, together = (value / args.frames for value in seconds)
        print(
            f"| {size} | {windows} | {alone:.3f} | {together:.3f} | "
            f"{1 - together / alone:+.1%} | {difference:.1e} |"
        )
    width, height = map(int, args.sizes[0].split("x"))
    shares = time_parts(engine, torch.rand(args.frames, height, width, 3))
    whole = sum(shares.values())
    print("\n| part | share |\n|---|---|")
    for name, value in shares.items():
        print(f"| {name} | {value / whole:.0%} |")


def make_engine(
    config: DblrNetConfig, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> FeedForward:
    """Return the engine of a network that is as it would be loaded."""
    torch.manual_seed(0)
    network = DblrNet(config, device=device, operations=inference_layers)
    return FeedForward(network.eval().requires_grad_(False), device, dtype)


def compare(
    engine: FeedForward, frames: Tensor, runs: int
) -> tuple[tuple[float, float], float]:
    """Restore a clip window by window and in rows, in turn.

    Returns:
        Median seconds of each, and the largest difference of their results.
    """
    now, seconds = clock(engine.device), defaultdict(list)
    restored: dict[bool, Tensor] = {}
    for run in range(runs + 1):
        for together in (False, True):
            with _windows_at_once(together):
                started = now()
                restored[together] = engine.restore(frames, SETTINGS)
                if run:  # the first is not counted
                    seconds[together].append(now() - started)
    alone, in_rows = (statistics.median(seconds[kind]) for kind in (False, True))
    return (alone, in_rows), float((restored[False] - restored[True]).abs().max())


def time_parts(engine: FeedForward, frames: Tensor) -> dict[str, float]:
    """Return the seconds that the parts of the network take, window by window."""
    now, seconds, handles = clock(engine.device), dict.fromkeys(PARTS.values(), 0.0), []
    started: dict[str, float] = {}
    network: Any = engine.model
    for name, part in PARTS.items():

        def before(module: nn.Module, inputs: object, name: str = name) -> None:
            started[name] = now()

        def after(
            module: nn.Module, inputs: object, out: object, name: str = name, part: str = part
        ) -> None:
            seconds[part] += now() - started[name]

        module = network.get_submodule(name)
        handles += [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after),
        ]
    with _windows_at_once(False):
        engine.restore(frames, SETTINGS)
    _remove(handles)
    return seconds


@contextmanager
def _windows_at_once(together: bool) -> Iterator[None]:
    pixels = feed_forward._PIXELS_AT_ONCE
    feed_forward._PIXELS_AT_ONCE = pixels if together else 1
    try:
        yield
    finally:
        feed_forward._PIXELS_AT_ONCE = pixels


def _remove(handles: Iterable[torch.utils.hooks.RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


if __name__ == "__main__":
    main()
