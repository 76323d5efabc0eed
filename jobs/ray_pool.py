"""Workers on a Ray cluster that keep a loaded model and restore parts of videos.

A worker that dies is replaced, and the part it had is done again by another. Work is handed
to workers that are up; one part waits at each while more are waiting behind it, so that its
frames are on their way while the last one is restored.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..restoration.settings import RestorationSettings
from ..video.frames import EncodedFrame
from .clip_work import PartDone
from .parts import PartTask, restore_part

logger = logging.getLogger(__name__)

_CPUS_PER_WORKER = 4
"""Processor cores of a worker without a GPU; the network gains little from more."""
_MOST_TRIES = 3
"""Times that a part, or the start of a worker, is tried."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker loads. Checkpoint files must be at the same place on every node."""

    checkpoint: str
    """Name or absolute path."""
    identity: dict[str, Any]
    """`checkpoint_identity` of the file where the work is sent from, and the identity of the
    first stage."""
    dtype: str
    """`auto` or a name of `hardware.DTYPES`."""
    settings: RestorationSettings
    first_stage: str | None = None
    """Name or absolute path, as `checkpoint`."""


class PartWorker:
    """Lives in a process of the cluster; loads the model with its first part."""

    def __init__(self, options: WorkerOptions, device: str, num_threads: int) -> None:
        self._options = options
        self._device = device
        self._num_threads = num_threads
        self._engine: Any = None

    def where(self) -> int:
        """Return the process id: the worker is up."""
        return os.getpid()

    def restore(self, frames: np.ndarray, task: PartTask) -> list[EncodedFrame]:
        """Restore frames `[T, H, W, C]`; see `parts.restore_part`."""
        import cv2
        import torch

        torch.set_num_threads(self._num_threads)
        cv2.setNumThreads(self._num_threads)
        if self._engine is None:
            self._engine = self._loaded()
        return restore_part([*frames], task, self._engine, self._options.settings)

    def _loaded(self) -> Any:
        from ..models.checkpoint import read_info
        from ..restoration.load import load_deblurrer
        from .part_store import checkpoint_identity

        options = self._options
        path = read_info(options.checkpoint).path
        _check_identity(str(path), checkpoint_identity(path), options.identity)
        engine = load_deblurrer(
            options.checkpoint, self._device, options.dtype, options.first_stage
        )
        if engine.first_stage is not None:
            _check_identity(
                str(options.first_stage), engine.first_stage.identity, options.identity
            )
        return engine


@dataclass(frozen=True, kw_only=True)
class WorkerShape:
    """How many workers a cluster takes, and what each of them gets."""

    device: str
    """`cpu` or `cuda`, one GPU for each worker."""
    num_cpus: int
    """Processor cores, and threads, of each."""
    num_workers: int


