"""What a run of CPGD-Net trains."""

from __future__ import annotations

from torch import Tensor, nn

from ..models.checkpoint import LICENCE, load_model, read_info
from ..models.cpgd import Cpgd
from ..models.cpgd_config import CpgdConfig
from .config import CPGD_STAGES, ContentStage
from .cpgd_stages import CpfpTraining, priors_of_clips
from .data.loader import TrainingData
from .preflight import described
from .stage_trainer import MicroBatch, Request, Stage, StageTrainer, as_video


class CpgdPlan:
    """A `stage_trainer.Plan`.

    Raises:
        ValueError: If the request does not fit.
    """

    splits = False

    def __init__(self, request: Request) -> None:
        preset = request.preset
        if request.autoencoder is not None:
            raise ValueError("a network of this kind has none: leave out --autoencoder")
        if request.init is None and preset.cpgd_model is None:
            raise ValueError("this preset starts from a checkpoint; name one with --init")
        start = (
            None if request.init is None else read_info(request.init, config_type=CpgdConfig)
        )
        self.stages: dict[str, ContentStage] = {n: getattr(preset, n) for n in preset.stages}
        if request.lpips is not None or any(s.lpips_weight for s in self.stages.values()):
            raise ValueError(
                "CPGD-Net has no LPIPS loss: leave out lpips_weight, --lpips-weights"
            )
        self.clips = [clips for stage in self.stages.values() for _, clips in stage.phases]
        self.licence = LICENCE if start is None else start.licence
        self.origin = {"init": described(start), "autoencoder": None}
        self._request = request

    def check(self, data: TrainingData) -> None:
        """See `Plan`: all has been checked."""

    def train(self, trainer: StageTrainer) -> Cpgd:
        """See `Plan`."""
        preset, init = self._request.preset, self._request.init
        if init is not None:
            model = load_model(init, operations=nn)
        else:
            assert preset.cpgd_model is not None
            model = Cpgd(preset.cpgd_model)
        for name, stage in self.stages.items():
            model = trainer.run(self._stage(name, model, stage))
        return model

    def _stage(self, name: str, model: Cpgd, stage: ContentStage) -> Stage:
        def arguments(batch: MicroBatch, blurry: Tensor, sharp: Tensor) -> tuple[object, ...]:
            video = as_video(blurry)
            return video, as_video(sharp), priors_of_clips(video), batch.step / stage.steps

        return Stage(
            name=name,
            settings=stage,
            seed=self._request.preset.seed + 21 + CPGD_STAGES.index(name),
            module=CpfpTraining(model, stage),
            arguments=arguments,
            takes_muon=is_inner_matrix,
            rate_factors={"model.cpfp.decoder.leave.": stage.last_layer_rate},
        )


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell the matrices inside stage 1, which Muon may update.

    Not the first and last layers, nor those that begin at zero and move what is sampled, nor
    convolutions of single channels, which are no matrices.
    """
    ends = ("encoder.enter.0.", "decoder.leave.", "alignment.leave.")
    inside = parameter.ndim > 1 and parameter.shape[1] > 1
    return inside and not any(end in name for end in ends)
