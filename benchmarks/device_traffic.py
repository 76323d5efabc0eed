"""What restoring moves between host and device per frame, counted without a device.

    python -m video_deblur.benchmarks.device_traffic --data CLIP.mp4

Frames and networks are tensors of the CPU that pretend to be on a GPU (`pretended_device`):
whatever copies them, or reads a value of them so that the host would wait, is counted. A GPU's
asynchronous copies and its speed are not part of it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch import Tensor

from ..models.bundled import DEFAULT_DIFFUSION
from ..models.checkpoint import load_model
from ..restoration.borrowing.passes import borrow_stream
from ..restoration.diffusion import Deblurrer
from ..restoration.settings import preset_settings
from ..restoration.streaming.stream import restore_stream
from .clips import parse_size, read_frames
from .pretended_device import PretendedDevice

COUNTED = ("waits", "uploads", "downloads", "MB up", "MB down", "optical flows")


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Count what restoring moves per frame.")
    parser.add_argument("--data", required=True, help="a video, enlarged to the size")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=12)
    args = parser.parse_args()
    pixels = read_frames(args.data, *parse_size(args.size), args.frames)
    frames = torch.from_numpy(np.stack(pixels)).float() / 255
    columns = (count_borrowing(frames), count_stream(pixels))
    print(f"per frame of {args.size}, {len(frames)} frames")
    print(f"{'':20}{'borrowing alone':>18}{'from file to file':>18}")
    for name in COUNTED:
        values = "".join(f"{counts[name] / len(frames):18.2f}" for counts in columns)
        print(f"{name:20}{values}")


def count_borrowing(frames: Tensor) -> dict[str, float]:
    """Count what borrowing within `[T, H, W, 3]` moves, with frames that lie on the device."""
    with PretendedDevice("cuda") as device, _counted_flows(device.counts):
        on_device = frames.to(device.device)
        device.counts.clear()
        device.megabytes.clear()
        for pixels in borrow_stream(iter(on_device), device.device):
            # Read no sooner than by whoever blends it, which is not counted here.
            del pixels
    return _all(device)


def count_stream(frames: list[np.ndarray], model: Any = None) -> dict[str, float]:
    """Count what restoring frames of a file moves, by the fast preset.

    Args:
        frames: `[H, W, 3]` each, uint8.
        model: On the CPU; None: the bundled diffusion model.
    """
    model = load_model(DEFAULT_DIFFUSION, dtype=torch.float32) if model is None else model
    with PretendedDevice("cuda") as device, _counted_flows(device.counts):
        engine = Deblurrer(model.to(device.device), device.device)
        device.counts.clear()
        device.megabytes.clear()
        for pixels in restore_stream(frames, engine, preset_settings(engine.config, "fast")):
            del pixels
    return _all(device)


def _all(device: PretendedDevice) -> dict[str, float]:
    moved = {"MB up": device.megabytes["uploads"], "MB down": device.megabytes["downloads"]}
    return {**dict.fromkeys(COUNTED, 0.0), **device.counts, **moved}


@contextmanager
def _counted_flows(counts: defaultdict[str, float]) -> Iterator[None]:
    """Count the optical flows that OpenCV computes."""
    create = cv2.DISOpticalFlow.create

    class Counted:
        def __init__(self, preset: int) -> None:
            self._method = create(preset)

        def calc(self, *args: Any) -> np.ndarray:
            counts["optical flows"] += 1
            return self._method.calc(*args)

    with mock.patch.object(cv2.DISOpticalFlow, "create", Counted):
        yield


if __name__ == "__main__":
    main()
