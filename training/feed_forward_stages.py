"""The losses of feed-forward networks: by pixels (DBLRNet) and adversarial (DBLRGAN).

One batch in, one value per clip out, as in `stages`. Luma is in 0..1 on its way into the
network and in -1..1 in the losses, as the diffusion model's pixels are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.func import functional_call

from ..models.dblrgan import Discriminator
from ..models.dblrnet import DblrNet, to_luma
from ..restoration.adaptation.losses import log_error, spectrum_l1
from ..restoration.feed_forward import frames_around
from .feed_forward_config import AdversarialStage, ContentStage
from .losses import annealed, charbonnier, high_frequency_l1


class ContentTraining(nn.Module):
    """Stage `content`.

    Args:
        model: Trained in place.
        stage: Weights of the losses.
        lpips: From frames and sharp ones, `[N, 3, H, W]` in -1..1, to a distance each; frozen.
            Needed where the stage gives it a weight.
    """

    def __init__(self, model: DblrNet, stage: ContentStage, lpips: nn.Module | None = None):
        super().__init__()
        # One of a checkpoint comes frozen, for evaluation.
        self.model = model.requires_grad_(True).train()
        self.stage = stage
        self.lpips = lpips if stage.lpips_weight else None

    def forward(
        self, blurry: Tensor, sharp: Tensor | None = None, progress: float = 0.0, step: int = 0
    ) -> dict[str, Tensor]:
        """Return the loss of each clip and its parts; without `sharp`, restored frames.

        Args:
            blurry: Luma `[B, T, H, W]` in 0..1.
            sharp: The same shape.
            progress: Point of the run, 0 to 1.
            step: Number of the update.
        """
        restored = self.model(blurry)
        if sharp is None:
            return {"restored": restored}
        near = self.model.num_frames // 2
        target, before = (2 * clip[:, near:-near] - 1 for clip in (sharp, blurry))
        return self._values(2 * restored - 1, target, before, progress, step)

    def restored_clip(self, blurry: Tensor, index: int) -> Tensor:
        """See `validation.RestoresClips`; nothing is random."""
        colors = rearrange(blurry, "c t h w -> t c h w") * 0.5 + 0.5
        luma = to_luma(colors)
        self.model.eval()
        restored = torch.empty_like(luma)
        for frame in range(len(luma)):
            near = frames_around(frame, len(luma), self.model.num_frames)
            restored[frame] = self(luma[near][None])["restored"][0, 0]
        self.model.train()
        clip = (colors + (restored - luma)[:, None]) * 2 - 1
        return rearrange(clip, "t c h w -> c t h w").clamp(-1, 1)

    def _values(
        self, pred: Tensor, target: Tensor, before: Tensor, progress: float, step: int
    ) -> dict[str, Tensor]:
        """Return what is logged, and `loss`; frames are `[B, K, H, W]`, luma in -1..1."""
        stage = self.stage
        floor = annealed(stage.pixel_floor, progress)
        error = log_error(pred[:, None], target[:, None], floor)
        pixels = error
        if stage.pixel_loss == "mse":
            pixels = (pred - target).square().flatten(1).mean(1)
        elif stage.pixel_loss == "charbonnier":
            pixels = charbonnier(pred, target)
        loss = stage.pixel_weight * pixels
        if stage.fft_weight:
            loss = loss + stage.fft_weight * spectrum_l1(pred, target)
        if stage.high_frequency_weight:
            loss = loss + stage.high_frequency_weight * high_frequency_l1(pred, target)
        if self.lpips is not None:
            grey = (repeat(x, "b k h w -> (b k) 3 h w") for x in (pred, target))
            loss = loss + stage.lpips_weight * _per_clip(self.lpips(*grey).float(), len(pred))
        gain = 10 * (log_error(before[:, None], target[:, None], floor) - error)
        return {"loss": loss, "gain_db": gain.detach()}


class AdversarialTraining(ContentTraining):
    """Stage `adversarial`: pixels, and a discriminator that is trained with the network.

    Both are updated at once, from one pass: the network's loss sees the discriminator's
    weights as constants, the discriminator's the restored frames.

    Args:
        model: Trained in place.
        stage: Weights of the losses.
        discriminator: Trained in place.
        lpips: As for `ContentTraining`.
    """

    def __init__(
        self,
        model: DblrNet,
        stage: AdversarialStage,
        discriminator: Discriminator,
        lpips: nn.Module | None = None,
    ):
        super().__init__(model, stage, lpips)
        self.stage: AdversarialStage = stage
        self.discriminator = discriminator

    def _values(
        self, pred: Tensor, target: Tensor, before: Tensor, progress: float, step: int
    ) -> dict[str, Tensor]:
        values = super()._values(pred, target, before, progress, step)
        stage, clips = self.stage, len(pred)
        kind = stage.adversarial_loss
        restored, sharp = (rearrange(x, "b k h w -> (b k) 1 h w") for x in (pred, target))
        constant = {n: p.detach() for n, p in self.discriminator.named_parameters()}
        judged = functional_call(self.discriminator, constant, (restored,))
        at_sharp = self.discriminator(sharp)
        at_restored = self.discriminator(restored.detach())
        adversarial = _per_clip(generator_loss(judged, at_sharp.detach(), kind), clips)
        opponent = _per_clip(discriminator_loss(at_sharp, at_restored, kind), clips)
        told_right = {
            name: _per_clip(right.float(), clips)
            for name, right in _told_right(at_sharp, at_restored, kind).items()
        }
        values |= {
            "content_loss": values["loss"].detach(),
            "adversarial_loss": adversarial.detach(),
            "discriminator_loss": opponent.detach(),
            **told_right,
        }
        if stage.r1_weight and step % stage.r1_every == 0:
            penalty = gradient_penalty(self.discriminator, sharp)
            if kind == "relativistic":
                penalty = penalty + gradient_penalty(self.discriminator, restored)
            penalty = _per_clip(penalty, clips)
            values["r1"] = penalty.detach()
            opponent = opponent + stage.r1_weight / 2 * stage.r1_every * penalty
        values["loss"] = values["loss"] + stage.adversarial_weight * adversarial + opponent
        return values


def generator_loss(at_restored: Tensor, at_sharp: Tensor, kind: str) -> Tensor:
    """Return what restored frames are trained by.

    Args:
        at_restored: The discriminator's logits `[N]`.
        at_sharp: Those of the same frames, sharp.
        kind: As `AdversarialStage.adversarial_loss`.
    """
    if kind == "relativistic":
        return F.softplus(at_sharp - at_restored)
    return -F.softplus(at_restored) if kind == "paper" else F.softplus(-at_restored)


def discriminator_loss(at_sharp: Tensor, at_restored: Tensor, kind: str) -> Tensor:
    """Return what the discriminator is trained by; arguments as for `generator_loss`."""
    if kind == "relativistic":
        return F.softplus(at_restored - at_sharp)
    return F.softplus(-at_sharp) + F.softplus(at_restored)


def gradient_penalty(discriminator: nn.Module, frames: Tensor) -> Tensor:
    """Return the squared norm of the logit's gradient at each frame of `[N, 1, H, W]`."""
    at = frames.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(at).sum(), at, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def _told_right(at_sharp: Tensor, at_restored: Tensor, kind: str) -> dict[str, Tensor]:
    """Return what the discriminator tells right, by the name in the log."""
    if kind == "relativistic":
        return {"accuracy_pairs": at_sharp > at_restored}
    return {"accuracy_sharp": at_sharp > 0, "accuracy_restored": at_restored < 0}


def _per_clip(values: Tensor, clips: int) -> Tensor:
    return rearrange(values, "(b k) -> b k", b=clips).mean(1)
