"""How frames are registered before they borrow: time and gain of several ways.

    python -m video_deblur.benchmarks.registration --pairs DEV [--ways NAME ...]

The network restores each sequence once; then its frames borrow from each other, with motion
found by each way in turn: OpenCV's DIS at three speeds, vectors of x264 (each pair of frames is
encoded by itself, so that results do not depend on what came before), DIS and steps of
Lucas-Kanade from those vectors on. Times are the processor's, on one thread, per frame.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..images.datasets import load_dataset
from ..restoration.borrowing.candidates import Panel
from ..restoration.borrowing.flows import Estimate, optical_flow
from ..restoration.borrowing.passes import borrow_stream
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings
from ..video.vector_encoder import VectorEncoder
from .pairs import psnr, read_pair

_WINDOW = 5
"""Side of the box that Lucas-Kanade averages over twice, in pixels."""
_DAMPING = 1e-4
"""Added to the squared gradients, so that flat places keep the motion they have."""
_OUTLIER = 0.03
"""Difference of 0..1 from which pixels count for half."""


def dis(preset: int) -> Estimate:
    """Return DIS with a preset of OpenCV's."""
    of_thread = threading.local()

    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if not hasattr(of_thread, "method"):
            of_thread.method = cv2.DISOpticalFlow.create(preset)
        return of_thread.method.calc(first, second, np.zeros((*first.shape, 2), "f4"))

    return estimate


def vectors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Find motion as x264 does, which codes one picture from the other."""
    encoder = VectorEncoder(*first.shape)
    encoder.add(second)
    blocks = encoder.add(first)
    height, width = first.shape
    if blocks is None:
        return np.zeros((height, width, 2), np.float32)
    grid = rearrange(blocks.motion, "c h w -> h w c")
    size = grid.shape[1] * blocks.cell, grid.shape[0] * blocks.cell
    dense = cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(dense[:height, :width])


def dis_from_vectors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Start DIS from what x264 finds."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return method.calc(first, second, vectors(first, second))


def stepped(start: Estimate, steps: int) -> Estimate:
    """Return a way that goes on from another one's motion by steps of Lucas-Kanade."""

    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        flow = rearrange(torch.from_numpy(start(first, second)), "h w c -> 1 c h w")
        one, other = (
            torch.from_numpy(each)[None, None].float() / 255 for each in (first, second)
        )
        refined = lucas_kanade(one, other, flow, steps)
        return rearrange(refined, "1 c h w -> h w c").contiguous().numpy()

    return estimate


@torch.no_grad()
def lucas_kanade(first: Tensor, second: Tensor, flow: Tensor, steps: int) -> Tensor:
    """Refine motion on the device that it is on; nothing is read from there.

    Args:
        first: `[1, 1, h, w]` in 0..1.
        second: The same shape.
        flow: `[1, 2, h, w]`, x and y in pixels.
        steps: How often to follow it, compare, and correct it.
    """
    height, width = first.shape[2:]
    columns = torch.arange(width, device=flow.device)
    rows = torch.arange(height, device=flow.device)[:, None]
    own = _gradients(first)
    read = torch.cat([second, _gradients(second)], dim=1)
    for _ in range(steps):
        x = (flow[:, 0] + columns) * (2 / max(width - 1, 1)) - 1
        y = (flow[:, 1] + rows) * (2 / max(height - 1, 1)) - 1
        grid = torch.stack([x, y], dim=-1)
        found = F.grid_sample(read, grid, padding_mode="border", align_corners=True)
        difference = found[:, :1] - first
        x, y = ((found[:, 1:] + own) / 2).split(1, dim=1)
        weights = 1 / (1 + (difference / _OUTLIER).square())
        products = torch.cat([x * x, x * y, y * y, x * difference, y * difference], dim=1)
        xx, xy, yy, xd, yd = _averaged(products * weights).split(1, dim=1)
        xx, yy = xx + _DAMPING, yy + _DAMPING
        step = torch.cat([yy * xd - xy * yd, xx * yd - xy * xd], dim=1) / (xx * yy - xy * xy)
        flow = _averaged(flow - step.clamp(-1.5, 1.5))
    return flow


def _gradients(picture: Tensor) -> Tensor:
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    x = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    y = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return torch.cat([x, y], dim=1) / 2


def _averaged(maps: Tensor) -> Tensor:
    for _ in range(2):
        padded = F.pad(maps, [_WINDOW // 2] * 4, mode="replicate")
        maps = F.avg_pool2d(padded, _WINDOW, 1)
    return maps


WAYS: dict[str, Estimate] = {
    "DIS, medium": optical_flow,
    "DIS, fast": dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "DIS, ultrafast": dis(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
    "vectors": vectors,
    "DIS, fast, from vectors": dis_from_vectors,
    "vectors, 2 steps": stepped(vectors, 2),
    "vectors, 3 steps": stepped(vectors, 3),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare ways to register frames.")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of sequences")
    parser.add_argument("--checkpoint", default="divd-tiny")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    deblurrer = load_deblurrer(args.checkpoint, "cpu")
    alone = dataclasses.replace(preset_settings(deblurrer.config, "fast"), borrow=False)
    gains: dict[str, list[float]] = {way: [] for way in args.ways}
    seconds: dict[str, list[float]] = {way: [0.0, 0.0] for way in args.ways}
    count = 0
    for sequence in load_dataset(f"pairs:{args.pairs}", "test"):
        blurry, sharp = read_pair(sequence)
        restored = deblurrer.restore(blurry, alone)
        count += len(blurry)
        for way in args.ways:
            timed, spent = _timed(WAYS[way])
            panels = [Panel(*each) for each in zip(blurry, restored, strict=True)]
            started = time.process_time()
            borrowed = torch.stack(list(borrow_stream(panels, estimate=timed)))
            seconds[way][0] += spent[0]
            seconds[way][1] += time.process_time() - started
            gains[way].append(psnr(borrowed, sharp) - psnr(blurry, sharp))
        last = {way: round(each[-1], 2) for way, each in gains.items()}
        print(sequence.name, last, flush=True)
    print("\n| motion by | gain | finding motion, per frame | all of borrowing |")
    print("|---|---|---|---|")
    for way in args.ways:
        motion, whole = (1000 * value / count for value in seconds[way])
        gain = statistics.mean(gains[way])
        print(f"| {way} | {gain:+.2f} dB | {motion:.0f} ms | {whole:.0f} ms |")


def _timed(estimate: Estimate) -> tuple[Estimate, list[float]]:
    """Return a way that adds up its time, and the sum."""
    spent = [0.0]
    lock = threading.Lock()

    def timed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        started = time.thread_time()
        flow = estimate(first, second)
        with lock:
            spent[0] += time.thread_time() - started
        return flow

    return timed, spent


if __name__ == "__main__":
    main()
