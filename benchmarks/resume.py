"""Kill resumable runs at random moments, go on, and compare with a run that never stopped.

python -m video_deblur.benchmarks.resume --data CLIP.mp4 ...
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .clips import decoded, parse_size, write_looped


def main() -> None:
    """Run the trials and print a line for each."""
    parser = argparse.ArgumentParser(
        description="Kill resumable runs at random moments, go on, and compare the results."
    )
    parser.add_argument("--data", nargs="+", required=True, help="videos that are looped")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--size", default="96x64")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", default="h264")
    args = parser.parse_args()
    generator = random.Random(args.seed)
    suffix = ".mkv" if args.codec == "ffv1" else ".mov" if args.codec == "prores" else ".mp4"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = write_looped(folder / "clip.mp4", args.data, args.frames, *parse_size(args.size))
        whole = folder / f"whole{suffix}"
        started = time.monotonic()
        _start(clip, whole, args.codec).wait()
        seconds = time.monotonic() - started
        expected = decoded(whole)
        print(f"uninterrupted: {len(expected)} frames in {seconds:.1f} s", flush=True)
        equal = 0
        for trial in range(args.kills):
            output = folder / f"{trial}{suffix}"
            process = _start(clip, output, args.codec)
            time.sleep(generator.uniform(0.2, 0.95) * seconds)
            process.kill()
            process.wait()
            kept = len(list(folder.glob(f".{output.name}.resume/*.packets")))
            finished = output.exists()
            if _start(clip, output, args.codec).wait() != 0:
                raise SystemExit("the resumed run failed")
            same = np.array_equal(decoded(output), expected)
            equal += same
            state = "was finished already" if finished else f"{kept} parts were kept"
            print(f"kill {trial + 1}: {state}, equal: {same}", flush=True)
    print(f"{equal} of {args.kills} equal bit for bit")
    if equal < args.kills:
        raise SystemExit(1)


def _start(clip: Path, output: Path, codec: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "video_deblur.cli", "run", str(clip), "-o", str(output)]
    command += ["--resume", "--codec", codec, "--device", "cpu"]
    # One thread: several wait for each other where others use the machine as well.
    one_thread = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=one_thread)


if __name__ == "__main__":
    main()
