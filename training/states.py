"""States of a run on disk: written atomically, the newest three kept, resumed exactly.

A state is copied to the host's memory and written from there in a thread, while training goes
on. It is one file `<folder>/states/<stage>_<step>.pt` with whole tensors, whatever the
processes split, so that a run may go on with another number of them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import pickle
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from ..video.atomic import replacing

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

_KEPT = 3
"""A newer state may have been written while a disk or the weights were going bad."""
_LARGE_STATE_BYTES = 10**9
"""Larger states are written every half hour: that of the full size, 22 GB, is one to four
minutes of a disk's time."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Updates done."""
    best: float = -math.inf
    """Best validation PSNR so far, in dB."""
    elapsed_s: float = 0.0
    """Time spent on those updates."""
    skipped: int = 0
    """Updates of which the gradient was not finite."""
    skipped_in_a_row: int = 0
    """Those since the last one that was."""


class StateWriter:
    """Writes the states of a run in a thread of its own, one at a time.

    A context: at its end the last state is on the disk, or what kept it from there is raised.

    Args:
        folder: Of the run.
        name: Of the stage.
        accelerator: Of the training; the main process writes.
    """

    def __init__(self, folder: Path, name: str, accelerator: Accelerator) -> None:
        self._folder = folder
        self._name = name
        self._accelerator = accelerator
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writing: Future[None] | None = None

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, *error: object) -> None:
        # Also after an error: what has been begun is finished, and the next run finds it.
        self._pool.shutdown(wait=True)
        if error[0] is None:
            self.finish()

    def save(
        self,
        progress: Progress,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        average: dict[str, Tensor],
    ) -> None:
        """Copy a state to the host's memory and have it written; every process must call this.

        Training may go on at once; the state before is waited for. A disk that is full costs
        a warning and no older state.

        Raises:
            Exception: Whatever else went wrong with the state before.
        """
        self.finish()
        split = _is_split(average)
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=split, ignore_frozen_params=True
        )
        state = {
            "progress": dataclasses.asdict(progress),
            "weights": get_model_state_dict(module, options=options),
            "optimizers": [
                get_optimizer_state_dict(module, optimizer, options=options)
                for optimizer in optimizers
            ],
            "average": _gathered(average, self._accelerator.is_main_process),
        }
        if not self._accelerator.is_main_process:
            return
        # What was gathered is a copy already.
        state = state if split else _copied(state)
        path = self._folder / "states" / f"{self._name}_{progress.step:07d}.pt"
        self._writing = self._pool.submit(_write, state, path, self._name)

    def finish(self) -> None:
        """Wait until the state is written.

        Raises:
            Exception: Whatever went wrong, but for a disk that is full.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def seconds_between_states(parameters: Iterable[nn.Parameter]) -> float:
    """Return how often to write: a state holds weights, their average and two moments."""
    size = 4 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return 60.0 if size <= _LARGE_STATE_BYTES else 1800.0


def _write(state: dict[str, Any], path: Path, name: str) -> None:
    # What killed processes left; a state can be large.
    for left in path.parent.glob(f".{name}_*.part-*"):
        left.unlink(missing_ok=True)
    try:
        with replacing(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        # The archive's writer hides what went wrong behind an error of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        logger.warning(
            "%s: state not written (%s); training goes on", path, cause.strerror or cause
        )
    else:
        for _, old in sorted(_states(path.parent.parent, name))[:-_KEPT]:
            old.unlink()


def _copied(value: Any) -> Any:
    """Copy what tensors hold to the host's memory, in the same structure."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


def load_state(
    folder: Path,
    name: str,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: dict[str, Tensor],
) -> Progress:
    """Load the newest state that can be read into everything given.

    The main process chooses it; every process must call this.

    Raises:
        ValueError: If it is the state of another network or optimizer, or if not every
            process can read it.
    """
    chosen = _newest(folder, name) if _rank() == 0 else None
    path = _from_main(None if chosen is None else chosen[0])
    if path is None:
        return Progress()
    # The others map the file into memory: a copy each would not fit beside large models.
    state = _mapped(path) if chosen is None else chosen[1]
    _check(path, state, average, optimizers)
    options = StateDictOptions(full_state_dict=True, strict=False)
    # The optimizers' states are made before they are filled, unless gradients wait.
    module.zero_grad(set_to_none=True)
    set_model_state_dict(module, state["weights"], options=options)
    for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
        set_optimizer_state_dict(module, optimizer, values, options=options)
    with torch.no_grad():
        for key, value in average.items():
            value.copy_(_split_as(state["average"][key], value))
    progress = Progress(**state["progress"])
    logger.info("%s: resumed at update %d", name, progress.step)
    return progress


def whole_weights(module: nn.Module, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return all of a module's weights on the CPU, averaged where there is an average.

    With FSDP every process must call this; all get them.
    """
    weights = module.state_dict()
    merged = {**weights, **average}
    return {
        name: whole(merged[name]).detach().to("cpu", value.dtype)
        for name, value in weights.items()
    }


def with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, under their names after it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _states(folder: Path, name: str) -> Iterator[tuple[int, Path]]:
    for path in (folder / "states").glob(f"{name}_*.pt"):
        step = path.stem.removeprefix(f"{name}_")
        if step.isdigit():
            yield int(step), path


def _newest(folder: Path, name: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest state that can be read."""
    for _, path in sorted(_states(folder, name), reverse=True):
        try:
            return path, torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            logger.warning("%s: cannot be read (%s); trying the one before", path, error)
    return None


def _mapped(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise ValueError(
            f"{path}: the main process reads it, process {_rank()} cannot ({error}); the "
            "folder of a run must be one that all machines share"
        ) from error


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _from_main(value: Path | None) -> Path | None:
    """Return what the main process passes."""
    values = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(values)
    return values[0]


def _check(
    path: Path,
    state: dict[str, Any],
    average: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    if "progress" not in state:
        raise ValueError(
            f"{path}: state of an earlier version; use another folder or delete it"
        )
    shapes = {name: value.shape for name, value in state["average"].items()}
    if shapes != {name: value.shape for name, value in average.items()}:
        raise ValueError(f"{path}: state of another network; use another folder or delete it")
    if len(state["optimizers"]) != len(optimizers):
        raise ValueError(f"{path}: state of another optimizer; use another folder or delete it")


def _is_split(average: dict[str, Tensor]) -> bool:
    return any(isinstance(value, DTensor) for value in average.values())


def _gathered(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Return whole tensors; nothing if not `keep`, which only helps to gather."""
    gathered = {}
    for name, value in tensors.items():
        tensor = whole(value)
        if keep:
            gathered[name] = tensor.cpu() if isinstance(value, DTensor) else tensor
    return gathered


def whole(value: Tensor) -> Tensor:
    """Gather what FSDP has split; every process must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _split_as(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
