"""Where each of our weights comes from, and the check that nothing is missing or left over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..tensor_file import CheckpointError, Shape
from .weight_file import WeightFile


def unchanged(tensor: Tensor) -> Tensor:
    """Take a weight as it is."""
    return tensor


def as_matrix(weight: Tensor) -> Tensor:
    """Turn the weight of a convolution over one position into that of a linear layer."""
    return weight.flatten(1)


@dataclass(frozen=True, eq=False)
class Source:
    """One of our weights: made from tensors of a file."""

    names: tuple[str, ...]
    """Tensors of the file."""
    make: Callable[..., Tensor] = unchanged
    """Makes the weight from them."""


@dataclass(frozen=True, eq=False)
class Part:
    """What a file gives: our weights by their names in the checkpoint."""

    path: Path
    layout: str
    """In words: whose names the file has."""
    sources: dict[str, Source]


def check_sources(
    file: WeightFile,
    sources: Mapping[str, Source],
    expected: Mapping[str, Tensor],
    dropped: Collection[str],
    what: str,
) -> None:
    """Compare what a file gives with the network that its shapes describe.

    Args:
        file: The open file.
        sources: Our weights.
        expected: The network's weights, on the meta device.
        dropped: Tensors of the file that are left out on purpose.
        what: The network, in words.

    Raises:
        CheckpointError: If a tensor is missing, too many, or of another shape.
    """
    used = {name for source in sources.values() for name in source.names}
    extra = sorted(file.shapes.keys() - used - set(dropped))
    missing = sorted(expected.keys() - sources.keys())
    missing += sorted(used - file.shapes.keys())
    if missing:
        raise CheckpointError(
            f"{file.path}: lacks {missing[0]!r} of {what} ({len(missing)} missing in all). "
            f"Download it again, or give another file."
        )
    unknown = sorted(sources.keys() - expected.keys())
    extra += [name for key in unknown for name in sources[key].names]
    if extra:
        raise CheckpointError(
            f"{file.path}: has {extra[0]!r}, which {what} does not ({len(extra)} too many in "
            f"all). Give another file."
        )
    for name, source in sources.items():
        shapes = [file.shapes[part] for part in source.names]
        shape = _made_shape(source, shapes)
        if shape != tuple(expected[name].shape):
            raise CheckpointError(
                f"{file.path}: {source.names[0]!r} has shape {list(shapes[0])}, which does not "
                f"fit the rest of {what} (expected {list(expected[name].shape)} for "
                f"{name!r}). Give another file."
            )


def _made_shape(source: Source, shapes: list[Shape]) -> Shape | None:
    try:
        return tuple(source.make(*(torch.empty(s, device="meta") for s in shapes)).shape)
    except (RuntimeError, IndexError):  # tensors that cannot be put together
        return None
