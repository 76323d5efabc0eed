"""What `gpu_report` measures of a device and the network, each a part of its own."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models import inference_layers
from ..models.checkpoint import read_info
from ..models.config import DivdConfig, UNet3DConfig
from ..models.hardware import choose_device, multiplies_bfloat16, unet_bytes
from ..models.precision import exact_float32
from ..models.unet3d import UNet3D
from ..restoration.diffusion import Deblurrer
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings
from .activations import Alive
from .gpu_pictures import moving_frames
from .unet_speed import build, clock, compare, make_inputs

_FLOAT8 = "float8_e4m3fn"


def device(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Describe the machine."""
    chosen = choose_device(args.device)
    values: dict[str, Any] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": chosen.type,
    }
    if chosen.type == "cuda":
        properties = torch.cuda.get_device_properties(chosen)
        values |= {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": list(torch.cuda.get_device_capability(chosen)),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return values


def matrix_products(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Measure the rate of square matrix products by dtype, and training's share of it."""
    device = choose_device(args.device)
    rates, unknown = {}, {}
    for name in ("float32", "tf32", "float16", "bfloat16", _FLOAT8):
        try:
            rates[name] = product_rate(name, args.product_size, device) / 1e12
        except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
            unknown[name] = str(error).splitlines()[0]
    result: dict[str, Any] = {"tflops": rates, "size": args.product_size, "unknown": unknown}
    trained = done.get("training", {}).get("tflops")
    if trained is not None:
        peak = "bfloat16" if multiplies_bfloat16(device) else "float32"
        result |= {"training_compared_with": peak, "training_share": trained / rates[peak]}
    return result


def product_rate(name: str, size: int, device: torch.device) -> float:
    """Return the operations per second of a product of two random matrices.

    Args:
        name: A dtype, or "tf32": float32 with factors rounded to 10 bits.
        size: Rows and columns.
        device: Where to compute.

    Raises:
        ValueError: If the device has no such product.
    """
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    if name == _FLOAT8:
        if device.type != "cuda":
            raise ValueError("float8 is multiplied on GPUs alone")
        small = torch.float8_e4m3fn
        # Its second factor is wanted column by column.
        a, b = left.to(small), right.to(small).t().contiguous().t()
        scale = torch.ones((), device=device)

        def product() -> Any:
            return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
                a, b, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16
            )

    else:
        dtype = getattr(torch, "float32" if name == "tf32" else name)
        if name == "tf32" and device.type != "cuda":
            raise ValueError("TF32 is of GPUs alone")
        a, b = left.to(dtype), right.to(dtype)

        def product() -> Any:
            return a @ b

    now = _clock(device)
    with _tf32() if name == "tf32" else exact_float32():
        times = []
        for _ in range(12):
            started = now()
            product()
            times.append(now() - started)
    # The first ones look for kernels and raise the clock.
    return 2 * size**3 / statistics.median(times[2:])


@contextmanager
def _tf32() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    # As `exact_float32`: PyTorch refuses to read the old setting once the new one was used.
    name, rounded = (
        ("fp32_precision", "tf32")
        if hasattr(matmul, "fp32_precision")
        else ("allow_tf32", True)
    )
    before = getattr(matmul, name)
    setattr(matmul, name, rounded)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def unet_beside_diffusers(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Time our UNet beside diffusers', by kind of block."""
    device = choose_device(args.device)
    config = UNet3DConfig(in_channels=8, block_channels=tuple(args.unet_channels))
    seconds = {}
    for dtype in _dtypes(device):
        ours, theirs = build(config, device, dtype)
        inputs = make_inputs(config, args.unet_frames, args.unet_size, device, dtype)
        times = compare(ours, theirs, inputs, 3)
        seconds[_name(dtype)] = {
            kind: {"ours": our, "diffusers": their, "ratio": their / our}
            for kind, (our, their) in times.items()
        }
        del ours, theirs
    return {"seconds": seconds, "frames": args.unet_frames, "latents": args.unet_size}


def memory(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Hold the peak bytes of a pass of the UNet against what is asked of ComfyUI for it."""
    device = choose_device(args.device)
    configs = {
        "checkpoint": read_info(args.init, config_type=DivdConfig).config.unet,
        "public layout": UNet3DConfig(in_channels=8, block_channels=tuple(args.unet_channels)),
    }
    rows = []
    for label, config in configs.items():
        for dtype in _dtypes(device):
            network = _random_unet(config, device, dtype)
            for size in (args.unet_size, 2 * args.unet_size):
                inputs = make_inputs(config, args.unet_frames, size, device, dtype)
                seconds, peak = _pass(network, inputs, device)
                positions = args.unet_frames * size * size
                asked = unet_bytes(config, positions, dtype)
                rows.append(
                    {
                        **{"network": label, "dtype": _name(dtype), "latents": size},
                        **{"frames": args.unet_frames, "seconds": seconds, "peak_bytes": peak},
                        **{"asked_bytes": asked, "peak_of_asked": peak / asked},
                    }
                )
            del network
    counted = "by the allocator" if device.type == "cuda" else "tensors alive, counted"
    return {"passes": rows, "peak_bytes_are": counted}


def _random_unet(config: UNet3DConfig, device: torch.device, dtype: torch.dtype) -> UNet3D:
    with device:
        network = UNet3D(config, dtype=dtype, operations=inference_layers)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def _pass(network: nn.Module, inputs: Any, device: torch.device) -> tuple[float, int]:
    """Return the seconds of a pass, and the bytes it takes beside weights and inputs."""
    network(*inputs)
    now = _clock(device)
    if device.type != "cuda":
        with Alive() as alive:
            started = now()
            network(*inputs)
            return now() - started, alive.peak
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    started = now()
    network(*inputs)
    return now() - started, torch.cuda.max_memory_allocated(device) - before


def precision(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Compare the network, and the frames it restores alone, by dtype with float32.

    float8: weights are kept in it, as ComfyUI can, and computed with in half precision.
    """
    device = choose_device(args.device)
    frames = (
        torch.from_numpy(
            np.stack(
                moving_frames(8, args.precision_size, args.precision_size, args.validation)
            )
        )
        / 255.0
    )
    with exact_float32():
        reference = _restored(args, device, "float32", frames)
    names = ["float16", "bfloat16", _FLOAT8] if device.type == "cuda" else ["bfloat16", _FLOAT8]
    rows = {}
    for name in names:
        output, restored = _restored(args, device, name, frames)
        error = output - reference[0]
        mean_square = float((restored - reference[1]).square().mean())
        rows[name] = {
            "network_relative_rms": float(error.std() / reference[0].std()),
            "network_largest": float(error.abs().max()),
            "frames_psnr_db": 10 * float(np.log10(1 / max(mean_square, 1e-12))),
            "frames_largest": float((restored - reference[1]).abs().max()),
        }
    return {"against_float32": rows, "frames": list(frames.shape)}


def _restored(
    args: argparse.Namespace, device: torch.device, name: str, frames: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the first output of the UNet, and the frames restored by the network alone."""
    half = "bfloat16" if multiplies_bfloat16(device) else "float32"
    engine = load_deblurrer(args.init, str(device), half if name == _FLOAT8 else name)
    assert isinstance(engine, Deblurrer)
    if name == _FLOAT8:
        for weight in engine.model.unet.parameters():
            if weight.ndim > 1:
                weight.copy_(weight.to(torch.float8_e4m3fn).to(weight.dtype))
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output.float().cpu())

    engine.model.unet.register_forward_hook(keep)
    settings = preset_settings(engine.config, "fast", borrow=False)
    restored = engine.restore(frames, settings)
    return outputs[0], restored


def _dtypes(device: torch.device) -> list[torch.dtype]:
    if device.type == "cuda":
        return [torch.float16, torch.bfloat16, torch.float32]
    return [torch.float32]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _clock(device: torch.device) -> Callable[[], float]:
    # The wall's: also on a CPU, whose products are shared among threads.
    return clock(device) if device.type == "cuda" else time.perf_counter