def worker_shape(
    nodes: Sequence[Mapping[str, float]], device: str, num_workers: int | None = None
) -> WorkerShape:
    """Share a cluster out.

    A worker with a GPU gets its share of the cores of the nodes that have GPUs: it
    measures optical flow and encodes on them, and beside it nobody needs them.

    Args:
        nodes: Resources of each as Ray names them: `CPU` and `GPU`.
        device: As for `RayPool`.
        num_workers: None: as many as fit.

    Raises:
        ValueError: If the cluster has no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda on a cluster, got {device!r}")
    machines = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    machines = [(cores, gpus) for cores, gpus in machines if cores]
    if not machines:
        raise ValueError("Ray reports no processor in the cluster")
    with_gpus = [(cores, gpus) for cores, gpus in machines if gpus]
    if device == "cuda" and not with_gpus:
        raise ValueError("device is cuda, but Ray reports no GPU in the cluster")
    if with_gpus and device != "cpu":
        # All workers are alike: the least share, but no core less than one for a worker.
        num_cpus = max(1, min(cores // gpus for cores, gpus in with_gpus))
        count = sum(min(gpus, cores // num_cpus) for cores, gpus in with_gpus)
        return WorkerShape(device="cuda", num_cpus=num_cpus, num_workers=num_workers or count)
    cores = [cores for cores, _ in machines]
    share = sum(cores) // num_workers if num_workers else _CPUS_PER_WORKER
    num_cpus = max(1, min(_CPUS_PER_WORKER, min(cores), share))
    count = sum(each // num_cpus for each in cores)
    return WorkerShape(device="cpu", num_cpus=num_cpus, num_workers=num_workers or count)


@dataclass(kw_only=True, eq=False)
class _Job:
    key: Any
    frames: Any
    """Reference to them in the object store, until the part is done."""
    task: PartTask
    tries: int = 0


@dataclass(kw_only=True, eq=False)
class _Worker:
    handle: Any
    started: Any
    """Reference that is there once the worker is up."""
    pid: int | None = None
    num_done: int = 0
    jobs: dict[Any, _Job] = field(default_factory=dict)
    """By reference to the result; the first one is under way."""


class RayPool:
    """Restore parts on a cluster, in any order."""

    def __init__(
        self, options: WorkerOptions, device: str = "auto", num_workers: int | None = None
    ) -> None:
        """Ask the cluster that `connected` gave for workers.

        Args:
            options: What they load.
            device: `auto` takes the GPUs that Ray reports, and without any the CPUs; `cpu`
                and `cuda` insist.
            num_workers: None: one for each GPU, or for each four CPU cores.

        Raises:
            ValueError: If the cluster has no such device.
        """
        import ray
        import ray.exceptions

        self._ray: Any = ray
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shape = worker_shape(nodes, device, num_workers)
        self.device, self._num_cpus = shape.device, shape.num_cpus
        self._actor: Any = self._ray.remote(PartWorker).options(
            num_cpus=self._num_cpus, num_gpus=int(self.device == "cuda"), max_restarts=0
        )
        self._options = options
        self._failed_starts = 0
        self._waiting: deque[_Job] = deque()
        self._workers = [self._start() for _ in range(shape.num_workers)]

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    @property
    def parts_done(self) -> list[int]:
        """Parts that each worker has restored; those of lost workers are left out."""
        return [worker.num_done for worker in self._workers]

    @property
    def wants_more(self) -> bool:
        """Whether to `submit` another part: few are waiting."""
        return len(self._waiting) < 2

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or under way."""
        return not self._waiting and not any(worker.jobs for worker in self._workers)

    def submit(self, key: Any, frames: list[np.ndarray], task: PartTask) -> None:
        """Have a part restored.

        Args:
            key: Comes back with the result.
            frames: `[H, W, C]` each, copied to the node that restores them; emptied.
            task: What to do with them.
        """
        stored = self._ray.put(np.stack(frames))
        frames.clear()
        self._waiting.append(_Job(key=key, frames=stored, task=task))
        self._dispatch()

    def collect(self, done: PartDone, timeout_s: float) -> None:
        """Wait for results, and hand over each with its key.

        Raises:
            ValueError: If no worker can be started.
        """
        self._dispatch()
        starting = {w.started: w for w in self._workers if w.pid is None}
        working = {ref: w for w in self._workers for ref in w.jobs}
        references = [*starting, *working]
        ready, _ = self._ray.wait(
            references, num_returns=1, timeout=timeout_s, fetch_local=False
        )
        for reference in ready:
            if reference in starting:
                self._note_start(starting[reference])
            elif reference in working[reference].jobs:
                result = self._result(working[reference], reference)
                if result is not None:
                    done(*result)
        self._dispatch()

    def give_up(self, done: PartDone) -> None:
        """Leave what is under way to `close`."""

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker.handle)

    def _start(self) -> _Worker:
        handle = self._actor.remote(self._options, self.device, self._num_cpus)
        return _Worker(handle=handle, started=handle.where.remote())

    def _replace(self, worker: _Worker) -> None:
        self._ray.kill(worker.handle)
        self._workers[self._workers.index(worker)] = self._start()

    def _note_start(self, worker: _Worker) -> None:
        try:
            worker.pid = self._ray.get(worker.started)
            self._failed_starts = 0
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_TRIES * len(self._workers):
                raise ValueError(f"no worker can start: {_last_line(error)}") from error
            self._replace(worker)

    def _dispatch(self) -> None:
        up = [worker for worker in self._workers if worker.pid is not None]
        while self._waiting:
            worker = min(up, key=lambda each: len(each.jobs), default=None)
            # A second part only while another one is waiting: the last go to who is free.
            if worker is None or len(worker.jobs) > int(len(self._waiting) > 1):
                return
            job = self._waiting.popleft()
            reference = worker.handle.restore.remote(job.frames, job.task)
            worker.jobs[reference] = job

    def _result(
        self, worker: _Worker, reference: Any
    ) -> tuple[Any, list[EncodedFrame] | Exception] | None:
        job = worker.jobs[reference]
        try:
            encoded = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, (ValueError, OSError, FloatingPointError)):
                del worker.jobs[reference]
                return job.key, cause
            failure: Exception = error
        except self._ray.exceptions.RayError as error:
            failure = error
        else:
            del worker.jobs[reference]
            worker.num_done += 1
            return job.key, encoded
        # The worker is dead, or may be of no use any more (CUDA errors stay): another one
        # takes its place, and its parts go first.
        first, *others = worker.jobs.values()
        worker.jobs.clear()
        self._replace(worker)
        self._waiting.extendleft(reversed(others))
        first.tries += 1
        if first.tries >= _MOST_TRIES:
            return first.key, RuntimeError(
                f"a part failed {_MOST_TRIES} times: {_last_line(failure)}"
            )
        logger.warning("a worker was lost, its part is done again (%s)", _last_line(failure))
        self._waiting.appendleft(first)
        return None


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine for the time of the block.

    Args:
        address: As of `ray start`, or "auto"; None: this machine alone.

    Raises:
        ValueError: If Ray is not installed.
        ConnectionError: If there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError("batch needs Ray: pip install ray") from error
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as error:
        raise ConnectionError(f"{address}: no Ray cluster answers there") from error
    # Ray takes the signal for itself; here a polite kill unwinds as Ctrl-C does.
    if in_main_thread:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def shipped_checkpoint(name: str) -> str:
    """Return what a checkpoint is called on other nodes: a bundled name, or a whole path."""
    path = Path(name)
    return str(path.resolve()) if path.exists() else name


def _check_identity(name: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise ValueError if a file of this node is not the one the work was sent with."""
    if any(wanted.get(key) != value for key, value in found.items()):
        raise ValueError(
            f"{name}: differs between the nodes of the cluster, copy the same file to all"
        )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
