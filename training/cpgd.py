"""A preset of CPGD-Net from start to end: data, stages, exported checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.checkpoint import LICENCE, load_model, read_info, save_checkpoint
from ..models.cpgd import Cpgd
from ..models.cpgd_config import CpgdConfig
from ..models.cpgd_priors import ClipPriors
from ..video.atomic import write_file
from .accelerator import make_accelerator, share_of_process
from .config import CPGD_STAGES, ContentStage, Preset
from .cpgd_stages import CpfpTraining, priors_of_clips
from .data.loader import ClipLoader, DrawnClip, TrainingData
from .data.workers import workers_of_process
from .fsdp import is_split
from .loop import Run, train
from .preflight import begin_run, origin_of, provenance_of
from .states import whole_weights, with_prefix
from .validation import ValidationClips

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .recipe import ProgressFn

_MicroBatch = tuple[int, list[DrawnClip]]
"""Update, clips of it."""


def train_cpgd(
    preset: Preset,
    data_specs: Sequence[str],
    folder: Path,
    *,
    device: str,
    init: str | Path | None,
    validation: str | None,
    lpips: nn.Module | None,
    intervals: dict[str, Any],
    num_workers: int | None,
    export: str | Path | None,
    progress: ProgressFn | None,
) -> Path:
    """Run the stages of a preset and export the checkpoint; see `recipe.train_preset`.

    The request has been checked (`preflight.check_request`).

    Raises:
        ValueError: If the preset needs a checkpoint to start from, or a data set, a stage
            or the folder does not fit.
        FileNotFoundError: If a data set does not exist.
    """
    if init is None and preset.cpgd_model is None:
        raise ValueError("this preset starts from a checkpoint; name one with --init")
    start = None if init is None else read_info(init, config_type=CpgdConfig)
    if lpips is not None or any(getattr(preset, n).lpips_weight for n in preset.stages):
        raise ValueError("CPGD-Net has no LPIPS loss: leave out lpips_weight, --lpips-weights")
    config = preset.cpgd_model if start is None else start.config
    assert isinstance(config, CpgdConfig)
    stages: dict[str, ContentStage] = {n: getattr(preset, n) for n in preset.stages}
    configs = [clips for stage in stages.values() for _, clips in stage.phases]
    data = TrainingData(
        data_specs,
        num_frames=max(c.num_frames for c in configs),
        crop=max(c.crop for c in configs),
    )
    for clips in configs:
        data.check(clips)
    shown = None if validation is None else ValidationClips(validation, configs[-1], folder)
    workers = workers_of_process(num_workers, configs, device)
    begin_run(folder, preset, origin_of(data_specs, data, init=start, validation=validation))
    accelerator = make_accelerator(device, preset.precision, folder)
    if is_split(accelerator):
        raise ValueError("a network of this size is not split: leave out --use_fsdp")
    trainer = _Trainer(
        preset=preset,
        data=data,
        folder=folder,
        accelerator=accelerator,
        validation=shown,
        intervals=intervals,
        num_workers=workers,
        progress=progress,
        provenance=provenance_of(preset, data_specs, init),
        licence=LICENCE if start is None else start.licence,
    )
    torch.manual_seed(preset.seed)
    model = Cpgd(config) if init is None else load_model(init, operations=nn)
    for name, stage in stages.items():
        model = trainer.train_stage(name, model, stage)
    path = folder / "checkpoint.safetensors"
    if accelerator.is_main_process:
        for target in (path, *([] if export is None else [Path(export)])):
            trainer.save(target, model)
    # Whoever ends first takes the others down: not before the checkpoint is written.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return path


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell the matrices inside stage 1, which Muon may update.

    Not the first and last layers, nor those that begin at zero and move what is sampled, nor
    convolutions of single channels, which are no matrices.
    """
    ends = ("encoder.enter.0.", "decoder.leave.", "alignment.leave.")
    inside = parameter.ndim > 1 and parameter.shape[1] > 1
    return inside and not any(end in name for end in ends)


@dataclass(kw_only=True)
class _Trainer:
    """What the stages of one run share; fields as in `recipe`."""

    preset: Preset
    data: TrainingData
    folder: Path
    accelerator: Accelerator
    validation: ValidationClips | None
    intervals: dict[str, Any]
    num_workers: int
    progress: ProgressFn | None
    provenance: dict[str, object]
    licence: str

    def __post_init__(self) -> None:
        if self.accelerator.is_main_process:
            text = json.dumps(dataclasses.asdict(self.preset), indent=2)
            write_file(self.folder / "config.json", text.encode())

    def train_stage(self, name: str, model: Cpgd, stage: ContentStage) -> Cpgd:
        """Run one stage."""
        share = share_of_process(
            self.accelerator, stage.data.clips_per_batch, stage.accumulation
        )
        loader = ClipLoader(
            self.data,
            stage.phases,
            clips=stage.data.clips_per_batch,
            seed=self.preset.seed + 21 + CPGD_STAGES.index(name),
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            num_workers=self.num_workers,
        )

        def batches(first: int, last: int) -> Iterator[list[_MicroBatch]]:
            size = len(share) // stage.accumulation
            for step, drawn in enumerate(loader.batches(first, last), start=first):
                yield [(step, drawn[i : i + size]) for i in range(0, len(share), size)]

        def prepare(micro_batch: _MicroBatch) -> tuple[Tensor, Tensor, ClipPriors, float]:
            step, drawn = micro_batch
            pair = self.data.finish(drawn, self.accelerator.device)
            blurry, sharp = (rearrange(c * 2 - 1, "b t c h w -> b c t h w") for c in pair)
            return blurry, sharp, priors_of_clips(blurry), step / stage.steps

        module, run = CpfpTraining(model, stage), self._run(name, stage)
        validation = self.validation and self.validation.bound(
            name, module, self.accelerator, self.provenance, self.licence
        )
        average = train(run, self.accelerator, module, batches, prepare, validation)
        trained = Cpgd(model.config)
        trained.load_state_dict(with_prefix(whole_weights(module, average), "model."))
        self.accelerator.free_memory()
        return trained

    def save(self, path: Path, model: Cpgd) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            path,
            model.state_dict(),
            model.config,
            provenance=self.provenance,
            licence=self.licence,
        )

    def _run(self, name: str, stage: ContentStage) -> Run:
        run = Run(
            name=name,
            folder=self.folder,
            steps=stage.steps,
            learning_rate=stage.learning_rate,
            warmup_steps=stage.warmup_steps,
            weight_decay=stage.weight_decay,
            betas=stage.betas,
            rate_factors={"model.cpfp.decoder.leave.": stage.last_layer_rate},
            takes_muon=is_inner_matrix if stage.optimizer == "muon" else None,
            gradient_clip=stage.gradient_clip,
            ema_decay=stage.ema_decay,
            **self.intervals,
            images_per_sample=stage.data.num_frames,
        )
        if self.progress is not None:
            report = self.progress
            run.progress = lambda step, steps, values: report(name, step, steps, values)
        return run
