"""A preset of feed-forward networks from start to end: data, stages, exported checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..models.checkpoint import LICENCE, load_model, read_info, save_checkpoint
from ..models.dblrgan import Discriminator
from ..models.dblrnet import DblrNet, DblrNetConfig, to_luma
from ..video.atomic import write_file
from .accelerator import make_accelerator, share_of_process
from .config import FEED_FORWARD_STAGES, AdversarialStage, ContentStage, Preset
from .data.loader import ClipLoader, DrawnClip, TrainingData
from .data.workers import workers_of_process
from .feed_forward_stages import AdversarialTraining, ContentTraining
from .fsdp import is_split
from .loop import Opponent, Run, train
from .preflight import begin_run, origin_of, provenance_of
from .states import whole_weights, with_prefix
from .validation import ValidationClips

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .recipe import ProgressFn

logger = logging.getLogger(__name__)

_MicroBatch = tuple[int, list[DrawnClip]]
"""Update, clips of it."""


def train_feed_forward(
    preset: Preset,
    data_specs: Sequence[str],
    folder: Path,
    *,
    device: str,
    init: str | Path | None,
    validation: str | None,
    intervals: dict[str, Any],
    num_workers: int | None,
    export: str | Path | None,
    progress: ProgressFn | None,
    lpips: nn.Module | None,
) -> Path:
    """Run the stages of a preset and export the checkpoint; see `recipe.train_preset`.

    The request has been checked (`preflight.check_request`).

    Raises:
        ValueError: If the preset needs a checkpoint to start from, or a data set, a stage
            or the folder does not fit.
        FileNotFoundError: If a data set does not exist.
    """
    if init is None and preset.generator is None:
        raise ValueError("this preset starts from a checkpoint; name one with --init")
    start = None if init is None else read_info(init, config_type=DblrNetConfig)
    config = preset.generator if start is None else start.config
    assert isinstance(config, DblrNetConfig)
    stages: dict[str, ContentStage] = {n: getattr(preset, n) for n in preset.stages}
    _check_stages(stages, config, lpips)
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
    origin = origin_of(data_specs, data, init=start, validation=validation)
    if lpips is not None:
        origin["lpips"] = _digest(lpips)
    begin_run(folder, preset, origin)
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
        lpips=lpips,
        provenance=provenance_of(preset, data_specs, init),
        licence=LICENCE if start is None else start.licence,
    )
    torch.manual_seed(preset.seed)
    model = DblrNet(config) if init is None else load_model(init, operations=nn)
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
    """Tell the convolutions between the first and the last, which Muon may update."""
    ends = ("model.conv1.", "model.head3.", "discriminator.")
    return parameter.ndim > 1 and not name.startswith(ends)


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
    lpips: nn.Module | None
    provenance: dict[str, object]
    licence: str

    def __post_init__(self) -> None:
        if self.accelerator.is_main_process:
            text = json.dumps(dataclasses.asdict(self.preset), indent=2)
            write_file(self.folder / "config.json", text.encode())

    def train_stage(self, name: str, model: DblrNet, stage: ContentStage) -> DblrNet:
        """Run one stage."""
        seed = self.preset.seed + 11 + FEED_FORWARD_STAGES.index(name)
        share = share_of_process(
            self.accelerator, stage.data.clips_per_batch, stage.accumulation
        )
        loader = ClipLoader(
            self.data,
            stage.phases,
            clips=stage.data.clips_per_batch,
            seed=seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            num_workers=self.num_workers,
        )

        def batches(first: int, last: int) -> Iterator[list[_MicroBatch]]:
            size = len(share) // stage.accumulation
            for step, drawn in enumerate(loader.batches(first, last), start=first):
                yield [(step, drawn[i : i + size]) for i in range(0, len(share), size)]

        def prepare(micro_batch: _MicroBatch) -> tuple[Tensor, Tensor, float, int]:
            step, drawn = micro_batch
            blurry, sharp = self.data.finish(drawn, self.accelerator.device)
            return to_luma(blurry), to_luma(sharp), step / stage.steps, step

        module, run = self._module(model, stage), self._run(name, model.config, stage)
        validation = self.validation and self.validation.bound(
            name, module, self.accelerator, self.provenance, self.licence
        )
        average = train(run, self.accelerator, module, batches, prepare, validation)
        trained = DblrNet(model.config)
        trained.load_state_dict(with_prefix(whole_weights(module, average), "model."))
        self.accelerator.free_memory()
        return trained

    def save(self, path: Path, model: DblrNet) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            path,
            model.state_dict(),
            model.config,
            provenance=self.provenance,
            licence=self.licence,
        )

    def _module(self, model: DblrNet, stage: ContentStage) -> ContentTraining:
        if not isinstance(stage, AdversarialStage):
            return ContentTraining(model, stage, self.lpips)
        torch.manual_seed(self.preset.seed + 1)
        return AdversarialTraining(model, stage, Discriminator(stage.discriminator), self.lpips)

    def _run(self, name: str, config: DblrNetConfig, stage: ContentStage) -> Run:
        run = Run(
            name=name,
            folder=self.folder,
            steps=stage.steps,
            learning_rate=stage.learning_rate,
            warmup_steps=stage.warmup_steps,
            weight_decay=stage.weight_decay,
            betas=stage.betas,
            rate_factors={"model.head3.": stage.last_layer_rate},
            takes_muon=is_inner_matrix if stage.optimizer == "muon" else None,
            gradient_clip=stage.gradient_clip,
            ema_decay=stage.ema_decay,
            **self.intervals,
            images_per_sample=stage.data.num_frames - config.num_frames + 1,
        )
        if isinstance(stage, AdversarialStage):
            run.opponent = Opponent(prefix="discriminator.", betas=stage.discriminator_betas)
            run.rate_factors["discriminator."] = stage.discriminator_rate
        if self.progress is not None:
            report = self.progress
            run.progress = lambda step, steps, values: report(name, step, steps, values)
        return run


def _digest(module: nn.Module) -> str:
    """Hash weights: results depend on them."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return f"sha256 {digest.hexdigest()[:16]}"


def _check_stages(
    stages: dict[str, ContentStage], config: DblrNetConfig, lpips: nn.Module | None
) -> None:
    if lpips is not None and not any(stage.lpips_weight for stage in stages.values()):
        raise ValueError("no stage gives LPIPS a weight: set lpips_weight in the preset")
    for name, stage in stages.items():
        if stage.lpips_weight and lpips is None:
            raise ValueError(
                f"{name}: lpips_weight needs the weights of an LPIPS network; give "
                "torchvision's file with --lpips-weights"
            )
        for _, clips in stage.phases:
            if clips.num_frames < config.num_frames:
                raise ValueError(
                    f"{name}: num_frames must be {config.num_frames} or more for DBLRNet, got "
                    f"{clips.num_frames}"
                )
        if config.batch_norm and stage.ema_decay:
            raise ValueError(
                f"{name}: batch_norm keeps statistics of the weights as they are, not of "
                "their average: set ema_decay to 0, or train without batch_norm"
            )
