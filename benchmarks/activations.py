"""Working memory of the UNet, counted and not measured: what ComfyUI's estimate rests on.

    python -m video_deblur.benchmarks.activations

Runs the networks on PyTorch's meta device, which knows shapes but computes nothing, and adds up
the tensors that are alive at once. Attention counts with its result alone, as fused kernels
need no scores; workspaces of kernels, fragmentation and weights are not counted.
"""

from __future__ import annotations

import argparse
import weakref
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..models.bundled import DEFAULT_DIFFUSION
from ..models.checkpoint import read_info
from ..models.config import UNet3DConfig
from ..models.unet3d import UNet3D

_LATENT_BYTES = 4


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Count the UNet's working memory.")
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    args = parser.parse_args()
    configs = {
        "public layout, full size": UNet3DConfig(in_channels=8),
        "bundled": read_info(DEFAULT_DIFFUSION).config.unet,
    }
    print("| network | frames | latents | alive at most | bytes per value | factor |")
    print("|---|---|---|---|---|---|")
    for name, config in configs.items():
        for num_frames in args.frames:
            for size in args.sizes:
                peak = count_activations(config, num_frames, size)
                positions = num_frames * size * size
                each = peak / (positions * config.block_channels[0])
                # ComfyUI's estimate: area * dtype size * 0.01 * factor, in MiB.
                factor = peak / 2**20 / (positions * _LATENT_BYTES * 0.01)
                print(
                    f"| {name} | {num_frames} | {size}x{size} | {peak / 2**20:.0f} MiB | "
                    f"{each:.0f} | {factor:.2f} |"
                )


def count_activations(config: UNet3DConfig, num_frames: int, size: int) -> int:
    """Return the bytes of float32 tensors that are alive at once, at most, in one pass.

    Args:
        config: Of the network.
        num_frames: T of the latents `[1, C, T, size, size]`.
        size: Latent positions, both ways.
    """
    with torch.device("meta"):
        network = UNet3D(config).eval().requires_grad_(False)
        x = torch.empty(1, config.in_channels, num_frames, size, size)
        context = torch.empty(1, 4, config.context_dim)
        timesteps = torch.empty(1)
    with torch.no_grad(), _FusedAttention(), Alive() as alive:
        network(x, timesteps, context)
    return alive.peak


class _FusedAttention(TorchFunctionMode):
    """Let attention give an empty result: on the meta device it would show its scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class Alive(TorchDispatchMode):
    """Add up the memory of tensors that operations make, until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._bytes = 0
        self._views: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for tensor in tree_leaves(out):
            # Views count while their tensor is one of ours; inputs and weights never do.
            if isinstance(tensor, Tensor) and (
                self._views[_storage(tensor)] or _storage(tensor) not in given
            ):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage, size = _storage(tensor), tensor.untyped_storage().nbytes()
        if not self._views[storage]:
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
        self._views[storage] += 1
        weakref.finalize(tensor, self._remove, storage, size)

    def _remove(self, storage: int, size: int) -> None:
        self._views[storage] -= 1
        if not self._views[storage]:
            self._bytes -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


if __name__ == "__main__":
    main()
