"""What a first stage that is wrong does to the result: noise, black, NaN, another place.

    python -m video_deblur.benchmarks.wrong_first_stages --pairs DEV [--json FILE]

Restores every sequence without a first stage and with each of the wrong ones, and prints the
gain of PSNR over the blurry frames. A last column says of each sequence what the worst of them
takes, which must be at most 0.1 dB, and under the table stands what the log said of each.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluation.methods import checkpoint_method
from ..evaluation.report import evaluate_sequences
from ..images.datasets import load_dataset
from ..restoration.feed_forward import FeedForward
from ..restoration.first_stage.foreign import ForeignConfig
from ..restoration.first_stage.stage import FirstStage
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings

CPU = torch.device("cpu")
LIMIT_DB = 0.1


def noise(frame: Tensor) -> Tensor:
    """Return noise that has nothing to do with the frame `[1, 3, H, W]`."""
    return torch.rand(frame.shape, generator=torch.Generator().manual_seed(0))


def displaced(frame: Tensor) -> Tensor:
    """Return the frame, sharpened, 6 pixels to the right and 4 down."""
    return oversharpened(frame).roll((4, 6), (2, 3))


def oversharpened(frame: Tensor, amount: float = 2, side: int = 5) -> Tensor:
    """Return the frame with halos along its edges and its noise enlarged."""
    smooth = F.avg_pool2d(frame, side, 1, side // 2, count_include_pad=False)
    return (frame + amount * (frame - smooth)).clamp(0, 1)


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": noise,
    "black": torch.zeros_like,
    "NaN": lambda frame: torch.full_like(frame, torch.nan),
    "NaN in one pixel": lambda frame: frame.index_fill(3, torch.tensor([0]), torch.nan),
    "negative": lambda frame: 1 - frame,
    "displaced": displaced,
    "oversharpened": oversharpened,
    "sharpened a little": lambda frame: oversharpened(frame, 0.5),
}


class WrongNetwork:
    """A function of one frame as a `FeedForwardNetwork`."""

    config = ForeignConfig()
    reach = None
    bytes_per_pixel = 48

    def __init__(self, restore: Callable[[Tensor], Tensor]) -> None:
        self._restore = restore

    def restore_frame(self, around: Tensor) -> Tensor:
        """See `FeedForwardNetwork`."""
        return self._restore(around)[0]


class Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.lines.append(record.getMessage())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Restore with first stages that are wrong.")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of sequences")
    parser.add_argument("--checkpoint", default="divd-tiny")
    parser.add_argument("--json", type=Path, help="write all gains to this file")
    args = parser.parse_args()
    messages = Messages()
    logging.getLogger("video_deblur").addHandler(messages)
    gains = {"none": gains_with(None, args)}
    said: dict[str, list[str]] = {}
    for name, restore in WRONG.items():
        messages.lines.clear()
        gains[name] = gains_with(restore, args)
        said[name] = list(messages.lines)
    print(f"| sequence | {' | '.join(gains)} | worst less none |")
    print("|---" * (len(gains) + 2) + "|")
    for sequence, without in gains["none"].items():
        values = [gain[sequence] for gain in gains.values()]
        figures = " | ".join(f"{value:+.2f}" for value in values)
        print(f"| {sequence} | {figures} | {min(values) - without:+.2f} |")
    lost = min(
        gain[sequence] - gains["none"][sequence] for gain in gains.values() for sequence in gain
    )
    print(f"\nat most {max(0.0, -lost):.2f} dB are lost (goal: {LIMIT_DB})")
    for name, lines in said.items():
        print(f"{name}: {'; '.join(lines) or 'nothing was said'}")
    if args.json is not None:
        args.json.write_text(json.dumps({"gains": gains, "said": said}, indent=1) + "\n")


def gains_with(
    restore: Callable[[Tensor], Tensor] | None, args: argparse.Namespace
) -> dict[str, float]:
    """Return the gain of each sequence with a first stage, in dB."""
    deblurrer = load_deblurrer(args.checkpoint, "cpu")
    if restore is not None:
        engine = FeedForward(WrongNetwork(restore), CPU)
        deblurrer.first_stage = FirstStage(engine, "of this benchmark", "")
    settings = preset_settings(deblurrer.config, "fast")
    method = checkpoint_method(deblurrer, settings, name=args.checkpoint)
    report = evaluate_sequences(load_dataset(f"pairs:{args.pairs}", "test"), method.restore)
    return {name: each["mean"]["psnr_gain"] for name, each in report["sequences"].items()}


if __name__ == "__main__":
    main()
