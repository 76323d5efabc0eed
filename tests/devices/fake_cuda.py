"""PyTorch's fake tensors as CUDA tensors: shapes, dtypes and devices without values.

They pass through the checks that CUDA's operations make of dtypes, memory formats and devices,
autocast included, whatever their size. Anything that reads a value back cannot run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from video_deblur.benchmarks.pretended_device import clear_caches


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Let "cuda" be a device of fake tensors, with bfloat16. CPU tensors become fake ones."""
    clear_caches()
    amp, cuda = torch.cuda.amp.common, torch.cuda
    real = amp.amp_definitely_not_available, cuda.is_bf16_supported
    amp.amp_definitely_not_available = lambda: False
    cuda.is_bf16_supported = lambda including_emulation=True: True
    # Parameters cannot take over a tensor of another kind.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        amp.amp_definitely_not_available, cuda.is_bf16_supported = real
        clear_caches()


def moved(module: nn.Module, **where: object) -> nn.Module:
    """Move a network inside `fake_cuda`."""
    return module.to(**{"device": "cuda", **where})
