"""What a run of CPGD-Net trains."""

from __future__ import annotations

from torch import Tensor, nn

from ..models.checkpoint import LICENCE, CheckpointInfo, load_model, read_info
from ..models.config import DivdConfig
from ..models.cpgd import Cpgd
from ..models.cpgd_config import CpgdConfig
from .config import CPGD_STAGES, ContentStage, CpcStage
from .cpgd_stages import CpcTraining, CpfpTraining, priors_of_clips
from .data.loader import TrainingData, clip_generator
from .preflight import described
from .stage_trainer import MicroBatch, Request, Stage, StageTrainer, as_video
from .stages import check_trained_parts, draw
from .start import network_of, second_stage_config, with_second_stage


class CpgdPlan:
    """A `stage_trainer.Plan`.

    Raises:
        ValueError: If the request does not fit.
    """

    splits = False

    def __init__(self, request: Request) -> None:
        preset = request.preset
        config, start = network_of(request, preset.cpgd_model, CpgdConfig)
        self.stages: dict[str, ContentStage | CpcStage] = {
            name: getattr(preset, name) for name in preset.stages
        }
        if request.lpips is not None or any(
            isinstance(stage, ContentStage) and stage.lpips_weight
            for stage in self.stages.values()
        ):
            raise ValueError(
                "CPGD-Net has no LPIPS loss: leave out lpips_weight, --lpips-weights"
            )
        self.clips = [clips for stage in self.stages.values() for _, clips in stage.phases]
        self.licence = LICENCE if start is None else start.licence
        self.origin = {"init": described(start), "autoencoder": None}
        self._request, self._config = request, config
        self._diffusion = None if preset.cpc is None else self._begun_from(preset.cpc)
        if preset.cpc is not None and self._diffusion is not None:
            self.origin["diffusion"] = described(self._diffusion)
            self.licence = _joint_licence(self.licence, self._diffusion.licence)
            self._config = second_stage_config(config, self._diffusion.config, preset.cpc)

    def check(self, data: TrainingData) -> None:
        """See `Plan`."""
        stage = self._request.preset.cpc
        if stage is None:
            return
        assert self._config.cpc is not None
        check_trained_parts(Cpgd(self._config, device="meta"), stage)
        factor = self._config.cpc.divd.autoencoder.downscale
        for _, clips in stage.phases:
            if clips.crop % factor:
                raise ValueError(
                    f"cpc: crop must be a multiple of {factor} for this autoencoder, got "
                    f"{clips.crop}"
                )

    def train(self, trainer: StageTrainer) -> Cpgd:
        """See `Plan`."""
        preset, init = self._request.preset, self._request.init
        if init is not None:
            model = load_model(init, operations=nn)
        else:
            assert preset.cpgd_model is not None
            model = Cpgd(preset.cpgd_model)
        for name, stage in self.stages.items():
            if isinstance(stage, CpcStage):
                if self._diffusion is not None:
                    divd = load_model(self._diffusion, operations=nn)
                    model = with_second_stage(model, divd, stage, preset.seed)
                model = trainer.run(self._second(name, model, stage))
            else:
                model = trainer.run(self._first(name, model, stage))
        return model

    def _begun_from(self, stage: CpcStage) -> CheckpointInfo | None:
        """Return the diffusion model that a second stage is built around, if it is new."""
        named = self._request.diffusion
        if self._config.cpc is not None:
            if named is not None:
                raise ValueError("--init brings its own second stage: leave out --diffusion")
            return None
        path = named or stage.diffusion
        if path is None:
            raise ValueError(
                "cpc begins from a diffusion model; name its checkpoint with --diffusion "
                "(video-deblur convert makes one of public weights)"
            )
        return read_info(path, config_type=DivdConfig)

    def _seed(self, name: str) -> int:
        return self._request.preset.data_seed(21 + CPGD_STAGES.index(name))

    def _first(self, name: str, model: Cpgd, stage: ContentStage) -> Stage:
        def arguments(batch: MicroBatch, blurry: Tensor, sharp: Tensor) -> tuple[object, ...]:
            video = as_video(blurry)
            priors = priors_of_clips(video, model.config)
            return video, as_video(sharp), priors, batch.step / stage.steps

        return Stage(
            name=name,
            settings=stage,
            seed=self._seed(name),
            module=CpfpTraining(model, stage),
            arguments=arguments,
            takes_muon=is_inner_matrix,
            rate_factors={"model.cpfp.decoder.leave.": stage.last_layer_rate},
        )

    def _second(self, name: str, model: Cpgd, stage: CpcStage) -> Stage:
        assert model.config.cpc is not None
        divd, seed = model.config.cpc.divd, self._seed(name)

        def arguments(batch: MicroBatch, blurry: Tensor, sharp: Tensor) -> tuple[object, ...]:
            video, at = as_video(blurry), batch.step / stage.steps
            generators = [clip_generator(seed, batch.step, i, "draws") for i in batch.places]
            num_frames, height, width = video.shape[2:]
            draws = draw(stage, divd, (num_frames, height, width), at, generators)
            priors = priors_of_clips(video, model.config)
            return video, as_video(sharp), priors, draws.to(video.device), at

        return Stage(
            name=name,
            settings=stage,
            seed=seed,
            module=CpcTraining(model, stage),
            arguments=arguments,
            takes_muon=is_matrix_of_second_stage,
            rate_factors={
                "model.cpc.divd.unet.": stage.unet_rate,
                "model.cpc.divd.blur_encoder.": stage.blur_encoder_rate,
            },
        )


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell the matrices inside stage 1, which Muon may update.

    Not the first and last layers, nor those that begin at zero and move what is sampled, nor
    convolutions of single channels, which are no matrices.
    """
    ends = ("encoder.enter.0.", "decoder.leave.", "alignment.leave.")
    inside = parameter.ndim > 1 and parameter.shape[1] > 1
    return inside and not any(end in name for end in ends)


def is_matrix_of_second_stage(name: str, parameter: nn.Parameter) -> bool:
    """Tell the matrices inside UNet and branch from their ends, embeddings and priors."""
    ends = ("conv_in.", "conv_out.", "time_emb", "relative_position.", ".leave.", ".prior.")
    inside = ".unet." in name or ".control." in name
    return inside and parameter.ndim > 1 and not any(end in name for end in ends)


def _joint_licence(first: str, second: str) -> str:
    """Return the licence of weights that come from two checkpoints, an SPDX expression."""
    if first in (second, LICENCE):
        return second
    return first if second == LICENCE else f"{first} AND {second}"
