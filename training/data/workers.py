"""How many processes draw clips beside a training process.

Workers hand batches over through shared memory (`/dev/shm`), of which containers often have 64
MB: with too little a worker would be killed in the middle of the run.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from ...models.hardware import choose_device
from ..data_config import DataConfig
from .clips import clip_bytes
from .loader import MOST_AT_ONCE

logger = logging.getLogger(__name__)

_SHARED_MEMORY = Path("/dev/shm")
_MOST = 16
"""Chosen by itself. A worker draws 230 clips of 8 frames of 128x128 per second of a core (AMD
EPYC); a GPU may ask for thousands."""
_AHEAD = 2
"""Pieces of updates that a worker of torch's loader draws ahead."""


def workers_of_process(
    wanted: int | None, configs: Sequence[DataConfig | None], device: str
) -> int:
    """Return how many workers a process of a launched run starts; see `choose_workers`.

    Args:
        wanted: What the user asks for.
        configs: Clips of the run, one kind after the other.
        device: "auto" or "cpu".
    """
    drawn = [config for config in configs if config is not None]
    world = int(os.environ.get("WORLD_SIZE", "1"))
    share = max(max(config.clips_per_batch for config in drawn) // world, 1)
    clip = max(clip_bytes(config) for config in drawn)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    piece = min(share, MOST_AT_ONCE) * clip
    return choose_workers(wanted, share * clip, choose_device(device), local, piece)


def choose_workers(
    wanted: int | None,
    batch_bytes: int,
    device: torch.device,
    num_processes: int = 1,
    piece_bytes: int | None = None,
) -> int:
    """Return how many workers a training process starts.

    Args:
        wanted: What the user asks for, 0 or more (checked in `preflight`); None: one where a
            CPU trains, which has no cores to spare, else as many as there are cores for, up to
            16 and what shared memory holds.
        batch_bytes: Pixels of a training process's clips for one update.
        device: What trains.
        num_processes: Training processes on this machine.
        piece_bytes: Pixels of what a worker draws at a time; None: a whole update.

    Raises:
        ValueError: If `wanted` is more than shared memory holds.
    """
    piece_bytes = piece_bytes or batch_bytes
    fitting, free = _fitting(piece_bytes, batch_bytes, num_processes)
    if wanted is None:
        spare = _num_cores() // num_processes - 1
        chosen = 1 if device.type == "cpu" else min(max(spare, 1), _MOST)
        if fitting >= chosen:
            return chosen
        logger.warning(
            "%s has room for %d of %d worker processes (%.0f MB); clips may be late: give a "
            "container more (docker run --shm-size)",
            _SHARED_MEMORY,
            fitting,
            chosen,
            free / 1e6,
        )
        return fitting
    if wanted > fitting:
        needed = num_processes * (_AHEAD * wanted * piece_bytes + batch_bytes)
        raise ValueError(
            f"--workers {wanted} may need {needed / 1e6:.0f} MB of {_SHARED_MEMORY}, which has "
            f"{free / 1e6:.0f}; take {fitting}, or give a "
            "container more (docker run --shm-size)"
        )
    return wanted


def _fitting(piece_bytes: int, batch_bytes: int, num_processes: int) -> tuple[int, int]:
    """Return how many workers shared memory has room for, and its free bytes.

    It holds what they draw ahead, and the batch that is trained on.
    """
    if not _SHARED_MEMORY.is_dir():
        return 1024, 0
    free = shutil.disk_usage(_SHARED_MEMORY).free
    return max(0, (free // num_processes - batch_bytes) // (_AHEAD * piece_bytes)), free


def _num_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
