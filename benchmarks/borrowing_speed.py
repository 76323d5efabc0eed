"""Time that borrowing takes per frame, here and in another version of this package.

    python -m video_deblur.benchmarks.borrowing_speed --data CLIP.mp4 --other FOLDER

FOLDER holds another `video_deblur`. Every run is a process of its own, the two versions in
turn; medians are compared, and so are the frames. The network is left out: frames are those of
the clip as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from .clips import parse_size, read_frames

_RUN = """
import json, sys, time
import numpy as np, torch
try:
    from video_deblur.restoration.borrowing.passes import borrow_stream
except ImportError:
    from video_deblur.restoration.borrowing import borrow_stream
source, result, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
frames = torch.from_numpy(np.load(source)).float() / 255
wall, processor = time.perf_counter(), time.process_time()
with torch.no_grad():
    borrowed = list(borrow_stream(iter(frames)))
seconds = time.perf_counter() - wall, time.process_time() - processor
np.save(result, torch.stack(borrowed).numpy())
print(json.dumps([value / len(frames) for value in seconds]))
"""
"""Run by either version: where borrowing lies differs."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time that borrowing takes per frame.")
    parser.add_argument("--data", required=True, help="a video, enlarged to the size")
    parser.add_argument("--other", help="folder of another version's video_deblur")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    versions = {"this": Path(__file__).parents[2].resolve()}
    if args.other:
        versions["other"] = Path(args.other).resolve()
    seconds: dict[str, list[list[float]]] = {name: [] for name in versions}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "frames.npy"
        np.save(source, np.stack(read_frames(args.data, *parse_size(args.size), args.frames)))
        results = {name: Path(folder) / f"{name}.npy" for name in versions}
        for _ in range(args.rounds):
            for name, path in versions.items():
                files = str(source), str(results[name])
                seconds[name].append(_in_own_process(path, *files, str(args.threads)))
        for name, runs in seconds.items():
            wall, processor = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{name:8}{wall:8.2f} s per frame, {processor:6.2f} s of processors")
        if args.other:
            _compare(seconds, results)


def _in_own_process(package: Path, *arguments: str) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": arguments[-1]}
    command = [sys.executable, "-c", _RUN, *arguments]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def _compare(seconds: dict[str, list[list[float]]], results: dict[str, Path]) -> None:
    for index, name in enumerate(("wall", "processor")):
        this, other = (
            statistics.median(run[index] for run in seconds[version])
            for version in ("this", "other")
        )
        print(f"{name} time: {other / this:.2f} times as fast")
    this, other = (np.load(results[version]) for version in ("this", "other"))
    error = np.square(this - other, dtype=np.float64).mean(axis=(1, 2, 3)).max()
    print(f"frames differ by {-10 * np.log10(max(error, 1e-20)):.1f} dB at least")


if __name__ == "__main__":
    main()
