"""What runs the training: devices, processes and precision, by the package accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..models.hardware import choose_device, multiplies_bfloat16

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(device: str, precision: str, folder: Path) -> Accelerator:
    """Return what runs the training; TensorBoard's scalars go into the folder.

    Args:
        device: "auto" or "cpu".
        precision: As `Preset.precision`.
        folder: Of the run.

    Raises:
        ValueError: If the package accelerate is missing.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState
        from accelerate.utils import is_tensorboard_available
    except ImportError as error:
        raise ValueError(
            "training needs the package accelerate: pip install accelerate tensorboard"
        ) from error

    # An earlier run of this process may have had another precision.
    AcceleratorState._reset_state()
    if precision == "auto":
        native = multiplies_bfloat16(choose_device("cpu" if device == "cpu" else "auto"))
        precision = "bf16" if native else "no"
    tensorboard = is_tensorboard_available()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=precision,
        log_with="tensorboard" if tensorboard else None,
        project_dir=folder,
        # What a stage trains need not have a part in its losses: the decoder without one of
        # pixels.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if tensorboard:
        accelerator.init_trackers("tensorboard")
    return accelerator


def share_of_process(accelerator: Accelerator, total: int, accumulation: int) -> range:
    """Return the indices of this process's samples of an update.

    Raises:
        ValueError: If they cannot be split evenly.
    """
    world = accelerator.num_processes
    if total % (world * accumulation):
        raise ValueError(
            f"{total} samples per update cannot be split evenly over {world} processes "
            f"times {accumulation} accumulation steps"
        )
    size = total // world
    first = accelerator.process_index * size
    return range(first, first + size)
