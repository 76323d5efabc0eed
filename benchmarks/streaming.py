"""Time per frame and memory of streaming, by length and against the engine alone.

    python -m video_deblur.benchmarks.streaming --data CLIP.mp4 ... --json FILE --chart FILE

Every run is a process of its own; lengths alternate, and medians are compared. The engine
alone takes frames in memory; streaming reads, restores and writes a file. Processor time
counts, which other users of the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..jobs.files import restore_file
from .clips import parse_size, write_looped

_REPEATS = 3
"""Runs of the engine alone and of streaming, in turn within one process."""
_SAMPLES = 100
"""Points of the memory curve of a run."""


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(
        description="Measure time per frame and memory of streaming, by length."
    )
    parser.add_argument("--data", nargs="+", help="videos that are looped")
    parser.add_argument("--frames", type=int, nargs=2, default=[300, 3000])
    parser.add_argument("--size", default="96x64")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--chart", help="draw memory over frames into this PNG")
    parser.add_argument("--run-one", nargs=2, metavar=("KIND", "CLIP"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_one:
        print(json.dumps(_run_one(*args.run_one)))
        return
    width, height = parse_size(args.size)
    with tempfile.TemporaryDirectory() as folder:
        clips = [
            write_looped(Path(folder) / f"{count}.mp4", args.data, count, width, height)
            for count in args.frames
        ]
        runs: dict[str, list[dict[str, Any]]] = {"both": [], "short": [], "long": []}
        for _ in range(args.runs):
            for kind, clip in (("both", clips[0]), ("short", clips[0]), ("long", clips[1])):
                runs[kind].append(_in_own_process(kind, clip))
                print(
                    kind, {k: v for k, v in runs[kind][-1].items() if k != "memory"}, flush=True
                )
    figures = _figures(runs)
    for name, value in figures.items():
        print(f"{name:40}{value:.4g}")
    if args.json:
        Path(args.json).write_text(
            json.dumps({"figures": figures, "runs": runs}, indent=1) + "\n"
        )
    if args.chart:
        _draw(runs, Path(args.chart))


def _in_own_process(kind: str, clip: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "video_deblur.benchmarks.streaming",
        "--run-one",
        kind,
        str(clip),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _run_one(kind: str, clip: str) -> dict[str, Any]:
    import torch

    from ..restoration.load import load_deblurrer
    from ..restoration.settings import preset_settings
    from ..video.pixels import to_float
    from ..video.reader import VideoReader

    torch.set_num_threads(1)
    deblurrer = load_deblurrer("divd-tiny", "cpu", "float32")
    settings = preset_settings(deblurrer.model.config, "fast")
    with VideoReader(clip) as reader:
        count = reader.info.num_frames or 0
        most = count if kind == "both" else settings.window
        pixels = [frame.pixels for frame, _ in zip(reader, range(most), strict=False)]
    frames = torch.from_numpy(to_float(np.stack(pixels)))
    deblurrer.restore(frames[: settings.window], settings)
    memory: list[tuple[float, float]] = []

    def sample(done: float, total: int | None) -> None:
        if done >= len(memory) * count / _SAMPLES:
            memory.append((done, _resident_mib()))

    def stream() -> None:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "out.mp4"
            restore_file(clip, output, deblurrer, settings, callback=sample)

    result: dict[str, Any] = {"frames": count, "streaming_s": [], "engine_s": []}
    for _ in range(_REPEATS if kind == "both" else 1):
        result["streaming_s"].append(_processor_s(stream))
        if kind == "both":
            seconds = _processor_s(lambda: deblurrer.restore(frames, settings))
            result["engine_s"].append(seconds)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**result, "peak_mib": peak_mib, "memory": memory}


def _processor_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    def median(kind: str, key: str) -> float:
        values = [run[key] for run in runs[kind]]
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        return statistics.median(flat)

    per_frame = {
        kind: median(kind, "streaming_s") / runs[kind][0]["frames"]
        for kind in ("short", "long")
    }
    peaks = {kind: median(kind, "peak_mib") for kind in ("short", "long")}
    return {
        "streaming to the engine alone": median("both", "streaming_s")
        / median("both", "engine_s"),
        "short, s per frame": per_frame["short"],
        "long, s per frame": per_frame["long"],
        "time per frame, long to short": per_frame["long"] / per_frame["short"],
        "short, peak memory, MiB": peaks["short"],
        "long, peak memory, MiB": peaks["long"],
        "peak memory, long to short": peaks["long"] / peaks["short"],
    }


def _draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), dpi=110)
    for kind in ("long", "short"):
        run = runs[kind][0]
        done, resident = zip(*run["memory"], strict=True)
        axes.plot(done, resident, label=f"{run['frames']} frames")
    axes.set(xlabel="frames restored", ylabel="resident memory, MiB", xlim=(0, None))
    axes.set_ylim(0, None)
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
