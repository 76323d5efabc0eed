"""Peak memory by frame size: what 4K needs beside 720p.

    python -m video_deblur.benchmarks.large_frames --data CLIP.mp4

Every size is a process of its own. Memory is what the process holds beyond the loaded model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import cv2
import numpy as np

from .clips import parse_size, read_frames


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Peak memory by frame size: what 4K needs beside 720p."
    )
    parser.add_argument("--data", required=True, help="a video, enlarged to each size")
    parser.add_argument("--sizes", nargs="+", default=["1280x720", "1920x1080", "3840x2160"])
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--run-one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_one:
        print(json.dumps(_run_one(args.data, args.run_one, args.frames)))
        return
    for size in args.sizes:
        command = [
            sys.executable,
            "-m",
            "video_deblur.benchmarks.large_frames",
            "--data",
            args.data,
        ]
        command += ["--frames", str(args.frames), "--run-one", size]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{size:12}{result['added_mib']:8.0f} MiB beyond the model, "
            f"{result['processor_s']:6.1f} s per frame",
            flush=True,
        )


def _run_one(path: str, size: str, num_frames: int) -> dict[str, float]:
    import torch

    from ..restoration.load import load_deblurrer
    from ..restoration.settings import preset_settings
    from ..restoration.streaming.stream import restore_stream

    torch.set_num_threads(1)
    deblurrer = load_deblurrer("divd-tiny", "cpu", "float32")
    settings = preset_settings(deblurrer.model.config, "fast")
    small = read_frames(path, 640, 360, num_frames)
    # Every code path once, so that what libraries allocate for good does not count.
    list(restore_stream([frame[:64, :96] for frame in small], deblurrer, settings))
    frames = (cv2.resize(frame, parse_size(size)) for frame in small)
    before, started = _peak_mib(), time.process_time()
    count = sum(int(np.any(frame)) for frame in restore_stream(frames, deblurrer, settings))
    return {
        "added_mib": _peak_mib() - before,
        "processor_s": (time.process_time() - started) / max(count, 1),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
