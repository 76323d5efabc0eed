"""Our UNet beside diffusers' `UNet3DConditionModel`: same weights, same input, in turn.

    python -m video_deblur.benchmarks.unet_speed

Times a whole forward pass and, through hooks in the same passes, each kind of block. On a CPU
the time is the process's own, so that other work on the machine counts less; on a GPU it is
wall-clock time between synchronisations. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models import inference_layers
from ..models.attention import Transformer
from ..models.config import UNet3DConfig
from ..models.layers import Downsample, ResnetBlock, TemporalConvLayer, Upsample
from ..models.unet3d import UNet3D

WHOLE, REST = "whole forward", "the rest"
PARTS = {
    "conv_in": "of these, the first convolution",
    "attn2.to_k": "of these, keys and values of tokens",
    "attn2.to_v": "of these, keys and values of tokens",
}
"""What does not change from step to step, at least in part, by the ends of modules' names."""
_PART_KINDS = set(PARTS.values())
OURS: dict[type[nn.Module], str] = {
    ResnetBlock: "spatial resnet",
    TemporalConvLayer: "temporal convolutions",
    Downsample: "down, up sampling",
    Upsample: "down, up sampling",
}
"""Kinds of our blocks; transformers are told apart by what they attend to."""
THEIRS = {
    "ResnetBlock2D": "spatial resnet",
    "TemporalConvLayer": "temporal convolutions",
    "Transformer2DModel": "spatial transformer",
    "TransformerTemporalModel": "temporal transformer",
    "Downsample2D": "down, up sampling",
    "Upsample2D": "down, up sampling",
}
"""Kinds of diffusers' blocks, by the names of their classes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare our UNet with diffusers'.")
    parser.add_argument("--channels", type=int, nargs="+", default=[320, 640, 1280, 1280])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="latent positions, both ways")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    config = UNet3DConfig(in_channels=8, block_channels=tuple(args.channels))
    for name in args.dtypes:
        dtype = getattr(torch, name)
        ours, theirs = build(config, args.device, dtype)
        inputs = make_inputs(config, args.frames, args.size, args.device, dtype)
        seconds = compare(ours, theirs, inputs, args.runs)
        count = sum(p.numel() for p in ours.parameters()) / 1e6
        print(
            f"\n{count:.0f} M parameters, {args.frames} frames of {args.size}x{args.size} "
            f"latents, {name}, {args.device}, median of {args.runs}\n"
        )
        print("\n".join(table(seconds)), flush=True)


def build(config: UNet3DConfig, device: Any, dtype: torch.dtype) -> tuple[UNet3D, nn.Module]:
    """Return our network and diffusers' with the same random weights."""
    from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel

    torch.manual_seed(0)
    theirs = UNet3DConditionModel(
        in_channels=config.in_channels,
        block_out_channels=config.block_channels,
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.head_dim,
        norm_num_groups=config.norm_groups,
    )
    theirs = theirs.to(device, dtype).eval().requires_grad_(False)
    with torch.device("meta"):
        ours = UNet3D(config, dtype=dtype, operations=inference_layers)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return ours.eval().requires_grad_(False), theirs


def make_inputs(
    config: UNet3DConfig, num_frames: int, size: int, device: Any, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, a timestep and four image tokens, random."""
    x = torch.randn(1, config.in_channels, num_frames, size, size)
    tokens = torch.randn(1, 4, config.context_dim)
    return x.to(device, dtype), torch.tensor([500], device=device), tokens.to(device, dtype)


@torch.no_grad()
def compare(
    ours: nn.Module, theirs: nn.Module, inputs: tuple[Tensor, Tensor, Tensor], runs: int
) -> dict[str, tuple[float, float]]:
    """Run both in turn, after a pass each that is not counted.

    Returns:
        Median seconds of ours and theirs by kind of block, and of the whole.
    """
    timers = Timer(ours, inputs[0].device), Timer(theirs, inputs[0].device)
    for _ in range(runs + 1):
        for timer in timers:
            timer.run(*inputs)
    ours_passes, their_passes = (timer.passes[1:] for timer in timers)
    return {
        kind: (
            statistics.median(one[kind] for one in ours_passes),
            statistics.median(one[kind] for one in their_passes),
        )
        for kind in ours_passes[0]
    }


class Timer:
    """Time the blocks of a network while it runs."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = network
        self.passes: list[dict[str, float]] = []
        self._now = clock(device)
        self._started: list[float] = []
        self._seconds: dict[str, float] = {}
        for name, module in network.named_modules():
            kind = kind_of(module) or part_of(name)
            if kind is not None:
                module.register_forward_pre_hook(self._start)
                module.register_forward_hook(self._stop(kind))

    def run(self, *inputs: Tensor) -> None:
        """Run the network once and add to `passes`."""
        self._seconds = defaultdict(float)
        started = self._now()
        self.network(*inputs)
        whole = self._now() - started
        rest = whole - sum(s for kind, s in self._seconds.items() if kind not in _PART_KINDS)
        self.passes.append({**self._seconds, REST: rest, WHOLE: whole})

    def _start(self, module: nn.Module, args: Any) -> None:
        self._started.append(self._now())

    def _stop(self, kind: str) -> Callable[..., None]:
        def stop(module: nn.Module, args: Any, output: Any) -> None:
            self._seconds[kind] += self._now() - self._started.pop()

        return stop


def kind_of(module: nn.Module) -> str | None:
    """Return what kind of block a module of either network is, None inside of blocks."""
    if isinstance(module, Transformer):
        return "spatial transformer" if module.spatial else "temporal transformer"
    for block, kind in OURS.items():
        if isinstance(module, block):
            return kind
    return THEIRS.get(type(module).__name__)


def part_of(name: str) -> str | None:
    """Return which of `PARTS` a module of either network is, by its name."""
    if name.startswith("transformer_in") or ".temp_attentions." in name:
        return None  # these attend to themselves twice
    return next((part for end, part in PARTS.items() if name.endswith(end)), None)


def table(seconds: dict[str, tuple[float, float]]) -> list[str]:
    """Return lines of a Markdown table: seconds of both, and how much faster ours is."""
    lines = ["| | ours | diffusers | ratio |", "|---|---|---|---|"]
    for kind, (ours, theirs) in sorted(seconds.items(), key=lambda item: _order(item[0])):
        lines.append(f"| {kind} | {ours:.3f} s | {theirs:.3f} s | {theirs / ours:.2f} |")
    return lines


def _order(kind: str) -> int:
    return 2 if kind in _PART_KINDS else 1 if kind in (REST, WHOLE) else 0


def clock(device: torch.device) -> Callable[[], float]:
    """Return what tells the time in seconds: the process's own, or after synchronising."""
    if device.type != "cuda":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


if __name__ == "__main__":
    main()
