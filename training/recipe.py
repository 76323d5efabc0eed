"""A preset from start to end: data, its stages in order, exported checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ..models.checkpoint import save_checkpoint
from .accelerator import make_accelerator
from .config import Preset
from .cpgd import CpgdPlan
from .data.loader import TrainingData
from .data.workers import workers_of_process
from .divd import DivdPlan
from .feed_forward import FeedForwardPlan
from .fsdp import is_split
from .preflight import begin_run, check_request, origin_of, provenance_of
from .stage_trainer import Plan, ProgressFn, Request, StageTrainer
from .validation import ValidationClips


def train_preset(
    preset: Preset,
    data_specs: Sequence[str],
    folder: str | Path,
    *,
    device: str = "auto",
    init: str | Path | None = None,
    autoencoder: str | Path | None = None,
    diffusion: str | Path | None = None,
    validation: str | None = None,
    validate_every: int = 500,
    log_every: int = 20,
    save_every_s: float | None = None,
    time_limit_s: float | None = None,
    export: str | Path | None = None,
    num_workers: int | None = None,
    progress: ProgressFn | None = None,
    lpips: nn.Module | None = None,
) -> Path:
    """Run the stages of a preset and export the checkpoint.

    A folder with an unfinished run is resumed: it gives what never stopping would.

    Args:
        preset: Model, stages, seed.
        data_specs: Training data, `KIND:PATH` or `KIND:PATH*WEIGHT`; see `sources`.
        folder: Where states, logs, pictures, `best.safetensors` (with `validation`, of the
            stage that ran last) and `checkpoint.safetensors` go.
        device: "auto" or "cpu"; several devices and processes by `accelerate launch`.
        init: Name or path of a checkpoint to start from, which keeps its config. Stage 0 is
            then skipped, or if it is the only stage goes on from the checkpoint's autoencoder.
        autoencoder: Name or path of a checkpoint whose autoencoder is taken as stage 0 would
            leave it; everything else starts from the preset.
        diffusion: Name or path of the diffusion model that stage `cpc` begins from.
        validation: Pairs that are restored now and then, `KIND:PATH`.
        validate_every: Updates between validations.
        log_every: Updates between lines of the log.
        save_every_s: Seconds between states; None: 60, or 1800 where one has over 1 GB.
        time_limit_s: Seconds after which the stage ends early, with its state and weights
            written; the next call goes on from there. For presets of one stage.
        export: Where to write the checkpoint besides.
        num_workers: Processes that draw clips; 0 draws them in between, None chooses.
        progress: Called after every update.
        lpips: For stages with an `lpips_weight`; see `feed_forward_stages`.

    Returns:
        Path of the exported checkpoint: averaged weights in half precision.

    Raises:
        ValueError: If the preset needs a checkpoint to start from, or a data set, a stage
            or the folder does not fit.
        FileNotFoundError: If a data set does not exist.
    """
    folder = Path(folder)
    check_request(
        folder,
        validate_every=validate_every,
        save_every_s=save_every_s,
        num_workers=num_workers,
        export=export,
    )
    if time_limit_s is not None and len(preset.stages) > 1:
        raise ValueError("time_limit_s is for presets of one stage")
    if diffusion is not None and preset.cpc is None:
        raise ValueError("--diffusion is for the stage cpc, which does not run: leave it out")
    request = Request(
        preset=preset,
        init=init,
        autoencoder=autoencoder,
        diffusion=diffusion,
        validation=validation,
        lpips=lpips,
    )
    plan = _plan_type(preset)(request)
    data = TrainingData(
        data_specs,
        num_frames=max(clips.num_frames for clips in plan.clips),
        crop=max(clips.crop for clips in plan.clips),
    )
    for clips in plan.clips:
        data.check(clips)
    shown = None
    if validation is not None:
        shown = ValidationClips(validation, plan.clips[-1], folder)
    plan.check(data)
    workers = {
        name: workers_of_process(num_workers, [clips for _, clips in stage.phases], device)
        for name, stage in plan.stages.items()
    }
    begin_run(folder, preset, origin_of(data_specs, data, validation, plan.origin))
    accelerator = make_accelerator(device, preset.precision, folder)
    if is_split(accelerator) and not plan.splits:
        raise ValueError(
            "this architecture is trained whole on every device: leave out --use_fsdp"
        )
    trainer = StageTrainer(
        preset=preset,
        data=data,
        folder=folder,
        accelerator=accelerator,
        validation=shown,
        intervals={
            "validate_every": validate_every,
            "log_every": log_every,
            "save_every_s": save_every_s,
            "time_limit_s": time_limit_s,
        },
        num_workers=workers,
        progress=progress,
        provenance=provenance_of(preset, data_specs, init, autoencoder, diffusion),
        licence=plan.licence,
    )
    torch.manual_seed(preset.seed)
    model = plan.train(trainer)
    path = folder / "checkpoint.safetensors"
    if accelerator.is_main_process:
        for target in (path, *([] if export is None else [Path(export)])):
            save_checkpoint(
                target,
                model.state_dict(),
                model.config,
                provenance=trainer.provenance,
                licence=trainer.licence,
            )
    # Whoever ends first takes the others down: not before the checkpoint is written.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return path


def _plan_type(preset: Preset) -> Callable[[Request], Plan]:
    if preset.is_cpgd:
        return CpgdPlan
    return FeedForwardPlan if preset.is_feed_forward else DivdPlan
