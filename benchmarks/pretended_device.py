"""A device that is not there: its tensors are computed on the CPU, and refuse the CPU's.

Inside `PretendedDevice("cuda")` or `("mps")` tensors made on or moved to that device hold a
tensor of the CPU behind the other device's name. Whatever runs can read values back, which
PyTorch's fake tensors cannot, and fails where the device would:

- operations on tensors of both devices (but for CPU tensors without axes, indices, and copies),
- random numbers of a CPU generator made on the device, `.numpy()`, `np.asarray`,
- on "mps": float64, operations that PyTorch has no kernel for there (from the list that the
  installed PyTorch was made of), and `grid_sample` beyond what its kernel takes.

Not covered: results of the device's own kernels (rounding, TF32, atomics), limits of kernels on
sizes and memory layouts, asynchronous launches and errors, streams, memory that runs out,
autocast, other threads than the one that pretends, and what PyTorch's C++ decides by device
(cuDNN, attention kernels): it is told that these tensors are on "meta", a device whose tensors
need no driver.
"""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchgen
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_META = torch.device("meta")
_FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)
"""Functions that make tensors of values without asking a dispatch mode."""
_WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero"}
"""Operations for which the host waits."""
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Operations that take indices from the CPU, and copy them."""
_MOVING = {"_to_copy", "copy_"}
_NO_KERNEL_NEEDED = {"detach", "alias", "lift_fresh", "_fused_sdp_choice"}


class PretendedTensor(Tensor):
    """A tensor of the CPU, `host`, that names another device."""

    host: Tensor
    _device: torch.device

    @staticmethod
    def __new__(cls: type, host: Tensor, device: torch.device) -> PretendedTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=_META,
        )

    def __init__(self, host: Tensor, device: torch.device) -> None:
        self.host = host
        self._device = device

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._device

    @property
    def is_cuda(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._device.type == "cuda"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} outside of the pretended device")


class PretendedDevice(TorchDispatchMode):
    """Pretend that there is a device of one kind.

    Args:
        kind: "cuda" or "mps".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.counts: defaultdict[str, float] = defaultdict(float)
        """Of "uploads" and "downloads" of tensors, and of "waits" for a value."""
        self.megabytes: defaultdict[str, float] = defaultdict(float)
        """Of "uploads" and "downloads"."""
        self._patches = contextlib.ExitStack()
        self._functions = _Functions(self)

    def __enter__(self) -> PretendedDevice:
        clear_caches()
        self._real_generator = torch.Generator
        device_type = self.device.type

        class Generator(torch.Generator):
            """Remembers the device that it was made for."""

            def __new__(cls, device: Any = "cpu"):
                generator = super().__new__(cls, "cpu")  # pyright: ignore[reportCallIssue]
                generator.pretended = torch.device(device).type == device_type
                return generator

        torch.Generator = Generator
        # These need a driver.
        for owner, name, stand_in in (
            (torch.cuda, "current_stream", lambda device=None: _Stream()),
            (Tensor, "pin_memory", lambda tensor, device=None: tensor),
        ):
            self._patches.enter_context(mock.patch.object(owner, name, stand_in))
        # Parameters cannot take over a tensor of another kind.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        super().__enter__()
        self._functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        super().__exit__(*error)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch.Generator = self._real_generator
        self._patches.close()
        clear_caches()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        wrappers = {id(x.host): x for x in tensors if isinstance(x, PretendedTensor)}
        # Without a device the result is where the arguments are.
        device = kwargs.get("device")
        here = device == _META or (bool(wrappers) and device is None)
        if device == _META:
            kwargs["device"] = torch.device("cpu")
        if not wrappers and not here:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if name == "copy_":
            here = isinstance(args[0], PretendedTensor)
        if name in _MOVING:
            came_from_here = isinstance(args[name == "copy_"], PretendedTensor)
            if here != came_from_here:
                moved = args[name == "copy_"]
                way = "uploads" if here else "downloads"
                self.counts[way] += 1
                self.megabytes[way] += moved.numel() * moved.element_size() / 1e6
        else:
            self._check(func, name, args, tensors)
        if name == "_fused_sdp_choice":
            return 0  # attention from its parts
        result = func(*tree_map(_host, args), **tree_map(_host, kwargs))

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if self.device.type == "mps" and value.dtype in (torch.float64, torch.complex128):
                raise TypeError(f"{func}: MPS has no {value.dtype}")
            known = wrappers.get(id(value))
            return PretendedTensor(value, self.device) if known is None else known

        return tree_map(wrapped, result) if here else result

    def owns(self, device: Any) -> bool:
        """Tell whether a device, or its name, is this one."""
        return isinstance(device, str | torch.device) and (
            str(device).partition(":")[0] == self.device.type
        )

    def _check(self, func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
        """Raise what the device would."""
        strangers = [x for x in tensors if not isinstance(x, PretendedTensor) and x.ndim]
        if name in _INDEXING and isinstance(args[0], PretendedTensor):
            indices = [x for x in args[1] if isinstance(x, Tensor)]
            copied = [x for x in strangers if any(x is index for index in indices)]
            strangers = [x for x in strangers if not any(x is index for index in indices)]
            if copied:
                self.counts["uploads"] += len(copied)
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                self.counts["waits"] += 1
        if strangers:
            raise RuntimeError(
                f"{func}: expected all tensors to be on the same device, but found at least "
                f"two devices, {self.device} and cpu! (shape {list(strangers[0].shape)})"
            )
        if name in _WAITING:
            self.counts["waits"] += 1
        if self.device.type == "mps" and name not in _NO_KERNEL_NEEDED:
            _check_mps(func, name, args)


class _Stream:
    """A stream, and an event of it, on which everything is done already."""

    def record_event(self) -> _Stream:
        return self

    def synchronize(self) -> None: ...


class _Functions(TorchFunctionMode):
    """Catches what reaches no dispatch mode, and names the device that C++ knows."""

    def __init__(self, mode: PretendedDevice) -> None:
        super().__init__()
        self._mode = mode

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        owns = self._mode.owns
        if func in _FROM_VALUES and owns(kwargs.get("device")):
            more = {**kwargs, "device": "cpu"}
            first = args[0].cpu() if isinstance(args[0], PretendedTensor) else args[0]
            return func(first, *args[1:], **more).to(_META)
        if func is Tensor.new_tensor and isinstance(args[0], PretendedTensor):
            dtype = kwargs.get("dtype", args[0].dtype)
            return torch.tensor(args[1], dtype=dtype).to(_META)
        if func is Tensor.tolist and isinstance(args[0], PretendedTensor):
            self._mode.counts["waits"] += 1
            return args[0].host.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(
            args[0], PretendedTensor
        ):
            args = (args[0], _listed(args[1]), *args[2:])
        generator = kwargs.get("generator")
        if generator is not None:
            here = isinstance(args[0], PretendedTensor) or owns(kwargs.get("device"))
            if here != getattr(generator, "pretended", False):
                raise RuntimeError(f"{func}: the generator is of another device")
        if func is Tensor.to or "device" in kwargs:
            args = tuple(_META if owns(value) else value for value in args)
            kwargs = {n: _META if owns(value) else value for n, value in kwargs.items()}
        return func(*args, **kwargs)


def clear_caches() -> None:
    """Forget what the package keeps by device: it must not outlive a pretended one."""
    for name, module in list(sys.modules.items()):
        if name.startswith("video_deblur."):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _listed(index: Any) -> Any:
    """Make tensors of the lists of an index: PyTorch would leave them out on "meta"."""
    if isinstance(index, tuple):
        return tuple(map(_listed, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _host(value: Any) -> Any:
    return value.host if isinstance(value, PretendedTensor) else value


def _check_mps(func: Any, name: str, args: Any) -> None:
    if not _has_mps_kernel(name, func._schema.overload_name):
        raise NotImplementedError(f"{func} is not implemented for the MPS device")
    if name == "grid_sampler_2d":
        # aten/src/ATen/native/mps/operations/GridSampler.mm of PyTorch 2.9.
        if args[2] == 2:
            raise RuntimeError("MPS: unsupported bicubic interpolation")
        if args[3] == 1:
            raise RuntimeError("MPS: unsupported border padding mode")


@cache
def _has_mps_kernel(name: str, overload: str) -> bool:
    """Read PyTorch's own list: kernels by device, or those that serve every device."""
    kernels, delegate = _native_functions()[f"{name}.{overload}" if overload else name]
    if delegate:
        return _has_mps_kernel(*delegate.split(".", 1))
    return not kernels or "MPS" in kernels or "Composite" in kernels


@cache
def _native_functions() -> dict[str, tuple[str, str]]:
    """Return each operation's kernels, as text, and the operation it leaves them to."""
    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    found = {}
    for entry in path.read_text(encoding="utf-8").split("\n- func: ")[1:]:
        name = entry[: entry.index("(")]
        _, _, delegate = entry.partition("  structured_delegate: ")
        _, _, kernels = entry.partition("  dispatch:\n")
        found[name] = (kernels, delegate.split("\n")[0].strip())
    return found
