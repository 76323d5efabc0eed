"""The losses of CPGD-Net's stages: one batch in, one value per clip out, as in `stages`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.cpgd import Cpgd
from ..models.cpgd_config import CpgdConfig
from ..models.cpgd_control import Given, query_prior
from ..models.cpgd_priors import ClipPriors, no_priors
from ..restoration.adaptation.losses import log_error, spectrum_l1
from ..restoration.clip_priors import as_pictures, batched, priors_of_frames
from ..restoration.refinement import refine
from ..restoration.settings import RestorationSettings
from .config import CpcStage
from .feed_forward_config import ContentStage
from .losses import annealed, charbonnier, high_frequency_l1
from .stages import Draws, LatentLosses, train_parts, validation_noise


class CpfpTraining(nn.Module):
    """Stage `cpfp`: restored pixels against sharp ones.

    Args:
        model: Trained in place.
        stage: Weights of the losses.
    """

    def __init__(self, model: Cpgd, stage: ContentStage):
        super().__init__()
        # One of a checkpoint comes frozen, for evaluation; a second stage stays so.
        self.model = model.requires_grad_(False).train()
        model.cpfp.requires_grad_(True)
        self.stage = stage
        self._known = _KnownPriors(model.config)

    def forward(
        self,
        blurry: Tensor,
        sharp: Tensor | None,
        priors: ClipPriors,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return the loss of each clip and its parts; without `sharp`, restored clips.

        Args:
            blurry: `[B, 3, T, H, W]` in -1..1.
            sharp: The same shape.
            priors: Of the blurry clips.
            progress: Point of the run, 0 to 1.
        """
        restored = self.model(blurry, priors)
        if sharp is None:
            return {"restored": restored.clamp(-1, 1)}
        stage, floor = self.stage, annealed(self.stage.pixel_floor, progress)
        error = log_error(restored, sharp, floor)
        pixels = error
        if stage.pixel_loss == "mse":
            pixels = (restored - sharp).square().flatten(1).mean(1)
        elif stage.pixel_loss == "charbonnier":
            pixels = charbonnier(restored, sharp)
        loss = stage.pixel_weight * pixels + stage.fft_weight * spectrum_l1(restored, sharp)
        if stage.high_frequency_weight:
            flat = "b c t h w -> b (c t) h w"
            edges = high_frequency_l1(rearrange(restored, flat), rearrange(sharp, flat))
            loss = loss + stage.high_frequency_weight * edges
        gain = 10 * (log_error(blurry, sharp, floor) - error)
        return {"loss": loss, "gain_db": gain.detach()}

    def restored_clip(self, blurry: Tensor, index: int) -> Tensor:
        """See `validation.RestoresClips`; nothing is random."""
        return self(blurry[None], None, self._known.of(blurry, index))["restored"][0]


class CpcTraining(nn.Module):
    """Stage `cpc`: latents and pixels of what the first stage has restored.

    Losses are those of the diffusion model, from the first stage's result on.

    Args:
        model: Trained in place, with a second stage; what the stage does not train is frozen.
        stage: Weights of the losses, and what is trained.

    Raises:
        ValueError: If the stage trains a part that the model does not have.
    """

    def __init__(self, model: Cpgd, stage: CpcStage):
        super().__init__()
        assert model.cpc is not None
        self.model = model.train()
        self.stage = stage
        train_parts(model, stage)
        for network in (model.cpc.divd.unet, model.cpc.control):
            network.gradient_checkpointing = stage.gradient_checkpointing
        self._losses = LatentLosses(model.cpc.divd, stage, self._decode)
        self._known = _KnownPriors(model.config)

    def forward(
        self,
        blurry: Tensor,
        sharp: Tensor,
        priors: ClipPriors,
        draws: Draws,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return the loss of each clip and its parts; gains are over the first stage's result.

        Args:
            blurry: `[B, 3, T, H, W]` in -1..1.
            sharp: The same shape.
            priors: Of the blurry clips.
            draws: Random decisions.
            progress: Point of the run, 0 to 1.
        """
        cpc = self.model.cpc
        assert cpc is not None
        with torch.no_grad():
            first = self.model(blurry, priors).clamp(-1, 1)
        prior = query_prior(priors, self.model.config.cpfp.priors)
        # Float32 from here, so that the latents are rounded once and not at every sum.
        given = Given(*(part.float() for part in cpc.encode(blurry, first, prior)))

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            tokens = cpc.tokens(first)
            tokens = tokens * draws.kept.to(tokens)[:, None, None]
            return cpc.predict(noisy, given, timesteps, tokens).float()

        values = self._losses(predict, given.condition, first, sharp, draws, progress)
        floor = annealed(self.stage.pixel_floor, progress)
        gain = 10 * (log_error(blurry, sharp, floor) - log_error(first, sharp, floor))
        return {**values, "first_gain_db": gain}

    @torch.no_grad()
    def restored_clip(self, blurry: Tensor, index: int) -> Tensor:
        """See `validation.RestoresClips`: as its engine does it, in one step."""
        cpc, priors = self.model.cpc, self._known.of(blurry, index)
        assert cpc is not None
        restored = refine(
            cpc,
            blurry[None],
            self.model(blurry[None], priors).float(),
            query_prior(priors, self.model.config.cpfp.priors),
            validation_noise(cpc.divd, blurry, index),
            RestorationSettings(steps=1),
            torch.float32,
            before=lambda: None,
        )
        return restored[0].clamp(-1, 1)

    def _decode(self, latents: Tensor, first: Tensor) -> Tensor:
        cpc = self.model.cpc
        assert cpc is not None
        return cpc.decode(latents, first, cpc.divd.encode_sharp(first))


class _KnownPriors:
    """Priors of clips that are restored again and again, by their number."""

    def __init__(self, config: CpgdConfig) -> None:
        self._config = config
        self._known: dict[int, ClipPriors] = {}

    def of(self, clip: Tensor, index: int) -> ClipPriors:
        """Return those of `[3, T, H, W]` in -1..1, on its device."""
        if index not in self._known:
            self._known[index] = priors_of_clips(clip[None], self._config)
        return self._known[index].to(clip.device)


def priors_of_clips(clips: Tensor, config: CpgdConfig) -> ClipPriors:
    """Return what a codec finds in clips as they were degraded, each by itself.

    Args:
        clips: `[B, 3, T, H, W]` in -1..1.
        config: Of the network; one that reads none gets none.

    Returns:
        On the device of the clips.
    """
    if not config.reads_priors:
        return no_priors(clips)
    with ThreadPoolExecutor() as pool:
        found: Sequence[ClipPriors] = list(pool.map(_priors_of_clip, clips.cpu()))
    return batched(found).to(clips.device)


@torch.no_grad()
def _priors_of_clip(clip: Tensor) -> ClipPriors:
    return priors_of_frames(as_pictures(clip))
