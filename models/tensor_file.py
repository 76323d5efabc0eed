"""Safetensors files: the header checked before anything is read, tensors one by one.

Reading maps the file: what needs no conversion is never copied. Writing streams, so a file
may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from torch import Tensor

Shape = tuple[int, ...]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Dtypes of weights, by their names in the header."""

_LFS_START = b"version https://git-lfs"
"""What a file starts with that Git LFS left in place of the real one."""
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml")
"""What the answers of servers start with that did not send the file, in lower case."""

_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""
_GROUP_BYTES = 16 * 2**20
"""Bytes read through one mapping. Pages that were read count as memory until the mapping
goes, so that converting a file through a single one would take its size on top."""
_HASHED_BYTES = 2**20
"""Bytes that are read at once to hash a file."""
_CHECKED_VALUES = 2**15
"""Values that are cast at once to see whether they are finite. Pieces of 4 MiB left holes in
the heap that added 0.4 GB to a model of 4.3 GB (glibc 2.36); torch takes one thread for
pieces of this size, and waking two for each cost ten times the work."""


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint; the message says why and what to do."""


def check_start(path: Path) -> None:
    """Raise CheckpointError for what failed downloads leave in place of a file of weights."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"{path}: not a file of weights, it is empty. Download it again.")
    if start.startswith(_LFS_START):
        raise CheckpointError(
            f"{path}: a Git LFS pointer, not the weights. Run `git lfs pull`, or download it."
        )
    if start.lstrip().lower().startswith(_PAGE_STARTS):
        raise CheckpointError(f"{path}: a web page, not the weights. Download it again.")


def file_digest(path: Path) -> str:
    """Return a hash of all of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASHED_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file and compare it with the file's size.

    Returns:
        The header's JSON object: `__metadata__`, and an entry for each tensor, which may
        still be malformed.

    Raises:
        CheckpointError: If it is not a whole safetensors file.
    """
    check_start(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path}: not a valid safetensors file (its header claims {length} bytes, the "
                f"file has {size}), or truncated. Download it again."
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:  # not JSON, or a number too long
            raise CheckpointError(
                f"{path}: not a valid safetensors file (its header is not JSON). "
                f"Download it again."
            ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a valid safetensors file. Download it again.")
    ends = (entry["data_offsets"][1] for entry in header.values() if _is_tensor_entry(entry))
    end = 8 + length + max(ends, default=0)
    if end != size:
        raise CheckpointError(
            f"{path}: truncated or damaged: the header describes {end} bytes, the file has "
            f"{size}. Download it again."
        )
    return header


def described_tensors(path: Path, header: dict[str, Any]) -> dict[str, tuple[str, Shape]]:
    """Return storage dtype (as the header names it) and shape of each tensor.

    Args:
        path: For messages.
        header: What `read_header` gave, without `__metadata__`.

    Raises:
        CheckpointError: If an entry is malformed.
    """
    tensors = {}
    for name, entry in header.items():
        if not _is_tensor_entry(entry):
            raise CheckpointError(
                f"{path}: damaged: its header does not describe {name!r} properly. "
                f"Download it again."
            )
        tensors[name] = (str(entry["dtype"]), tuple(entry["shape"]))
    return tensors


def read_tensors(
    path: Path, tensors: Mapping[str, tuple[str, Shape]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a safetensors file as they are stored, mapped and not copied.

    Changing one in place copies its pages and leaves the file alone.

    Args:
        path: The file; must not be written into while its tensors are in use (replacing it
            is fine).
        tensors: Names, storage dtypes and shapes of what to read.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    for group in _groups(tensors):
        try:
            with safe_open(path, framework="pt") as file:
                read = [(name, file.get_tensor(name)) for name in group]
        except Exception as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}). Download it again."
            ) from error
        yield from read


def check_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise CheckpointError if a tensor has values that are not finite."""
    # In pieces: the cast copies, and the sum of finite values is finite for any sane weight;
    # isfinite() does not exist for float8.
    for piece in tensor.reshape(-1).split(_CHECKED_VALUES):
        if not torch.isfinite(piece.float().sum()):
            raise CheckpointError(
                f"{path}: weight {name!r} has values that are not finite. The file is "
                f"damaged or training diverged; use another."
            )


def write_tensors(
    path: Path,
    shapes: Mapping[str, Shape],
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    metadata: dict[str, str],
) -> None:
    """Write a safetensors file; it appears under its name only when it is complete.

    Args:
        path: Target, replaced if it exists.
        shapes: Names and shapes, in the order of `tensors`.
        tensors: Names and values, taken one at a time.
        dtype: Storage dtype, one of `DTYPES`.
        metadata: Texts for the header.
    """
    stored_as = next(name for name, value in DTYPES.items() if value == dtype)
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + count_values(shape) * dtype.itemsize
        header[name] = {"dtype": stored_as, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data
    with _replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, tensor), (expected, shape) in zip(tensors, shapes.items(), strict=True):
            assert (name, tuple(tensor.shape)) == (expected, shape)
            file.write(_as_bytes(tensor.detach().to("cpu", dtype)))


def count_values(shape: Shape) -> int:
    """Return the number of values of a shape, exact however large."""
    count = 1
    for extent in shape:
        count *= extent
    return count


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` that takes its place when the block ends without error."""
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.stem}.", suffix=".part", dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        # Temporary files are private; this one gets the permissions of any new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        # A full disk does not say which file it was.
        error.filename = error.filename or str(path)
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _as_bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _groups(tensors: Mapping[str, tuple[str, Shape]]) -> Iterator[list[str]]:
    """Yield names of tensors that together have about `_GROUP_BYTES`."""
    group, size = [], 0
    for name, (dtype, shape) in tensors.items():
        group.append(name)
        size += count_values(shape) * DTYPES[dtype].itemsize
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _is_tensor_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(isinstance(number, int) and number >= 0 for number in [*shape, *offsets])
