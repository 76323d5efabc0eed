"""What a run of a feed-forward network trains."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from ..models.checkpoint import LICENCE, load_model
from ..models.dblrgan import Discriminator
from ..models.dblrnet import DblrNet, DblrNetConfig, to_luma
from .config import FEED_FORWARD_STAGES, AdversarialStage, ContentStage
from .data.loader import TrainingData
from .feed_forward_stages import AdversarialTraining, ContentTraining
from .loop import Opponent
from .preflight import described
from .stage_trainer import MicroBatch, Request, Stage, StageTrainer
from .start import network_of


class FeedForwardPlan:
    """A `stage_trainer.Plan`.

    Raises:
        ValueError: If the request does not fit.
    """

    splits = False

    def __init__(self, request: Request) -> None:
        preset = request.preset
        config, start = network_of(request, preset.generator, DblrNetConfig)
        self.stages: dict[str, ContentStage] = {n: getattr(preset, n) for n in preset.stages}
        self.clips = [clips for stage in self.stages.values() for _, clips in stage.phases]
        self.licence = LICENCE if start is None else start.licence
        self.origin: dict[str, object] = {"init": described(start), "autoencoder": None}
        if request.lpips is not None:
            self.origin["lpips"] = _digest(request.lpips)
        self._request, self._config = request, config
        _check_stages(self.stages, config, request.lpips)

    def check(self, data: TrainingData) -> None:
        """See `Plan`: all has been checked."""

    def train(self, trainer: StageTrainer) -> DblrNet:
        """See `Plan`."""
        init = self._request.init
        model = DblrNet(self._config) if init is None else load_model(init, operations=nn)
        for name, stage in self.stages.items():
            model = trainer.run(self._stage(name, model, stage))
        return model

    def _stage(self, name: str, model: DblrNet, stage: ContentStage) -> Stage:
        def arguments(batch: MicroBatch, blurry: Tensor, sharp: Tensor) -> tuple[object, ...]:
            return to_luma(blurry), to_luma(sharp), batch.step / stage.steps, batch.step

        factors, opponent = {"model.head3.": stage.last_layer_rate}, None
        if isinstance(stage, AdversarialStage):
            factors["discriminator."] = stage.discriminator_rate
            opponent = Opponent(prefix="discriminator.", betas=stage.discriminator_betas)
        return Stage(
            name=name,
            settings=stage,
            seed=self._request.preset.data_seed(11 + FEED_FORWARD_STAGES.index(name)),
            module=self._module(model, stage),
            arguments=arguments,
            takes_muon=is_inner_matrix,
            rate_factors=factors,
            opponent=opponent,
            images_per_sample=stage.data.num_frames - model.config.num_frames + 1,
        )

    def _module(self, model: DblrNet, stage: ContentStage) -> ContentTraining:
        lpips = self._request.lpips
        if not isinstance(stage, AdversarialStage):
            return ContentTraining(model, stage, lpips)
        torch.manual_seed(self._request.preset.seed + 1)
        return AdversarialTraining(model, stage, Discriminator(stage.discriminator), lpips)


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell the convolutions between the first and the last, which Muon may update."""
    ends = ("model.conv1.", "model.head3.", "discriminator.")
    return parameter.ndim > 1 and not name.startswith(ends)


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
