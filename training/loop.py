"""The training loop: one stage, resumable, on a CPU, one device or many.

Built on `accelerate`, so one command serves a laptop, several devices (DDP) and models too
large for one device (FSDP). A step is a function of its number alone: every random decision
comes from generators seeded by it, so a run resumed from any state draws what one never
stopped would.

Losses and logged values are vectors `[B]`, one value per sample, NaN where a sample has
none; so that means over a batch do not depend on how it was split.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .ahead import PrepareFn, prepared_updates
from .fsdp import choose_units, is_split, let_go
from .log import TrainingLog
from .muon import Muon
from .states import Progress, StateWriter, load_state, seconds_between_states, whole

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

_MAX_NON_FINITE = 10

BatchesFn = Callable[[int, int], Iterable[Sequence[Any]]]
"""From the first and last (exclusive) step to, for each, its micro batches."""
ProgressFn = Callable[[int, int, "dict[str, float] | None"], None]
"""Called with (step, steps, values): averaged values at every log line, else None."""


class Validation(Protocol):
    """What a stage measures now and then, with the averaged weights in place."""

    def measure(self, step: int) -> dict[str, float]:
        """Return values to log.

        "validation_psnr" decides which weights are best, but where there is an opponent: what
        that asks for costs PSNR.
        """
        ...

    def keep(self) -> None:
        """Store the weights: they are the best so far."""
        ...


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """Parameters that are trained against the rest, such as a discriminator's.

    They have an optimizer of their own, their gradient is clipped by itself, and they are not
    averaged.
    """

    prefix: str
    """Of their names; the loss adds what they and what the rest are trained by, and neither
    may reach the other's."""
    betas: tuple[float, float]
    """Of their AdamW."""


@dataclass(kw_only=True)
class Run:
    """What one stage of training needs besides its loss."""

    name: str
    """Of the stage; names its files."""
    folder: Path
    """Where states and log go."""
    steps: int
    """Updates."""
    learning_rate: float
    """Peak; linear warm-up, cosine to zero."""
    warmup_steps: int = 100
    """Updates."""
    weight_decay: float = 0.01
    """Of AdamW and Muon, on matrices."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    rate_factors: dict[str, float] = field(default_factory=dict)
    """Factor of the learning rate by prefix of the parameters' names."""
    takes_muon: Callable[[str, nn.Parameter], bool] | None = None
    """Whether Muon updates a parameter, from its name and itself; AdamW updates the rest."""
    opponent: Opponent | None = None
    """Of adversarial training."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Of the averaged weights, per update."""
    save_every_s: float | None = None
    """Seconds between states; None chooses by their size."""
    log_every: int = 20
    """Updates between lines of the log."""
    validate_every: int = 0
    """Updates between validations; 0: only at the end."""
    time_limit_s: float | None = None
    """Seconds after which the run ends early; its state is written, and it may go on."""
    images_per_sample: int = 1
    """Frames of a clip; the log counts images per second."""
    progress: ProgressFn | None = None
    """Called after every update."""


def train(
    run: Run,
    accelerator: Accelerator,
    module: nn.Module,
    batches: BatchesFn,
    prepare: PrepareFn,
    validation: Validation | None = None,
) -> dict[str, Tensor]:
    """Train `module` in place, or go on from the newest state of the run.

    Args:
        run: Settings.
        accelerator: Devices, processes, precision.
        module: Returns {"loss": `[B]`, ...}; parameters that require gradients are trained.
        batches: Draws data; time spent waiting for it is logged.
        prepare: Takes a micro batch to the device.
        validation: Measured every `validate_every` updates and at the end.

    Returns:
        The averaged weights by name.

    Raises:
        FloatingPointError: If the gradient was not finite ten times in a row.
        ValueError: If the folder holds states of another network.
    """
    with StateWriter(run.folder, run.name, accelerator) as writer:
        return _train(run, accelerator, module, batches, prepare, validation, writer)


