"""Look for seams: between windows in time, and between tiles in space.

    python -m video_deblur.benchmarks.seams --data CLIP.mp4 ...

In time: the mean difference of neighbouring restored frames where a window begins, divided by
that elsewhere; the same of the input, for comparison. In space: PSNR of the tiled against the
untiled result, and the largest difference on a flat gradient, where any grid would show.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from ..restoration.engine import Engine
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings
from ..restoration.streaming.stream import restore_stream
from ..video.pixels import to_float
from .clips import looped, parse_size, read_frames


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Look for seams: between windows in time, and between tiles in space."
    )
    parser.add_argument("--data", nargs="+", required=True, help="videos")
    parser.add_argument("--size", default="192x128")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--tiled-size", default="640x360")
    args = parser.parse_args()
    deblurrer = load_deblurrer("divd-tiny", "cpu", "float32")
    width, height = parse_size(args.size)
    print(f"{'clip':28}{'restored':>10}{'input':>10}   border to elsewhere")
    for path in args.data:
        frames = read_frames(path, width, height, 61)
        moving = np.stack(list(looped(frames, args.frames)))
        _print_time_seam(Path(path).stem, moving, deblurrer, args.steps)
    noise = np.random.default_rng(0).normal(0, 2, (args.frames, height, width, 3))
    (first,) = read_frames(args.data[0], width, height, 1)
    static = np.clip(first + noise, 0, 255).astype(np.uint8)
    _print_time_seam("static, with noise", static, deblurrer, args.steps)
    print(f"tiles of {args.tile} pixels against none:")
    for path in args.data:
        picture = read_frames(path, *parse_size(args.tiled_size), 2)
        _print_tile_seam(Path(path).stem, np.stack(picture), deblurrer, args)
    rows = np.linspace(60, 190, parse_size(args.tiled_size)[1])[:, None, None]
    columns = np.linspace(0, 40, parse_size(args.tiled_size)[0])[None, :, None]
    flat = np.broadcast_to(rows + columns, (*(rows + columns).shape[:2], 3))
    _print_tile_seam("flat gradient", np.stack([flat, flat]).astype(np.uint8), deblurrer, args)


def _print_time_seam(name: str, frames: np.ndarray, deblurrer: Engine, steps: int) -> None:
    settings = preset_settings(deblurrer.model.config, "fast", steps=steps)
    restored = np.stack(list(restore_stream(frames, deblurrer, settings)))
    hop = settings.window - settings.overlap
    ratios = [border_ratio(clip, hop) for clip in (restored, frames)]
    print(f"{name:28}{ratios[0]:10.4f}{ratios[1]:10.4f}", flush=True)


def border_ratio(frames: np.ndarray, hop: int) -> float:
    """Return the mean change from frame to frame where windows begin, over that elsewhere."""
    changes = np.abs(np.diff(frames.astype(np.float64), axis=0)).mean(axis=(1, 2, 3))
    borders = np.arange(1, len(frames)) % hop == 0
    return float(changes[borders].mean() / changes[~borders].mean())


def _print_tile_seam(
    name: str, frames: np.ndarray, deblurrer: Engine, args: argparse.Namespace
) -> None:
    clip = torch.from_numpy(to_float(frames))
    for borrow in (False, True):
        tiled, whole = (
            deblurrer.restore(
                clip,
                preset_settings(
                    deblurrer.model.config, "fast", steps=args.steps, tile=tile, borrow=borrow
                ),
            )
            for tile in (args.tile, 16384)
        )
        psnr = -10 * torch.log10(((tiled - whole) ** 2).mean())
        largest = 255 * (tiled - whole).abs().max()
        label = "with borrowing" if borrow else "network alone"
        print(
            f"{name:28}{label:16}{psnr:8.2f} dB, largest difference {largest:.2f} of 255",
            flush=True,
        )


if __name__ == "__main__":
    main()
