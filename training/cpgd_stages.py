"""The losses of CPGD-Net's stages: one batch in, one value per clip out, as in `stages`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.cpgd import Cpgd
from ..models.cpgd_priors import ClipPriors
from ..restoration.clip_priors import as_pictures, batched, priors_of_frames
from .feed_forward_config import ContentStage
from .losses import annealed, charbonnier, high_frequency_l1, log_error, spectrum_l1


class CpfpTraining(nn.Module):
    """Stage `cpfp`: restored pixels against sharp ones.

    Args:
        model: Trained in place.
        stage: Weights of the losses.
    """

    def __init__(self, model: Cpgd, stage: ContentStage):
        super().__init__()
        # One of a checkpoint comes frozen, for evaluation.
        self.model = model.requires_grad_(True).train()
        self.stage = stage
        self._known: dict[int, ClipPriors] = {}

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
        if index not in self._known:
            self._known[index] = priors_of_frames(as_pictures(blurry))
        priors = self._known[index].to(blurry.device)
        return self(blurry[None], None, priors)["restored"][0]


def priors_of_clips(clips: Tensor) -> ClipPriors:
    """Return what a codec finds in clips as they were degraded, each by itself.

    Args:
        clips: `[B, 3, T, H, W]` in -1..1.

    Returns:
        On the device of the clips.
    """
    with ThreadPoolExecutor() as pool:
        found: Sequence[ClipPriors] = list(pool.map(_priors_of_clip, clips.cpu()))
    return batched(found).to(clips.device)


@torch.no_grad()
def _priors_of_clip(clip: Tensor) -> ClipPriors:
    return priors_of_frames(as_pictures(clip))
