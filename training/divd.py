"""What a run of the diffusion model trains: stage 0, then the stages on clips."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ..models.autoencoder import Autoencoder
from ..models.checkpoint import LICENCE, load_model, read_info
from ..models.config import DivdConfig
from ..models.divd import Divd
from .accelerator import share_of_process
from .config import DIFFUSION_STAGES, AutoencoderStage, DataConfig, DiffusionStage
from .data.loader import TrainingData, clip_generator
from .loop import Run, train
from .preflight import check_autoencoder, check_stages, described
from .stage_trainer import MicroBatch, Request, Stage, StageTrainer, as_video
from .stages import AutoencoderTraining, DiffusionTraining, draw
from .start import with_autoencoder, with_statistics
from .states import whole_weights, with_prefix


class DivdPlan:
    """A `stage_trainer.Plan`.

    Raises:
        ValueError: If the request does not fit.
    """

    splits = True

    def __init__(self, request: Request) -> None:
        preset = request.preset
        if request.lpips is not None:
            raise ValueError("a diffusion model has no LPIPS loss: leave out --lpips-weights")
        if request.init is None and preset.autoencoder is None:
            raise ValueError("this preset starts from a checkpoint; name one with --init")
        if request.init is not None and request.autoencoder is not None:
            raise ValueError("--init brings its own autoencoder: leave out --autoencoder")
        sources = {
            name: None if path is None else read_info(path, config_type=DivdConfig)
            for name, path in (("init", request.init), ("autoencoder", request.autoencoder))
        }
        self.origin = {name: described(info) for name, info in sources.items()}
        self.stages: dict[str, DiffusionStage] = {
            n: s for n in DIFFUSION_STAGES if (s := getattr(preset, n)) is not None
        }
        self.clips = [
            c for s in self.stages.values() for c in (s.data, s.easy_data) if c is not None
        ]
        if not self.clips:
            assert preset.autoencoder is not None
            # Single frames.
            self.clips = [DataConfig(num_frames=1, crop=preset.autoencoder.crop)]
            if request.validation is not None:
                raise ValueError("stage 0 alone restores no clips: leave out --validation")
        self._request, self._start = request, sources["init"] or sources["autoencoder"]
        self.licence = LICENCE if self._start is None else self._start.licence
        config = preset.model if sources["init"] is None else sources["init"].config
        assert config is not None
        self._config: DivdConfig = config

    def check(self, data: TrainingData) -> None:
        """See `Plan`."""
        other = self._request.autoencoder
        if other is not None and self._start is not None:
            check_autoencoder(self._config.autoencoder, self._start.config.autoencoder, other)
        check_stages(self._request.preset, self._config, data)

    def train(self, trainer: StageTrainer) -> Divd:
        """See `Plan`."""
        preset, other = self._request.preset, self._request.autoencoder
        if self._request.init is not None:
            model = load_model(self._request.init, operations=nn)
        elif other is not None:
            model = with_autoencoder(self._config, other, preset.seed)
        else:
            model = Divd(self._config)
        if preset.autoencoder is not None and (self._start is None or not self.stages):
            model = _train_autoencoder(trainer, model, preset.autoencoder)
        for name, stage in self.stages.items():
            model = trainer.run(_stage(trainer, name, model, stage))
        return model


def _train_autoencoder(trainer: StageTrainer, model: Divd, stage: AutoencoderStage) -> Divd:
    """Run stage 0; the blur encoder of the result is a copy of the sharp one."""
    accelerator, data, seed = trainer.accelerator, trainer.data, trainer.preset.seed
    share = share_of_process(accelerator, stage.batch_size, 1)
    size = stage.crop // model.downscale
    shape = (model.config.autoencoder.latent_channels, size, size)

    def image(step: int, index: int) -> tuple[Tensor, Tensor]:
        generator = clip_generator(seed, step, index, "autoencoder")
        pixels = data.images(1, stage.crop, generator)[0]
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
        return images.to(accelerator.device) * 2 - 1, noise.to(accelerator.device)

    run = Run(
        name="autoencoder",
        folder=trainer.folder,
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        weight_decay=0.0,
        ema_decay=0.995,
        **trainer.intervals,
        progress=trainer.progress_of("autoencoder"),
    )
    module = AutoencoderTraining(model.autoencoder, stage)
    average = train(run, accelerator, module, batches, prepare)
    autoencoder = Autoencoder(model.config.autoencoder)
    autoencoder.load_state_dict(with_prefix(whole_weights(module, average), "autoencoder."))
    accelerator.free_memory()
    return with_statistics(model.config, autoencoder, data, seed)


def _stage(trainer: StageTrainer, name: str, model: Divd, stage: DiffusionStage) -> Stage:
    """Return one of the stages after stage 0."""
    seed = trainer.preset.data_seed(1 + DIFFUSION_STAGES.index(name))

    def arguments(batch: MicroBatch, blurry: Tensor, sharp: Tensor) -> tuple[object, ...]:
        video, at = as_video(blurry), batch.step / stage.steps
        generators = [clip_generator(seed, batch.step, i, "draws") for i in batch.places]
        num_frames, height, width = video.shape[2:]
        draws = draw(stage, model.config, (num_frames, height, width), at, generators)
        return video, as_video(sharp), draws.to(video.device), at

    return Stage(
        name=name,
        settings=stage,
        seed=seed,
        module=DiffusionTraining(model, stage),
        arguments=arguments,
        takes_muon=is_hidden_matrix,
        rate_factors={"model.blur_encoder.": stage.blur_encoder_rate},
    )


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell the matrices inside the UNet from its ends, embeddings, biases and norms."""
    ends = ("conv_in.", "conv_out.", "time_emb", "relative_position.")
    inside = name.removeprefix("model.").startswith("unet.")
    return inside and parameter.ndim > 1 and not any(end in name for end in ends)
