"""What a network gains that learns from the clip it restores, and what that takes.

    python -m video_deblur.benchmarks.adaptation PAIRS --checkpoint divd-tiny --json report.json

Each sequence of pairs is restored as it is and after `run --adapt` would have tuned the network
on its blurry frames; PSNR of the network alone and of the default, with detail from neighbours,
against the sharp ones. What tuning did is judged here by the truth even where it was dropped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..images.datasets import PairedSequence, load_dataset
from ..restoration.adaptation.settings import AdaptationSettings
from ..restoration.adaptation.stretches import learn_from_stretches, stretches_of
from ..restoration.adaptation.tuning import with_engine
from ..restoration.engine import Engine
from ..restoration.load import load_deblurrer
from ..restoration.settings import RestorationSettings, preset_settings
from .pairs import psnr, read_pair

_TUNABLE = ("updates", "clips", "frames", "crop", "learning_rate", "reblurred_share")


def main() -> None:
    """Measure every sequence and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="folder of sequences")
    parser.add_argument("--sequences", nargs="*", help="names of those to measure: all")
    parser.add_argument("--checkpoint", default="divd-tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    defaults = AdaptationSettings()
    for name in _TUNABLE:
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    engine = load_deblurrer(args.checkpoint, "auto", args.dtype)
    restoration = preset_settings(engine.config, "fast", seed=args.seed)
    settings = AdaptationSettings(**{name: getattr(args, name) for name in _TUNABLE})
    measured = []
    for sequence in load_dataset(f"pairs:{args.pairs}"):
        if args.sequences and sequence.name not in args.sequences:
            continue
        measured.append(measure(engine, sequence, restoration, settings))
        print(_row(measured[-1]), flush=True)
    names = ("alone_db", "default_db", "adapted_alone_db", "adapted_default_db", "seconds")
    mean = {name: float(np.mean([each[name] for each in measured])) for name in names}
    print(_row({"sequence": "mean", "used": None, "held_out_db": None, **mean}))
    if args.json is not None:
        values = {"settings": dataclasses.asdict(settings), "mean": mean, "sequences": measured}
        args.json.write_text(json.dumps(values, indent=1) + "\n")


def measure(
    engine: Engine,
    sequence: PairedSequence,
    restoration: RestorationSettings,
    settings: AdaptationSettings,
) -> dict[str, Any]:
    """Return what a sequence gains over its blurry frames, in dB, and the seconds of tuning.

    Args:
        engine: Of the checkpoint.
        sequence: To restore.
        restoration: As of the default.
        settings: How long to learn, and how.
    """
    blurry, sharp = read_pair(sequence)
    before = psnr(blurry, sharp)
    alone = dataclasses.replace(restoration, borrow=False)

    def gains(restorer: Engine) -> tuple[float, float]:
        alone_db, default_db = (
            psnr(restorer.restore(blurry, each), sharp) - before
            for each in (alone, restoration)
        )
        return alone_db, default_db

    own = gains(engine)
    started = time.monotonic(), time.process_time()
    # Also what would be dropped, so that the truth judges the judgement.
    bold = dataclasses.replace(settings, least_gain_db=-1e9)
    parts, num_frames = stretches_of(blurry)
    adapted = learn_from_stretches(engine, parts, num_frames, restoration, bold)
    wall, cpu = time.monotonic() - started[0], time.process_time() - started[1]
    tuned = own
    if adapted.weights is not None:
        tuned = gains(with_engine(engine, adapted.weights))
    is_used = adapted.gain_db is not None and adapted.gain_db >= settings.least_gain_db
    return {
        "sequence": sequence.name,
        "alone_db": own[0],
        "default_db": own[1],
        "tuned_alone_db": tuned[0],
        "tuned_default_db": tuned[1],
        "used": is_used,
        "held_out_db": adapted.gain_db,
        "adapted_alone_db": tuned[0] if is_used else own[0],
        "adapted_default_db": tuned[1] if is_used else own[1],
        "seconds": wall,
        "cpu_seconds": cpu,
    }


def _row(each: dict[str, Any]) -> str:
    alone, default = (
        f"{each[f'{name}_db']:+.2f} {each[f'adapted_{name}_db'] - each[f'{name}_db']:+.3f}"
        for name in ("alone", "default")
    )
    row = f"{each['sequence']:16} alone {alone}  default {default}  {each['seconds']:.0f} s"
    if each["held_out_db"] is None:
        return row
    tuned = each["tuned_default_db"] - each["default_db"]
    verdict = "used" if each["used"] else f"dropped (would be {tuned:+.3f})"
    return f"{row}  {verdict}, held out {each['held_out_db']:+.2f}"


if __name__ == "__main__":
    main()
