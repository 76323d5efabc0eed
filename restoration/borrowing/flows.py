"""Optical flow between frames, computed by threads ahead of its use.

OpenCV computes it on the host, from luma shrunk and smoothed to 8 bits: luma comes down from
the device once per frame, and the flows go up once per pair. OpenCV lets other threads run
meanwhile, and every flow depends on its two frames alone: results do not depend on the order.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .candidates import Frame
from .filters import uploaded

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]
FLOW_PIXELS = 640 * 360
"""Optical flow is computed on frames shrunk to at most this many pixels."""
HALF, FULL = 0.5, 1.0
"""Largest scales of the frames that flow is computed on. Blur hides finer motion anyway; where
frames have become sharp, it shows."""


class Flow:
    """Where each position of a frame is in another one."""

    def __init__(self, offsets: np.ndarray) -> None:
        self._offsets = offsets
        self._tensor: Tensor | None = None
        self._lowest = offsets[..., 1].min(axis=1)
        self._highest = offsets[..., 1].max(axis=1)

    def on(self, device: torch.device) -> Tensor:
        """Return the offsets `[1, 2, h, w]` on a device, in positions of the shrunk frame."""
        if self._tensor is None or self._tensor.device != device:
            offsets = uploaded(torch.from_numpy(self._offsets), device)
            self._tensor = rearrange(offsets, "h w c -> 1 c h w")
        return self._tensor

    def vertical_range(self, first: float, last: float) -> tuple[float, float]:
        """Return the least and the largest vertical offset between two positions, inclusive."""
        top = min(max(math.floor(first), 0), len(self._lowest) - 1)
        rows = slice(top, max(math.ceil(last) + 1, top + 1))
        return float(self._lowest[rows].min()), float(self._highest[rows].max())


def optical_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Find where each position of a picture is in another, by DIS (arXiv 1603.03590).

    Others were compared with it, by time and by what is gained (docs/performance.md).

    Args:
        first: uint8 `[h, w]`, luma.
        second: The same shape.

    Returns:
        float32 `[h, w, 2]`, offsets x and y in pixels.
    """
    # OpenCV's objects are of one thread each.
    if not hasattr(_of_thread, "method"):
        preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        _of_thread.method = cv2.DISOpticalFlow.create(preset)
    return _of_thread.method.calc(first, second, np.zeros((*first.shape, 2), "f4"))


_of_thread = threading.local()


class Flows:
    """Optical flows of the frames at hand; a context that ends with its threads.

    Args:
        scale: Largest scale of the frames that flow is computed on.
        estimate: Computes them, as `optical_flow` does; called by several threads.
    """

    def __init__(self, scale: float = HALF, estimate: Estimate = optical_flow) -> None:
        self._scale = scale
        self._estimate = estimate
        # One flow keeps several cores busy.
        threads = max(1, min(4, (os.cpu_count() or 1) // 2))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="optical_flow")
        self._small: dict[Frame, Future[np.ndarray]] = {}
        self._flows: dict[tuple[Frame, Frame], Future[Flow]] = {}

    def __enter__(self) -> Flows:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, first: Frame, second: Frame) -> None:
        """Let threads compute the flows between two frames, both ways, unless they have."""
        for one, other in ((first, second), (second, first)):
            if (one, other) not in self._flows:
                smalls = self._shrunk(one), self._shrunk(other)
                self._flows[one, other] = self._pool.submit(self._computed, *smalls)

    def between(self, first: Frame, second: Frame) -> Flow:
        """Return where each position of `first` is in `second`."""
        self.start(first, second)
        return self._flows[first, second].result()

    def forget(self, frame: Frame) -> None:
        """Let go of what concerns a frame."""
        self._small.pop(frame, None)
        self._flows = {pair: flow for pair, flow in self._flows.items() if frame not in pair}

    def _shrunk(self, frame: Frame) -> Future[np.ndarray]:
        if frame not in self._small:
            self._small[frame] = self._pool.submit(
                _shrunk, _downloading(frame.luma), self._scale
            )
        return self._small[frame]

    def _computed(self, first: Future[np.ndarray], second: Future[np.ndarray]) -> Flow:
        # Threads take work in order: what this waits for is done or under way.
        return Flow(self._estimate(first.result(), second.result()))


def _downloading(luma: Tensor) -> Callable[[], np.ndarray]:
    """Start to copy to the host; what is returned waits for the end of it."""
    if luma.device.type != "cuda":
        host = luma.cpu().numpy()
        return lambda: host
    copy = luma.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(luma.device).record_event()

    def wait() -> np.ndarray:
        copied.synchronize()
        return copy.numpy()

    return wait


def _shrunk(downloaded: Callable[[], np.ndarray], largest: float) -> np.ndarray:
    luma = downloaded()
    height, width = luma.shape
    scale = min(largest, math.sqrt(FLOW_PIXELS / (height * width)))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    # Noise and compression mislead the flow more than the loss of fine detail does.
    return cv2.GaussianBlur(small, (0, 0), 1.0)
