"""What more denoising steps of a diffusion model bring and cost, as curves.

    python -m video_deblur.benchmarks.steps --dataset pairs:DEV --json FILE --chart FILE.png

Every sequence is restored with each number of steps, by the network alone and with detail from
neighbouring frames, and measured against its sharp frames: PSNR, NIQE (less is sharper), the
share of high frequencies that is in the right place. Means over sequences.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..evaluation.methods import checkpoint_method
from ..evaluation.metrics import build_metrics
from ..evaluation.protocols import PROTOCOLS
from ..evaluation.report import RestoreFn, evaluate_sequences
from ..images.datasets import PairedSequence, load_dataset
from ..models.bundled import DEFAULT_DIFFUSION
from ..restoration.engine import Engine
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings

FIGURES = {
    "psnr": "PSNR, dB",
    "niqe": "NIQE (less is sharper)",
    "high_frequency_matched": "high frequencies in the right place",
}
WAYS = {"network alone": False, "with borrowing": True}
_METRICS = ("psnr", "niqe", "high_frequency")

Curves = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Figures by way and number of steps."""


class _Timed:
    """Restores, and adds up the processor time that it takes."""

    def __init__(self, restore: RestoreFn) -> None:
        self._restore = restore
        self.seconds = 0.0

    def __call__(self, sequence: PairedSequence, frames: np.ndarray) -> np.ndarray:
        before = time.process_time()
        restored = self._restore(sequence, frames)
        self.seconds += time.process_time() - before
        return restored


def middle(sequences: Iterable[PairedSequence], most: int) -> list[PairedSequence]:
    """Return sequences cut to the `most` frames in their middle."""
    cut = []
    for sequence in sequences:
        start = max(0, len(sequence.blurry) - most) // 2
        part = slice(start, start + most)
        cut.append(
            dataclasses.replace(
                sequence, blurry=sequence.blurry[part], sharp=sequence.sharp[part]
            )
        )
    return cut


def measure(
    engine: Engine, sequences: Sequence[PairedSequence], steps: Sequence[int]
) -> Curves:
    """Restore sequences with each number of steps, either way.

    Returns:
        By way and steps the means over sequences of `FIGURES`, what they are of the blurry
        clips under `input_...`, and `seconds` of a processor per frame.
    """
    protocol = PROTOCOLS["rgb8"]
    metrics = build_metrics(_METRICS, protocol)
    frames = sum(len(sequence.sharp) for sequence in sequences)
    curves: dict[str, dict[int, dict[str, float]]] = {way: {} for way in WAYS}
    for count in steps:
        for way, borrow in WAYS.items():
            settings = preset_settings(engine.config, "fast", steps=count, borrow=borrow)
            method = checkpoint_method(engine, settings, name="")
            restore = _Timed(method.restore)
            report = evaluate_sequences(sequences, restore, metrics=metrics, protocol=protocol)
            mean = report["mean_of_sequences"]
            kept = {name: mean[name] for name in (*FIGURES, *(f"input_{f}" for f in FIGURES))}
            curves[way][count] = {**kept, "seconds": restore.seconds / frames}
            print(_row(way, count, curves[way][count]), flush=True)
    return curves


def _row(way: str, steps: int, figures: Mapping[str, float]) -> str:
    values = (f"{figures[name]:.2f}" for name in (*FIGURES, "seconds"))
    return f"| {way} | {steps} | {' | '.join(values)} |"


def write_chart(path: Path, curves: Curves) -> None:
    """Draw the figures over steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(FIGURES), figsize=(4 * len(FIGURES), 3.2))
    for axis, (name, title) in zip(axes, FIGURES.items(), strict=True):
        for way, curve in curves.items():
            axis.plot(list(curve), [each[name] for each in curve.values()], "o-", label=way)
        alone = curves["network alone"]
        blurry = next(iter(alone.values()))[f"input_{name}"]
        axis.axhline(blurry, color="grey", linestyle=":", label="blurry")
        axis.set_xscale("log")
        axis.set_xlabel("steps")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(list(alone), [str(count) for count in alone])
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    """Measure, print a table, and write what was asked for."""
    parser = argparse.ArgumentParser(description="Measure what denoising steps bring and cost.")
    parser.add_argument("--dataset", required=True, help="KIND:PATH, as for evaluate")
    parser.add_argument("--checkpoint", default=DEFAULT_DIFFUSION)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16, 50])
    parser.add_argument("--frames", type=int, default=12, help="of each, in its middle")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    engine = load_deblurrer(args.checkpoint)
    if not engine.config.takes_steps:
        parser.error(f"{args.checkpoint}: takes no denoising steps")
    sequences = middle(load_dataset(args.dataset, "test"), args.frames)
    print(
        "| | steps | " + " | ".join([*FIGURES.values(), "processor seconds per frame"]) + " |"
    )
    print("|---" * (len(FIGURES) + 3) + "|")
    curves = measure(engine, sequences, args.steps)
    if args.json is not None:
        args.json.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    if args.chart is not None:
        write_chart(args.chart, curves)


if __name__ == "__main__":
    main()
