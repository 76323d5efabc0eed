"""Time of a whole `video-deblur run`, here and in another version of this package.

    python -m video_deblur.benchmarks.run_speed --data CLIP.mp4 --other FOLDER

FOLDER holds another `video_deblur`. Every run is a process of its own, the two versions in
turn; medians of the time that the command itself prints and of the processor time are compared.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .clips import parse_size, write_looped


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of a whole `video-deblur run`.")
    parser.add_argument("--data", required=True, help="a video, enlarged to the size")
    parser.add_argument("--other", help="folder of another version's video_deblur")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    versions = {"this": Path(__file__).parents[2].resolve()}
    if args.other:
        versions["other"] = Path(args.other).resolve()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in versions}
    with tempfile.TemporaryDirectory() as folder:
        size = parse_size(args.size)
        clip = write_looped(Path(folder) / "clip.mp4", [args.data], args.frames, *size)
        for _ in range(args.rounds):
            for name, package in versions.items():
                seconds[name].append(_run(package, clip, Path(folder) / f"{name}.mp4"))
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)]
        for name, runs in seconds.items()
    }
    for name, (wall, processor) in medians.items():
        print(
            f"{name:8}{wall:8.1f} s, {wall / args.frames:.2f} s per frame; "
            f"{processor:.1f} s of processors"
        )
    if args.other:
        ratios = [medians["other"][index] / medians["this"][index] for index in (0, 1)]
        print(f"{ratios[0]:.2f} times as fast, {ratios[1]:.2f} times in processor time")


def _run(package: Path, clip: Path, output: Path) -> tuple[float, float]:
    """Return what the command says it took, and its processor time, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "video_deblur.cli", "run", str(clip), "-o", str(output)]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"frames in ([0-9.]+) s", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]), after.ru_utime - before.ru_utime


if __name__ == "__main__":
    main()