def _train(
    run: Run,
    accelerator: Accelerator,
    module: nn.Module,
    batches: BatchesFn,
    prepare: PrepareFn,
    validation: Validation | None,
    writer: StateWriter,
) -> dict[str, Tensor]:
    plain_optimizers = _optimizers(run, module, accelerator)
    split = is_split(accelerator)
    if split:
        choose_units(accelerator, module)
    wrapped, *optimizers = accelerator.prepare(module, *plain_optimizers)
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    playing = {n: p for n, p in parameters.items() if _is_opponent(run, n)}
    rest = {n: p for n, p in parameters.items() if n not in playing}
    average = {n: p.detach().clone().float() for n, p in rest.items()}
    resumed = load_state(run.folder, run.name, module, plain_optimizers, average)
    step, best = resumed.step, resumed.best
    skipped, skipped_in_a_row = resumed.skipped, resumed.skipped_in_a_row
    log = TrainingLog(run, accelerator, resumed)
    save_every_s = run.save_every_s
    if save_every_s is None:
        save_every_s = seconds_between_states(parameters.values())
    last_saved = time.monotonic()

    def prepared(micro_batch: Any) -> tuple[Any, ...]:
        with log.preparing():
            return prepare(micro_batch)

    if run.warmup_steps > run.steps:
        logger.warning(
            "%s: the warm-up takes %d updates, the stage %d, so that the learning rate stays "
            "below its peak; train for longer, or set warmup_steps where the stage has it",
            run.name,
            run.warmup_steps,
            run.steps,
        )
    updates = prepared_updates(batches(step, run.steps), prepared, accelerator.device)
    for micro_batches in log.timed(updates):
        factor = schedule_factor(step, run.steps, run.warmup_steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = run.learning_rate * group["rate_factor"] * factor
            optimizer.zero_grad(set_to_none=True)
        for index, arguments_of in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            # Gradients are averaged over the processes once per update; FSDP would keep them
            # whole until then, and they are as large as the weights.
            with nullcontext() if last or split else accelerator.no_sync(wrapped):
                arguments = arguments_of()
                # accelerate leaves out autocast with FSDP.
                with accelerator.autocast():
                    values = wrapped(*arguments)
                accelerator.backward(values["loss"].mean() / len(micro_batches))
            log.add(values)
        norms = [_clipped_norm(run, accelerator, rest)]
        if playing:
            norms.append(_clipped_norm(run, accelerator, playing))
        if torch.stack(norms).isfinite().all():
            skipped_in_a_row = 0
            for optimizer in optimizers:
                optimizer.step()
            _update_average(run, rest, average, step)
        else:
            skipped += 1
            skipped_in_a_row += 1
            logger.warning("update %d: gradient is not finite, skipped", step)
            if skipped_in_a_row >= _MAX_NON_FINITE:
                raise FloatingPointError(
                    f"the gradient was not finite {_MAX_NON_FINITE} times in a row at update "
                    f"{step}; lower the learning rate"
                )
        for name, norm in zip(("gradient_norm", "opponent_gradient_norm"), norms, strict=False):
            log.add({name: norm.detach().reshape(1)})
        step += 1
        measured: dict[str, float] = {}
        done = step == run.steps or _is_late(run, accelerator, log)
        if validation is not None and (done or _is_due(step, run.validate_every)):
            with averaged(module, rest, average):
                measured = validation.measure(step)
                # Processes may differ by a rounding, but gather the weights together.
                better = run.opponent is None and measured["validation_psnr"] > best
                if _any(accelerator, better):
                    best = measured["validation_psnr"]
                    validation.keep()
        if done or measured or _is_due(step, run.log_every):
            more = {"learning_rate": run.learning_rate * factor, "skipped_updates": skipped}
            log.write(step, {**more, **measured})
        elif run.progress is not None and accelerator.is_main_process:
            run.progress(step, run.steps, None)
        if done or _any(accelerator, time.monotonic() - last_saved > save_every_s):
            progress = Progress(
                step=step,
                best=best,
                elapsed_s=log.elapsed_s,
                skipped=skipped,
                skipped_in_a_row=skipped_in_a_row,
            )
            last_saved = time.monotonic()
            writer.save(progress, module, plain_optimizers, average)
        if done:
            break
    return average


def schedule_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Return the learning rate's factor: linear warm-up, then cosine to zero."""
    warmup = min(1.0, (step + 1) / max(warmup_steps, 1))
    return warmup * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))


@contextmanager
def averaged(
    module: nn.Module, parameters: dict[str, nn.Parameter], average: dict[str, Tensor]
) -> Iterator[None]:
    """Put the averaged weights in place for a while."""
    with torch.no_grad():
        trained = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            parameter.copy_(average[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(trained[name])
        if any(isinstance(value, DTensor) for value in average.values()):
            let_go(module)


def _optimizers(
    run: Run, module: nn.Module, accelerator: Accelerator
) -> list[torch.optim.Optimizer]:
    """Make AdamW, Muon for what the run gives to it, and AdamW for an opponent."""
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    playing = {n: p for n, p in parameters.items() if _is_opponent(run, n)}
    parameters = {n: p for n, p in parameters.items() if n not in playing}
    matrices = {
        name: parameter
        for name, parameter in parameters.items()
        if run.takes_muon is not None and run.takes_muon(name, parameter)
    }
    if matrices and is_split(accelerator):
        raise ValueError(
            'optimizer "muon" needs whole matrices, which FSDP splits; use "adamw" or DDP'
        )
    rest = {name: p for name, p in parameters.items() if name not in matrices}
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        optimizers.append(torch.optim.AdamW(_groups(run, rest), betas=run.betas))
    if matrices:
        optimizers.append(Muon(_groups(run, matrices)))
    if playing:
        assert run.opponent is not None
        optimizers.append(torch.optim.AdamW(_groups(run, playing), betas=run.opponent.betas))
    return optimizers


def _is_opponent(run: Run, name: str) -> bool:
    return run.opponent is not None and name.startswith(run.opponent.prefix)


def _clipped_norm(
    run: Run, accelerator: Accelerator, parameters: dict[str, nn.Parameter]
) -> Tensor:
    """Clip a gradient; return its norm before that."""
    norm = accelerator.clip_grad_norm_(parameters.values(), run.gradient_clip)
    assert isinstance(norm, Tensor)
    return whole(norm)


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


def _update_average(
    run: Run, parameters: dict[str, nn.Parameter], average: dict[str, Tensor], step: int
) -> None:
    decay = min(run.ema_decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, parameter in parameters.items():
            average[name].lerp_(parameter.float(), 1 - decay)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _is_late(run: Run, accelerator: Accelerator, log: TrainingLog) -> bool:
    """Tell whether the time of this call is up."""
    if run.time_limit_s is None:
        return False
    return _any(accelerator, time.monotonic() - log.started > run.time_limit_s)


def _any(accelerator: Accelerator, condition: bool) -> bool:
    """Decide the same in every process: they save together."""
    votes = accelerator.reduce(torch.tensor(float(condition), device=accelerator.device), "sum")
    assert isinstance(votes, Tensor)
    return bool(votes > 0)
