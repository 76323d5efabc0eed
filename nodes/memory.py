"""Having ComfyUI make room for the networks and their work (`models/hardware.py`)."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from .progress import uninterrupted


def make_patcher(network: Any, load_device: Any, offload_device: Any) -> Any:
    """Wrap a network in this version's ModelPatcher."""
    stop_when_cancelled(network)
    module = comfy.model_patcher
    # Newer versions stream weights through their own class where the device allows.
    patcher_class = getattr(module, "CoreModelPatcher", module.ModelPatcher)
    return patcher_class(network, load_device=load_device, offload_device=offload_device)


def stop_when_cancelled(network: nn.Module) -> None:
    """Have a network end at its next layer when the user cancels.

    Newer versions look by themselves in each of their layers. Without, a piece of work is
    computed to its end: 23 s of 640x360 on two busy cores.
    """
    for module in network.modules():
        if next(module.children(), None) is None:
            module.register_forward_pre_hook(_raise_if_cancelled)


def _raise_if_cancelled(module: nn.Module, inputs: Any) -> None:
    # A compiled network would be cut in two here.
    if not torch.compiler.is_compiling():
        comfy.model_management.throw_exception_if_processing_interrupted()


def load_to_device(
    patchers: list[Any], memory_bytes: float, upscale_model: Any | None = None
) -> None:
    """Have ComfyUI load networks and keep `memory_bytes` free for the work.

    Without networks room is made on the device that ComfyUI computes on. An UPSCALE_MODEL is
    loaded whole, as its layers take no weights from elsewhere.
    """
    manage = comfy.model_management
    with uninterrupted():
        if upscale_model is not None:
            patcher = _upscale_patcher(upscale_model)
            if patcher is None:
                _move_upscale_model(upscale_model, memory_bytes)
            else:
                manage.load_models_gpu([patcher], memory_bytes, force_full_load=True)
                # Named again, so that it is not unloaded for the others.
                patchers = [*patchers, patcher]
        if patchers:
            manage.load_models_gpu(patchers, memory_required=memory_bytes)
        else:
            # Asked to load nothing, ComfyUI makes no room on any device.
            wanted = memory_bytes + manage.extra_reserved_memory()
            manage.free_memory(wanted, manage.get_torch_device())


def upscale_device(model: Any) -> torch.device:
    """Return the device that an UPSCALE_MODEL computes on."""
    patcher = _upscale_patcher(model)
    if patcher is None:
        return comfy.model_management.get_torch_device()
    return patcher.load_device


def unload_upscale_model(model: Any) -> None:
    """Take an UPSCALE_MODEL off its device where ComfyUI does not."""
    if _upscale_patcher(model) is None:
        with uninterrupted():
            model.to("cpu")


def _upscale_patcher(model: Any) -> Any | None:
    """Return the patcher of an UPSCALE_MODEL; older versions have none."""
    return getattr(model, "patcher", None)


def _move_upscale_model(model: Any, memory_bytes: float) -> None:
    manage, device = comfy.model_management, upscale_device(model)
    if model.device != device:
        manage.free_memory(manage.module_size(model.model) + memory_bytes, device)
        model.to(device)
