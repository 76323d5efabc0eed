"""Layers for networks that are only run: `torch.nn`'s, with faster kernels on CPUs.

A namespace of layer classes as `layers` describes: parameters and results are those of
`torch.nn`, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .hardware import multiplies_bfloat16

_FEW_POSITIONS = 1024
"""Up to as many, float32 convolutions are faster on channels in the second axis: oneDNN turns
the weights into its own order at each call, which costs more from the channels-last side
(1280 channels, one core: 140 against 192 GFLOP/s at 1024 positions, 58 against 116 at 256)."""
_FEW_POSITIONS_HALF = 256
"""The same in half precision (190 against 324 GFLOP/s at 256; no gain at 1024)."""


def _find_onednn_linear() -> Callable[..., Tensor] | None:
    """Return what `torch.compile` makes of linear layers on CPUs, where it works here.

    It is not part of PyTorch's public interface.
    """
    # No random numbers, which would move the program's generator.
    x, weight, bias = torch.ones(2, 3), torch.arange(12.0).reshape(4, 3), torch.arange(4.0)
    expected = nn.functional.linear(x, weight, bias)
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        result = linear(x, weight, bias, "none", [], "")
        with_gelu = linear(x, weight, bias, "gelu", [], "tanh")
    except (AttributeError, RuntimeError, TypeError):
        return None
    same = torch.allclose(result, expected, atol=1e-5) and torch.allclose(
        with_gelu, nn.functional.gelu(expected, approximate="tanh"), atol=1e-5
    )
    return linear if same else None


_ONEDNN_LINEAR = _find_onednn_linear()
_BFLOAT16 = multiplies_bfloat16(torch.device("cpu"))


class Linear(nn.Linear):
    """A linear layer whose float32 product is oneDNN's on CPUs.

    `torch.nn.Linear` calls MKL there, which has half the rate on an AMD EPYC (88 against 170 to
    210 GFLOP/s on one core); in half precision both call oneDNN.
    """

    def forward(self, input: Tensor) -> Tensor:
        if _ONEDNN_LINEAR is None or self._onednn_dtype(input) != torch.float32:
            return super().forward(input)
        return _ONEDNN_LINEAR(input, self.weight, self.bias, "none", [], "")

    def with_gelu(self, input: Tensor) -> Tensor:
        """Apply the layer and the tanh form of GELU, in one pass on CPUs.

        Alone, GELU takes twice as long there as a layer of 32 channels.
        """
        dtype = self._onednn_dtype(input)
        if _ONEDNN_LINEAR is None or dtype is None:
            return nn.functional.gelu(self(input), approximate="tanh")
        bias = None if self.bias is None else self.bias.to(dtype)
        return _ONEDNN_LINEAR(input.to(dtype), self.weight.to(dtype), bias, "gelu", [], "tanh")

    def _onednn_dtype(self, input: Tensor) -> torch.dtype | None:
        """Return what oneDNN would compute in on a CPU, None where it must not be called.

        That is float32, or bfloat16 under autocast, without gradients.
        """
        needs_gradient = input.requires_grad or self.weight.requires_grad
        if (
            input.device.type != "cpu"
            or not input.numel()
            or torch.compiler.is_compiling()  # it makes the same of a plain layer
            or (needs_gradient and torch.is_grad_enabled())
        ):
            return None
        if torch.is_autocast_enabled("cpu"):
            half = torch.get_autocast_dtype("cpu") == torch.bfloat16 and _BFLOAT16
            # Autocast leaves double precision as it is.
            double = torch.float64 in (input.dtype, self.weight.dtype)
            return torch.bfloat16 if half and not double else None
        return torch.float32 if input.dtype == self.weight.dtype == torch.float32 else None


class Conv2d(nn.Conv2d):
    """A 2-D convolution that takes the memory order with the faster kernel on CPUs."""

    def forward(self, input: Tensor) -> Tensor:
        if not self._is_faster_with_channels_first(input):
            return super().forward(input)
        out = super().forward(input.contiguous())
        return out.contiguous(memory_format=torch.channels_last)

    def _is_faster_with_channels_first(self, input: Tensor) -> bool:
        half = self.weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        positions = input.shape[0] * input.shape[2] * input.shape[3]
        return (
            input.device.type == "cpu"
            and self.kernel_size != (1, 1)
            and positions <= (_FEW_POSITIONS_HALF if half else _FEW_POSITIONS)
            and input.is_contiguous(memory_format=torch.channels_last)
            and not input.is_contiguous()
        )


Conv3d = nn.Conv3d
BatchNorm2d = nn.BatchNorm2d
GroupNorm = nn.GroupNorm
LayerNorm = nn.LayerNorm
Embedding = nn.Embedding
