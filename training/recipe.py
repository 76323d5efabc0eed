"""A preset from start to end: data, its stages in order, exported checkpoint."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.autoencoder import Autoencoder
from ..models.checkpoint import LICENCE, load_model, read_info, save_checkpoint
from ..models.config import DivdConfig
from ..models.divd import Divd
from ..training import loop
from ..video.atomic import write_file
from .accelerator import make_accelerator, share_of_process
from .config import DIFFUSION_STAGES, AutoencoderStage, DataConfig, DiffusionStage, Preset
from .cpgd import train_cpgd
from .data.loader import ClipLoader, DrawnClip, TrainingData, clip_generator
from .data.workers import workers_of_process
from .feed_forward import train_feed_forward
from .loop import Run, train
from .preflight import (
    begin_run,
    check_autoencoder,
    check_request,
    check_stages,
    origin_of,
    provenance_of,
)
from .stages import AutoencoderTraining, DiffusionTraining, draw
from .start import with_autoencoder, with_statistics
from .states import whole_weights, with_prefix
from .validation import ValidationClips

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

ProgressFn = Callable[[str, int, int, "dict[str, float] | None"], None]
"""Called with (stage, step, steps, values): averaged values at every log line, else None."""
_MicroBatch = tuple[int, list[int], list[DrawnClip]]
"""Update, places of the clips in it, clips."""


def train_preset(
    preset: Preset,
    data_specs: Sequence[str],
    folder: str | Path,
    *,
    device: str = "auto",
    init: str | Path | None = None,
    autoencoder: str | Path | None = None,
    validation: str | None = None,
    validate_every: int = 500,
    log_every: int = 20,
    save_every_s: float | None = None,
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
        folder: Where states, logs, pictures, `best.safetensors` (with `validation`) and
            `checkpoint.safetensors` go.
        device: "auto" or "cpu"; several devices and processes by `accelerate launch`.
        init: Name or path of a checkpoint to start from, which keeps its config. Stage 0 is
            then skipped, or if it is the only stage goes on from the checkpoint's autoencoder.
        autoencoder: Name or path of a checkpoint whose autoencoder is taken as stage 0 would
            leave it; everything else starts from the preset.
        validation: Pairs that are restored now and then, `KIND:PATH`.
        validate_every: Updates between validations.
        log_every: Updates between lines of the log.
        save_every_s: Seconds between states; None: 60, or 1800 where one has over 1 GB.
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
    intervals = {
        "validate_every": validate_every,
        "log_every": log_every,
        "save_every_s": save_every_s,
    }
    if preset.is_feed_forward or preset.is_cpgd:
        if autoencoder is not None:
            raise ValueError("a network of this kind has none: leave out --autoencoder")
        train_network = train_cpgd if preset.is_cpgd else train_feed_forward
        return train_network(
            preset,
            data_specs,
            folder,
            device=device,
            init=init,
            validation=validation,
            intervals=intervals,
            num_workers=num_workers,
            export=export,
            progress=progress,
            lpips=lpips,
        )
    if lpips is not None:
        raise ValueError("a diffusion model has no LPIPS loss: leave out --lpips-weights")
    if init is None and preset.autoencoder is None:
        raise ValueError("this preset starts from a checkpoint; name one with --init")
    if init is not None and autoencoder is not None:
        raise ValueError("--init brings its own autoencoder: leave out --autoencoder")
    sources = {
        name: None if path is None else read_info(path, config_type=DivdConfig)
        for name, path in (("init", init), ("autoencoder", autoencoder))
    }
    stages = {n: s for n in DIFFUSION_STAGES if (s := getattr(preset, n)) is not None}
    configs = [c for s in stages.values() for c in (s.data, s.easy_data) if c is not None]
    if not configs:
        assert preset.autoencoder is not None
        # Single frames.
        configs = [DataConfig(num_frames=1, crop=preset.autoencoder.crop)]
        if validation is not None:
            raise ValueError("stage 0 alone restores no clips: leave out --validation")
    data = TrainingData(
        data_specs,
        num_frames=max(c.num_frames for c in configs),
        crop=max(c.crop for c in configs),
    )
    clips = None if validation is None else ValidationClips(validation, configs[-1], folder)
    start = sources["init"] or sources["autoencoder"]
    config = preset.model if sources["init"] is None else sources["init"].config
    assert config is not None
    if autoencoder is not None and start is not None:
        check_autoencoder(config.autoencoder, start.config.autoencoder, autoencoder)
    check_stages(preset, config, data)
    workers = {
        n: workers_of_process(num_workers, (s.data, s.easy_data), device)
        for n, s in stages.items()
    }
    begin_run(folder, preset, origin_of(data_specs, data, **sources, validation=validation))
    accelerator = make_accelerator(device, preset.precision, folder)
    recipe = _Recipe(
        preset=preset,
        data=data,
        folder=folder,
        accelerator=accelerator,
        validation=clips,
        intervals=intervals,
        num_workers=workers,
        progress=progress,
        provenance=provenance_of(preset, data_specs, init, autoencoder),
        licence=LICENCE if start is None else start.licence,
    )
    torch.manual_seed(preset.seed)
    if init is not None:
        model = load_model(init)
    else:
        assert preset.model is not None
        model = (
            Divd(preset.model)
            if autoencoder is None
            else with_autoencoder(preset.model, autoencoder, preset.seed)
        )
    if preset.autoencoder is not None and (start is None or not stages):
        model = recipe.train_autoencoder(model, preset.autoencoder)
    for name, stage in stages.items():
        model = recipe.train_diffusion(name, model, stage)
    path = folder / "checkpoint.safetensors"
    if recipe.accelerator.is_main_process:
        for target in (path, *([] if export is None else [Path(export)])):
            save_checkpoint(
                target,
                model.state_dict(),
                model.config,
                provenance=recipe.provenance,
                licence=recipe.licence,
            )
    # Whoever ends first takes the others down: not before the checkpoint is written.
    recipe.accelerator.wait_for_everyone()
    recipe.accelerator.end_training()
    return path


@dataclass(kw_only=True)
class _Recipe:
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
    """Of the trained weights: that of the checkpoint they start from."""

    def __post_init__(self) -> None:
        if self.accelerator.is_main_process:
            text = json.dumps(dataclasses.asdict(self.preset), indent=2)
            write_file(self.folder / "config.json", text.encode())

    def train_autoencoder(self, model: Divd, stage: AutoencoderStage) -> Divd:
        """Run stage 0; the blur encoder of the result is a copy of the sharp one."""
        share = share_of_process(self.accelerator, stage.batch_size, 1)
        size = stage.crop // model.downscale
        shape = (model.config.autoencoder.latent_channels, size, size)
        seed = self.preset.seed

        def image(step: int, index: int) -> tuple[Tensor, Tensor]:
            generator = clip_generator(seed, step, index, "autoencoder")
            pixels = self.data.images(1, stage.crop, generator)[0]
            return pixels, torch.randn(shape, generator=generator)

        def batches(first: int, last: int) -> Iterator[list[list[tuple[Tensor, Tensor]]]]:
            # Drawn ahead in threads: cutting and decoding release the interpreter's lock.
            with ThreadPoolExecutor(2) as pool:
                queued = []
                for step in range(first, last + 2):
                    if step < last:
                        queued.append([pool.submit(image, step, i) for i in share])
                    if step >= first + 2:
                        yield [[future.result() for future in queued.pop(0)]]

        def prepare(drawn: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
            images, noise = (torch.stack(part) for part in zip(*drawn, strict=True))
            device = self.accelerator.device
            return images.to(device) * 2 - 1, noise.to(device)

        run = Run(
            name="autoencoder",
            folder=self.folder,
            steps=stage.steps,
            learning_rate=stage.learning_rate,
            weight_decay=0.0,
            ema_decay=0.995,
            **self.intervals,
            progress=self._progress("autoencoder"),
        )
        module = AutoencoderTraining(model.autoencoder, stage)
        average = train(run, self.accelerator, module, batches, prepare)
        autoencoder = Autoencoder(model.config.autoencoder)
        weights = whole_weights(module, average)
        autoencoder.load_state_dict(with_prefix(weights, "autoencoder."))
        self.accelerator.free_memory()
        return with_statistics(model.config, autoencoder, self.data, seed)

    def train_diffusion(self, name: str, model: Divd, stage: DiffusionStage) -> Divd:
        """Run one of the stages after stage 0."""
        config, seed = model.config, self.preset.seed + 1 + DIFFUSION_STAGES.index(name)
        share = share_of_process(
            self.accelerator, stage.data.clips_per_batch, stage.accumulation
        )
        easy_steps = int(stage.easy_until * stage.steps) if stage.easy_data else 0
        phases = [(easy_steps, stage.data)]
        if stage.easy_data is not None and easy_steps:
            phases.insert(0, (0, stage.easy_data))
        loader = ClipLoader(
            self.data,
            phases,
            clips=stage.data.clips_per_batch,
            seed=seed,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            num_workers=self.num_workers[name],
        )

        def batches(first: int, last: int) -> Iterator[list[_MicroBatch]]:
            size = len(share) // stage.accumulation
            for step, drawn in enumerate(loader.batches(first, last), start=first):
                yield [
                    (step, list(share[i : i + size]), drawn[i : i + size])
                    for i in range(0, len(share), size)
                ]

        def prepare(micro_batch: _MicroBatch) -> tuple[object, ...]:
            step, indices, drawn = micro_batch
            device = self.accelerator.device
            pair = self.data.finish(drawn, device)
            blurry, sharp = (rearrange(c * 2 - 1, "b t c h w -> b c t h w") for c in pair)
            generators = [clip_generator(seed, step, index, "draws") for index in indices]
            num_frames, height, width = blurry.shape[2:]
            at = step / stage.steps
            draws = draw(stage, config, (num_frames, height, width), at, generators)
            return blurry, sharp, draws.to(device), at

        run = Run(
            name=name,
            folder=self.folder,
            steps=stage.steps,
            learning_rate=stage.learning_rate,
            warmup_steps=stage.warmup_steps,
            weight_decay=stage.weight_decay,
            betas=stage.betas,
            rate_factors={"model.blur_encoder.": stage.blur_encoder_rate},
            takes_muon=is_hidden_matrix if stage.optimizer == "muon" else None,
            gradient_clip=stage.gradient_clip,
            ema_decay=stage.ema_decay,
            **self.intervals,
            images_per_sample=stage.data.num_frames,
            progress=self._progress(name),
        )
        module = DiffusionTraining(model, stage)
        validation = self.validation and self.validation.bound(
            name, module, self.accelerator, self.provenance, self.licence
        )
        average = train(run, self.accelerator, module, batches, prepare, validation)
        trained = Divd(config)
        trained.load_state_dict(with_prefix(whole_weights(module, average), "model."))
        self.accelerator.free_memory()
        return trained

    def _progress(self, stage: str) -> loop.ProgressFn | None:
        if self.progress is None:
            return None
        report = self.progress
        return lambda step, steps, values: report(stage, step, steps, values)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell the matrices inside the UNet from its ends, embeddings, biases and norms."""
    ends = ("conv_in.", "conv_out.", "time_emb", "relative_position.")
    inside = name.removeprefix("model.").startswith("unet.")
    return inside and parameter.ndim > 1 and not any(end in name for end in ends)
