"""Time our deformable convolution, made of `grid_sample`, beside torchvision's operator.

    python -m video_deblur.benchmarks.deformable_convolution

Same input, offsets and weights, on one thread, in turn; processor time, medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from ..models.cpgd_alignment import deform_conv


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time deformable convolutions.")
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--groups", type=int, default=8, help="of channels, by offsets")
    parser.add_argument("--size", type=int, default=32, help="of the maps, both ways")
    parser.add_argument("--maps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    from torchvision.ops import deform_conv2d

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    size = (args.size, args.size)
    x = drawn(args.maps, args.channels, *size)
    offsets = drawn(args.maps, args.groups, 9, 2, *size)
    weights = drawn(args.maps, args.groups, 9, *size)
    kernel = drawn(args.channels // 2, args.channels, 3, 3)

    def theirs() -> Tensor:
        # Torchvision has y before x.
        moved = rearrange(offsets.flip(3), "n g k xy h w -> n (g k xy) h w")
        mask = rearrange(weights, "n g k h w -> n (g k) h w")
        return deform_conv2d(x, moved, kernel, padding=(1, 1), mask=mask)

    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: deform_conv(x, offsets, weights, kernel, None),
        "torchvision": theirs,
    }
    torch.testing.assert_close(ways["ours"](), theirs(), rtol=1e-4, atol=1e-3)
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for index in range(args.runs + 1):
        for way, run in ways.items():
            started = time.process_time()
            result = run()
            forwards = time.process_time()
            result.sum().backward()
            if index:
                seconds[way].append((forwards - started, time.process_time() - forwards))
    print("| | forwards | backwards |\n|---|---|---|")
    for way, runs in seconds.items():
        there, back = (1000 * statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {way} | {there:.0f} ms | {back:.0f} ms |")


if __name__ == "__main__":
    main()
