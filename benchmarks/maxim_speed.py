"""Our MAXIM beside the published graph of it, run node by node: seconds per frame.

    video-deblur convert --maxim PACKAGE.tgz -o maxim.safetensors
    python -m video_deblur.benchmarks.maxim_speed maxim.safetensors UNPACKED_PACKAGE

Each in turn, several times, on one thread; times are the process's own, and the ratio is that
of the medians. With `--pairs FOLDER` (`SEQUENCE/blur` and `SEQUENCE/sharp`) it also says what
half precision costs: PSNR against the sharp frame, one frame of each sequence.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from torch import Tensor

from ..models.checkpoint import load_model
from ..models.hardware import DTYPES
from ..restoration.phases import computing_in
from .maxim_graph import PublishedGraph

CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare MAXIM with its published graph.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("package", type=Path, nargs="?", help="left out: without the graph")
    parser.add_argument("--size", type=int, default=256, help="pixels, both ways")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--pairs", type=Path, help="folder of sequences")
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = load_model(args.checkpoint)

    def restored(frames: Tensor, dtype: str) -> Tensor:
        with computing_in(DTYPES[dtype], CPU):
            return network(frames)

    if args.package is not None:
        frames = torch.rand(1, 3, args.size, args.size)
        graph = PublishedGraph(args.package)
        runs: dict[str, Callable[[], Tensor]] = {"published graph": lambda: graph(frames)}
        for dtype in args.dtypes:
            runs[f"ours, {dtype}"] = lambda dtype=dtype: restored(frames, dtype)
        seconds = alternately(runs, args.repeats)
        slowest = seconds["published graph"]
        print(f"one frame of {args.size}x{args.size}\n\n| | time | faster |\n|---|---|---|")
        for name, value in seconds.items():
            print(f"| {name} | {value:.2f} s | {slowest / value:.2f} |")
    if args.pairs is not None:
        print(f"\n| sequence | blurry | {' | '.join(args.dtypes)} |\n{'|---' * 4}|")
        for sequence in sorted(path for path in args.pairs.iterdir() if path.is_dir()):
            blurry, sharp = middle_pair(sequence)
            values = [psnr(blurry, sharp)]
            values += [psnr(restored(blurry, dtype), sharp) for dtype in args.dtypes]
            print(f"| {sequence.name} | {' | '.join(f'{value:.3f}' for value in values)} |")


@torch.inference_mode()
def alternately(runs: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each, run in turn after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            if index:
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def middle_pair(sequence: Path) -> tuple[Tensor, Tensor]:
    """Return the blurry and the sharp frame in the middle of a sequence, `[1, 3, H, W]`."""
    blurry = sorted((sequence / "blur").iterdir())
    path = blurry[len(blurry) // 2]
    return _read(path), _read(sequence / "sharp" / path.name)


def _read(path: Path) -> Tensor:
    pixels = cv2.imread(str(path))
    assert pixels is not None, path
    return torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def psnr(pred: Tensor, target: Tensor) -> float:
    """Return the PSNR of frames in 0..1, in dB."""
    return float(-10 * (pred.clamp(0, 1) - target).square().mean().log10())


if __name__ == "__main__":
    with torch.inference_mode():
        main()
