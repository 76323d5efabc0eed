"""The published graph of MAXIM, node by node in torch: a reference, slow on purpose.

TensorFlow.js packages hold a graph of small operations and its constants. Here each node is
run as it stands, so that results depend on nothing in `models/maxim.py`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_DTYPES = {
    "DT_FLOAT": torch.float32,
    "DT_INT32": torch.int32,
    "DT_INT64": torch.int64,
    "DT_BOOL": torch.bool,
}
Attributes = dict[str, Any]


class PublishedGraph:
    """The network as published.

    Args:
        package: The folder of the unpacked package, or that of its `model.json`.
    """

    def __init__(self, package: Path) -> None:
        folder = package if (package / "model.json").is_file() else package / "models"
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self._nodes = {node["name"]: _Node(node) for node in model["modelTopology"]["node"]}
        self._constants: dict[str, Tensor] = {}
        for group in model["weightsManifest"]:
            data = b"".join((folder / path).read_bytes() for path in group["paths"])
            start = 0
            for entry in group["weights"]:
                dtype, count = np.dtype(entry["dtype"]), math.prod(entry["shape"])
                values = np.frombuffer(data, dtype, count, start).reshape(entry["shape"])
                self._constants[entry["name"]] = torch.from_numpy(values.copy())
                start += count * dtype.itemsize
        self._input = next(n for n, node in self._nodes.items() if node.kind == "Placeholder")
        output = next(iter(model["signature"]["outputs"].values()))["name"].partition(":")[0]
        self._order = self._needed(output)
        self._output = output

    def _needed(self, output: str) -> list[str]:
        """Return the nodes that a node needs, each after its inputs."""
        order: list[str] = []
        known: set[str] = set()
        waiting = [(output, False)]
        while waiting:
            name, inputs_done = waiting.pop()
            if inputs_done:
                order.append(name)
            elif name not in known:
                known.add(name)
                waiting.append((name, True))
                waiting += [(source, False) for source in self._nodes[name].inputs]
        return order

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Tensor:
        """Restore frames `[B, 3, H, W]` in 0..1; H and W must be multiples of 64."""
        uses: dict[str, int] = {}
        for name in self._order:
            for source in self._nodes[name].inputs:
                uses[source] = uses.get(source, 0) + 1
        values = {self._input: frames.permute(0, 2, 3, 1)}
        for name in self._order:
            node = self._nodes[name]
            if node.kind == "Const":
                values[name] = self._constants[name]
            elif node.kind != "Placeholder":
                inputs = (values[source] for source in node.inputs)
                values[name] = _OPERATIONS[node.kind](node.attributes, *inputs)
            for source in node.inputs:
                uses[source] -= 1
                if not uses[source]:
                    values.pop(source, None)
        return values[self._output].permute(0, 3, 1, 2)


class _Node:
    def __init__(self, node: dict[str, Any]) -> None:
        self.kind: str = node["op"]
        sources = (name for name in node.get("input", []) if not name.startswith("^"))
        self.inputs = [name.partition(":")[0] for name in sources]
        self.attributes = {
            name: _plain(value)
            for name, value in node.get("attr", {}).items()
            if name not in ("value", "shape")
        }


def _plain(attribute: dict[str, Any]) -> Any:
    """Return an attribute as a Python value."""
    kind, value = next(iter(attribute.items()))
    if kind == "s":
        return base64.b64decode(value).decode()
    if kind == "type":
        return _DTYPES.get(value)
    if kind == "list":
        return [int(number) for number in value.get("i", [])]
    return int(value) if kind == "i" else value


def _numbers(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.reshape(-1)]


def _conv2d(given: Attributes, x: Tensor, kernel: Tensor) -> Tensor:
    size, stride = kernel.shape[0], given["strides"][1]
    pads = [0, 0, 0, 0]
    if given["padding"] == "SAME":
        for axis in (1, 2):
            length = x.shape[axis]
            total = max((-(-length // stride) - 1) * stride + size - length, 0)
            pads[4 - 2 * axis : 6 - 2 * axis] = [total // 2, total - total // 2]
    planes = F.pad(x.permute(0, 3, 1, 2), pads)
    return F.conv2d(planes, kernel.permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)


def _transposed_conv2d(given: Attributes, size: Tensor, kernel: Tensor, x: Tensor) -> Tensor:
    planes = F.conv_transpose2d(
        x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=given["strides"][1]
    )
    assert [planes.shape[i] for i in (0, 2, 3, 1)] == _numbers(size)
    return planes.permute(0, 2, 3, 1)


def _slice(given: Attributes, x: Tensor, begin: Tensor, end: Tensor, step: Tensor) -> Tensor:
    def has(mask: str, axis: int) -> bool:
        return bool((given.get(mask) or 0) >> axis & 1)

    index: list[Any] = []
    limits = zip(_numbers(begin), _numbers(end), _numbers(step), strict=True)
    for axis, (first, last, by) in enumerate(limits):
        if has("ellipsis_mask", axis):
            index.append(...)
        elif has("new_axis_mask", axis):
            index.append(None)
        elif has("shrink_axis_mask", axis):
            index.append(first)
        else:
            start = None if has("begin_mask", axis) else first
            index.append(slice(start, None if has("end_mask", axis) else last, by))
    return x[tuple(index)]


def _gather(given: Attributes, x: Tensor, indices: Tensor, axis: Tensor) -> Tensor:
    where = int(axis)
    taken = x.index_select(where, indices.reshape(-1).long())
    return taken.reshape(*x.shape[:where], *indices.shape, *x.shape[where + 1 :])


def _squeeze(given: Attributes, x: Tensor) -> Tensor:
    return x.squeeze(tuple(given["squeeze_dims"])) if given.get("squeeze_dims") else x.squeeze()


def _sum(given: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    if not axes.numel():
        return x
    return x.sum(_numbers(axes), keepdim=bool(given.get("keep_dims")), dtype=x.dtype)


def _plainly(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operation that has no attributes."""
    return lambda given, *inputs: function(*inputs)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Conv2D": _conv2d,
    "Conv2DBackpropInput": _transposed_conv2d,
    "StridedSlice": _slice,
    "GatherV2": _gather,
    "Squeeze": _squeeze,
    "Sum": _sum,
    "Einsum": lambda given, *inputs: torch.einsum(given["equation"], *inputs),
    "Cast": lambda given, x: x.to(given["DstT"]),
    "Pack": lambda given, *inputs: torch.stack(inputs, given.get("axis") or 0),
    "Mul": _plainly(torch.mul),
    "AddV2": _plainly(torch.add),
    "Sub": _plainly(torch.sub),
    "RealDiv": _plainly(torch.div),
    "Square": _plainly(torch.square),
    "Rsqrt": _plainly(torch.rsqrt),
    "Maximum": _plainly(torch.maximum),
    "Minimum": _plainly(torch.minimum),
    "Tanh": _plainly(torch.tanh),
    "Abs": _plainly(torch.abs),
    "Neg": _plainly(torch.neg),
    "Exp": _plainly(torch.exp),
    "Floor": _plainly(torch.floor),
    "Sign": _plainly(torch.sign),
    "Reciprocal": _plainly(torch.reciprocal),
    "GreaterEqual": _plainly(torch.ge),
    "LessEqual": _plainly(torch.le),
    "Greater": _plainly(torch.gt),
    "Less": _plainly(torch.lt),
    "NotEqual": _plainly(torch.ne),
    "LogicalAnd": _plainly(torch.logical_and),
    "FloorMod": _plainly(torch.remainder),
    "FloorDiv": _plainly(torch.floor_divide),
    "SelectV2": _plainly(torch.where),
    "Identity": _plainly(lambda x: x),
    "Reshape": _plainly(lambda x, shape: x.reshape(_numbers(shape))),
    "BroadcastTo": _plainly(lambda x, shape: x.expand(_numbers(shape))),
    "Transpose": _plainly(lambda x, order: x.permute(_numbers(order))),
    "ExpandDims": _plainly(lambda x, axis: x.unsqueeze(int(axis))),
    "Shape": _plainly(lambda x: torch.tensor(x.shape, dtype=torch.int32)),
    "ConcatV2": _plainly(lambda *inputs: torch.cat(inputs[:-1], int(inputs[-1]))),
    "Range": _plainly(
        lambda start, end, by: torch.arange(
            start.item(), end.item(), by.item(), dtype=start.dtype
        )
    ),
}
