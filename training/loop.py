"""The training loop: one stage, resumable, on a CPU or a GPU, in one process or several.

Under `torchrun` each process draws its share of every batch and gradients are averaged.
State is written to `<folder>/<stage>.pt` every few minutes, atomically; a run started again
with the same folder goes on from there.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .muon import Muon

logger = logging.getLogger(__name__)

_MAX_NON_FINITE = 10
LossFn = Callable[[int, torch.Generator], dict[str, Tensor]]
"""From the update's index and a generator to the loss and its parts."""


@dataclass(kw_only=True)
class Run:
    """What one stage of training needs besides its loss."""

    name: str
    """Of the stage; names its files."""
    folder: Path
    """Where state and log go."""
    steps: int
    """Updates."""
    learning_rate: float
    """Peak."""
    warmup_steps: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    rate_factors: dict[str, float] = field(default_factory=dict)
    """Factor of the learning rate by prefix of the parameters' names."""
    takes_muon: Callable[[str, nn.Parameter], bool] | None = None
    """Whether Muon updates a parameter, from its name and itself; AdamW updates the rest."""
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    save_every_s: float = 60.0
    """Seconds between saved states."""
    log_every: int = 20
    """Updates between lines of the log."""
    progress: Callable[[int, int, dict[str, float]], None] | None = None
    """Called with (update, updates, averaged parts of the loss) at every log line."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """Exponential moving average of the weights, filled by `train`."""

    @property
    def state_path(self) -> Path:
        """File of the resumable state."""
        return self.folder / f"{self.name}.pt"


def train(run: Run, module: nn.Module, loss_fn: LossFn) -> int:
    """Train `module` in place, and its average in `run.average`.

    Args:
        run: Settings.
        module: Parameters that require gradients are trained.
        loss_fn: Draws a batch and returns the loss under "loss", and parts to log.

    Returns:
        The number of updates done in all, earlier runs included.

    Raises:
        RuntimeError: If the loss was not finite ten times in a row.
    """
    rank, world = _ranks()
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    optimizers = _optimizers(run, parameters)
    run.average = {n: p.detach().clone().float() for n, p in parameters.items()}
    step, non_finite = _resume(run, parameters, optimizers), 0
    values: dict[str, list[float]] = {}
    started = last_saved = time.monotonic()
    while step < run.steps:
        # A generator per update and process: resuming draws what never stopping would.
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step * world + rank)
        factor = schedule_factor(step, run.steps, run.warmup_steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = run.learning_rate * group["rate_factor"] * factor
            optimizer.zero_grad(set_to_none=True)
        parts = loss_fn(step, generator)
        parts["loss"].backward()
        if world > 1:
            _average_gradients(list(parameters.values()), world)
        norm = nn.utils.clip_grad_norm_(parameters.values(), run.gradient_clip)
        if torch.isfinite(norm):
            non_finite = 0
            for optimizer in optimizers:
                optimizer.step()
            _update_average(run, parameters, step)
        else:
            non_finite += 1
            logger.warning("update %d: gradient is not finite, skipped", step)
            if non_finite >= _MAX_NON_FINITE:
                raise RuntimeError(
                    f"the gradient was not finite {_MAX_NON_FINITE} times in a row at update "
                    f"{step}; lower the learning rate"
                )
        for name, value in {**parts, "gradient_norm": norm}.items():
            values.setdefault(name, []).append(float(value.detach()))
        step += 1
        if step % run.log_every == 0 or step == run.steps:
            _log(run, step, values, time.monotonic() - started)
            values = {}
        # Rank 0 alone writes: the ranks hold the same weights.
        if rank == 0 and (
            time.monotonic() - last_saved > run.save_every_s or step == run.steps
        ):
            _save(run, step, parameters, optimizers)
            last_saved = time.monotonic()
    return step


def schedule_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Return the learning rate's factor: linear warm-up, then cosine to zero."""
    warmup = min(1.0, (step + 1) / max(warmup_steps, 1))
    return warmup * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))


def _optimizers(run: Run, parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Make AdamW, and Muon for what the run gives to it."""
    matrices = {
        name: parameter
        for name, parameter in parameters.items()
        if run.takes_muon is not None and run.takes_muon(name, parameter)
    }
    rest = {name: p for name, p in parameters.items() if name not in matrices}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(_groups(run, rest), betas=run.betas)
    ]
    if matrices:
        optimizers.append(Muon(_groups(run, matrices)))
    return optimizers


def _groups(run: Run, parameters: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay (none on biases and norms)."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        factor = next((f for p, f in run.rate_factors.items() if name.startswith(p)), 1.0)
        groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "rate_factor": factor,
            "weight_decay": run.weight_decay if decays else 0.0,
        }
        for (factor, decays), members in groups.items()
    ]


def _ranks() -> tuple[int, int]:
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def _average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Average over the processes in one message; a missing gradient counts as zero."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world
    offset = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = flat[offset : offset + gradient.numel()].view_as(gradient)
        offset += gradient.numel()


def _update_average(run: Run, parameters: dict[str, nn.Parameter], step: int) -> None:
    decay = min(run.ema_decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, parameter in parameters.items():
            run.average[name].lerp_(parameter.float(), 1 - decay)


def _resume(
    run: Run,
    parameters: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
) -> int:
    run.folder.mkdir(parents=True, exist_ok=True)
    if not run.state_path.exists():
        return 0
    state = torch.load(run.state_path, map_location="cpu", weights_only=True)
    shapes = {name: value.shape for name, value in state["weights"].items()}
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        raise ValueError(
            f"{run.state_path}: state of another network; use another folder or delete it"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["weights"][name])
    for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    run.average = {
        name: state["average"][name].to(parameters[name].device) for name in parameters
    }
    logger.info("%s: resumed at update %d", run.name, state["step"])
    return state["step"]


def _save(
    run: Run,
    step: int,
    parameters: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
) -> None:
    temporary = run.state_path.with_suffix(".pt.part")
    weights: dict[str, Any] = {name: p.detach() for name, p in parameters.items()}
    state: dict[str, Any] = {"step": step, "weights": weights, "average": run.average}
    state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
    torch.save(state, temporary)
    os.replace(temporary, run.state_path)


def _log(run: Run, step: int, values: dict[str, list[float]], elapsed_s: float) -> None:
    # Some parts exist in some updates only: each has its own count.
    means = {name: sum(parts) / len(parts) for name, parts in values.items()}
    if _ranks()[0] != 0:
        return
    with (run.folder / f"{run.name}.jsonl").open("a") as file:
        line = {"step": step, "elapsed_s": round(elapsed_s, 1)}
        file.write(json.dumps({**line, **{k: round(v, 5) for k, v in means.items()}}) + "\n")
    if run.progress is not None:
        run.progress(step, run.steps, means)
