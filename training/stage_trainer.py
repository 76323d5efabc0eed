"""One stage of training from data to weights, whatever network it trains.

An architecture has a `Plan`: what it trains and starts from, and its stages in order. Each
stage is a module with its loss, what that takes of a batch, and what is particular about its
updates (`Stage`); data, loader, states, log and validation are the same for all and belong to
`StageTrainer`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from einops import rearrange
from torch import Tensor, nn

from ..video.atomic import write_file
from . import loop
from .accelerator import share_of_process
from .config import ContentStage, DataConfig, DiffusionStage, Preset
from .data.loader import ClipLoader, DrawnClip, TrainingData
from .loop import Opponent, Run, train
from .states import whole_weights, with_prefix
from .validation import ValidationClips

if TYPE_CHECKING:
    from accelerate import Accelerator

ProgressFn = Callable[[str, int, int, "dict[str, float] | None"], None]
"""Called with (stage, step, steps, values): averaged values at every log line, else None."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked for, besides its data and where its files go."""

    preset: Preset
    init: str | Path | None = None
    autoencoder: str | Path | None = None
    diffusion: str | Path | None = None
    validation: str | None = None
    lpips: nn.Module | None = None


class Plan(Protocol):
    """What an architecture trains: made of a `Request`, which it refuses if it does not fit."""

    splits: bool
    """Whether FSDP may split its network."""
    licence: str
    """Of the trained weights: that of the checkpoint they start from."""
    origin: dict[str, Any]
    """What the weights depend on besides data, by name: `preflight.origin_of` adds it."""

    @property
    def stages(self) -> Mapping[str, ContentStage | DiffusionStage]:
        """Those that train on clips, in order."""
        ...

    @property
    def clips(self) -> Sequence[DataConfig]:
        """All that is drawn; validation restores clips as long as the last one."""
        ...

    def check(self, data: TrainingData) -> None:
        """Raise ValueError if the stages cannot be computed on the data."""
        ...

    def train(self, trainer: StageTrainer) -> nn.Module:
        """Run all stages and return the network."""
        ...


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Clips that are computed at a time."""

    step: int
    """Number of the update."""
    places: Sequence[int]
    """Of the clips in the whole update."""
    drawn: list[DrawnClip]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """What sets one stage apart."""

    name: str
    """Names its files."""
    settings: ContentStage | DiffusionStage
    seed: int
    """Of its clips."""
    module: Any
    """Its loss, around the network `model`; a `validation.RestoresClips`."""
    arguments: Callable[[MicroBatch, Tensor, Tensor], tuple[object, ...]]
    """From a micro batch and its clips, blurry and sharp, `[B, T, 3, H, W]` in 0..1 on the
    device, to what the module takes; on a GPU called before the update before has ended."""
    takes_muon: Callable[[str, nn.Parameter], bool]
    """Which parameters Muon updates, where the settings ask for it."""
    rate_factors: dict[str, float] = field(default_factory=dict)
    """As in `Run`."""
    opponent: Opponent | None = None
    """As in `Run`."""
    images_per_sample: int | None = None
    """Frames of a clip that are restored; None: all."""


@dataclass(kw_only=True)
class StageTrainer:
    """What the stages of one run share."""

    preset: Preset
    data: TrainingData
    folder: Path
    accelerator: Accelerator
    validation: ValidationClips | None
    intervals: dict[str, Any]
    """Of logging, saving and validating, as `Run` takes them."""
    num_workers: dict[str, int]
    """By stage."""
    progress: ProgressFn | None
    provenance: dict[str, object]
    licence: str
    """Of the trained weights."""

    def __post_init__(self) -> None:
        if self.accelerator.is_main_process:
            text = json.dumps(dataclasses.asdict(self.preset), indent=2)
            write_file(self.folder / "config.json", text.encode())

    def run(self, stage: Stage) -> Any:
        """Run a stage and return its network with averaged weights, on the CPU."""
        settings = stage.settings
        share = share_of_process(
            self.accelerator, settings.data.clips_per_batch, settings.accumulation
        )
        loader = ClipLoader(
            self.data,
            settings.phases,
            clips=settings.data.clips_per_batch,
            seed=stage.seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            num_workers=self.num_workers[stage.name],
        )

        def batches(first: int, last: int) -> Iterator[list[MicroBatch]]:
            size = len(share) // settings.accumulation
            for step, drawn in enumerate(loader.batches(first, last), start=first):
                yield [
                    MicroBatch(step, share[i : i + size], drawn[i : i + size])
                    for i in range(0, len(share), size)
                ]

        def prepare(batch: MicroBatch) -> tuple[object, ...]:
            blurry, sharp = self.data.finish(batch.drawn, self.accelerator.device)
            return stage.arguments(batch, blurry, sharp)

        validation = self.validation and self.validation.bound(
            stage.name, stage.module, self.accelerator, self.provenance, self.licence
        )
        run = self._updates(stage)
        average = train(run, self.accelerator, stage.module, batches, prepare, validation)
        model = stage.module.model
        trained = type(model)(model.config)
        trained.load_state_dict(with_prefix(whole_weights(stage.module, average), "model."))
        self.accelerator.free_memory()
        return trained

    def progress_of(self, stage: str) -> loop.ProgressFn | None:
        """Return what the loop of a stage reports to."""
        if self.progress is None:
            return None
        report = self.progress
        return lambda step, steps, values: report(stage, step, steps, values)

    def _updates(self, stage: Stage) -> Run:
        settings = stage.settings
        return Run(
            name=stage.name,
            folder=self.folder,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            rate_factors=stage.rate_factors,
            takes_muon=stage.takes_muon if settings.optimizer == "muon" else None,
            opponent=stage.opponent,
            gradient_clip=settings.gradient_clip,
            ema_decay=settings.ema_decay,
            **self.intervals,
            images_per_sample=stage.images_per_sample or settings.data.num_frames,
            progress=self.progress_of(stage.name),
        )


def as_video(clips: Tensor) -> Tensor:
    """Return drawn clips `[B, T, 3, H, W]` in 0..1 as `[B, 3, T, H, W]` in -1..1."""
    return rearrange(clips * 2 - 1, "b t c h w -> b c t h w")
