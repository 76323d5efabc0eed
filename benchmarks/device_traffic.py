"""What borrowing moves between host and device per frame, counted without a device.

    python -m video_deblur.benchmarks.device_traffic --data CLIP.mp4

Frames are tensors of the CPU that pretend to be on a device: whatever copies them, or reads a
value of them so that the host would wait, is counted, and what mixes both is refused. A GPU's
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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..restoration.borrowing.passes import borrow_stream
from .clips import parse_size, read_frames

DEVICE = torch.device("meta")
"""What the pretended device is called: PyTorch looks for no driver of it."""
COUNTED = ("waits", "uploads", "downloads", "MB up", "MB down", "optical flows")
_READS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero"}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Count what borrowing moves per frame.")
    parser.add_argument("--data", required=True, help="a video, enlarged to the size")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=12)
    args = parser.parse_args()
    pixels = read_frames(args.data, *parse_size(args.size), args.frames)
    frames = torch.from_numpy(np.stack(pixels)).float() / 255
    counts = count_borrowing(frames)
    print(f"borrowing, per frame of {args.size}, {len(frames)} frames")
    for name in COUNTED:
        print(f"{name:20}{counts[name] / len(frames):8.2f}")


def count_borrowing(frames: Tensor) -> defaultdict[str, float]:
    """Count what borrowing within `[T, H, W, 3]` moves, with frames that lie on the device."""
    with PretendedDevice() as device, _counted_flows(device.counts):
        on_device = frames.to(DEVICE)
        device.counts.clear()
        for pixels in borrow_stream(iter(on_device), DEVICE):
            # Read no sooner than by whoever blends it, which is not counted here.
            del pixels
    return device.counts


class _OnDevice(Tensor):
    """A tensor of the CPU, `host`, that pretends to be on the device."""

    host: Tensor

    def __new__(cls, host: Tensor) -> _OnDevice:
        return Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
        )

    def __init__(self, host: Tensor) -> None:
        self.host = host

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} outside of the pretended device")


class PretendedDevice(TorchDispatchMode):
    """Let operations on the device compute on the CPU, and count what passes between."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: defaultdict[str, float] = defaultdict(float)
        """Per name of `COUNTED`."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = {id(x.host): x for x in tensors if isinstance(x, _OnDevice)}
        name = func._schema.name.removeprefix("aten::")
        target = kwargs.get("device")
        here = target == DEVICE or (bool(known) and target is None)
        if name == "copy_":
            here = isinstance(args[0], _OnDevice)
        if name in ("_to_copy", "copy_"):
            self._count_copy(args[name == "copy_"], here)
        elif known and any(x.ndim and not isinstance(x, _OnDevice) for x in tensors):
            raise RuntimeError(f"{func} mixes tensors of the host and of the device")
        self.counts["waits"] += bool(known) and name in _READS
        if target == DEVICE:
            kwargs["device"] = torch.device("cpu")
        result = func(*tree_map(_host, args), **tree_map(_host, kwargs))
        if not here:
            return result

        def on_device(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            # An operation in place returns what it was given.
            return known[id(value)] if id(value) in known else _OnDevice(value)

        return tree_map(on_device, result)

    def _count_copy(self, source: Tensor, here: bool) -> None:
        if here == isinstance(source, _OnDevice):
            return
        megabytes = source.numel() * source.element_size() / 1e6
        self.counts["uploads" if here else "downloads"] += 1
        self.counts["MB up" if here else "MB down"] += megabytes


def _host(value: Any) -> Any:
    return value.host if isinstance(value, _OnDevice) else value


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
