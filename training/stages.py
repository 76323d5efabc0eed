"""The losses of each stage: one batch in, one value per sample out.

Stage 0 trains the autoencoder. The other stages train the diffusion model, or parts of it,
by v-prediction, and by pixels through residual decoding. Random decisions are drawn per
clip from the clip's own generator (`draw`), so that a batch gives the same however it is
split over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from ..models.autoencoder import Autoencoder
from ..models.config import DivdConfig
from ..models.divd import Divd
from ..models.schedule import (
    add_noise,
    alphas_at,
    clean_from_velocity,
    sigmas_at,
    velocity,
)
from ..restoration.adaptation.losses import log_error, spectrum_l1
from .config import AutoencoderStage, DiffusionStage
from .losses import annealed, coherence_loss, min_snr_weight, velocity_loss

_MANY_CLIPS = 16
"""From as many on, threads draw their noise."""
_BUCKETS = (0, 250, 500, 750, 1000)
"""Bounds of the timesteps whose losses are logged together."""


class AutoencoderTraining(nn.Module):
    """Stage 0.

    Args:
        autoencoder: Trained in place.
        stage: Weights of the losses.
    """

    def __init__(self, autoencoder: Autoencoder, stage: AutoencoderStage):
        super().__init__()
        # One of a checkpoint comes frozen.
        self.autoencoder = autoencoder.requires_grad_(True)
        self.stage = stage

    def forward(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return the loss of each image and its parts.

        Args:
            images: `[N, 3, H, W]` in -1..1.
            noise: Standard normal, the latents' shape.
        """
        latents = self.autoencoder.encode(images)
        spread = latents.detach().float().std(dim=(2, 3), keepdim=True).to(latents.dtype)
        noisy = latents + self.stage.latent_noise * spread * noise.to(latents)
        decoded = self.autoencoder.decode(noisy).float()
        pixels = (decoded - images).abs().flatten(1).mean(1)
        spectrum = spectrum_l1(decoded, images)
        size = latents.float().square().flatten(1).mean(1)
        loss = pixels + self.stage.fft_weight * spectrum + self.stage.kl_weight * size
        with torch.no_grad():
            error = (decoded - images).square().flatten(1).mean(1)
        return {"loss": loss, "l1": pixels, "psnr": 10 * torch.log10(4 / error)}


@dataclass(frozen=True, eq=False)
class Draws:
    """The random decisions of a batch."""

    timesteps: Tensor
    """`[B]`."""
    kept: Tensor
    """bool `[B]`: whose image tokens are kept."""
    noise: Tensor
    """`[B, C, T, h, w]`."""
    frames: Tensor
    """`[B, K]`: frames that the pixel loss decodes."""

    def to(self, device: torch.device | str) -> Draws:
        """Return them on a device."""
        return Draws(
            self.timesteps.to(device),
            self.kept.to(device),
            self.noise.to(device),
            self.frames.to(device),
        )


def draw(
    stage: DiffusionStage,
    model: DivdConfig,
    size: tuple[int, int, int],
    progress: float,
    generators: Sequence[torch.Generator],
) -> Draws:
    """Draw the random decisions of a batch, each clip's from its own generator.

    Args:
        stage: Shares and amounts.
        model: Shape of the latents and number of timesteps.
        size: Frames, height and width of the clips, in pixels.
        progress: Point of the run, 0 to 1.
        generators: One per clip.
    """
    num_frames, height, width = size
    factor = model.autoencoder.downscale
    shape = (
        model.autoencoder.latent_channels,
        num_frames,
        height // factor,
        width // factor,
    )
    last = model.schedule.num_timesteps - 1

    def draw_clip(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        timestep = torch.tensor(draw_timestep(stage, progress, last, generator))
        kept = torch.rand((), generator=generator) >= stage.token_dropout
        noise = torch.randn(shape, generator=generator)
        if stage.offset_noise:
            offset = torch.randn(*shape[:2], 1, 1, generator=generator)
            noise = noise + stage.offset_noise * offset
        order = torch.randperm(num_frames, generator=generator)
        return timestep, kept, noise, order[: stage.pixel_frames].sort().values

    if len(generators) < _MANY_CLIPS:
        clips = [draw_clip(generator) for generator in generators]
    else:
        # Noise is a millisecond of a core per clip, without the interpreter's lock.
        with ThreadPoolExecutor() as pool:
            clips = list(pool.map(draw_clip, generators))
    timesteps, kept, noise, frames = zip(*clips, strict=True)
    return Draws(*(torch.stack(part) for part in (timesteps, kept, noise, frames)))


def draw_timestep(
    stage: DiffusionStage, progress: float, last: int, generator: torch.Generator
) -> int:
    """Draw a timestep: the last one alone at first, then the stage's mix."""
    kind = float(torch.rand((), generator=generator))
    if kind < stage.last_timestep_share + stage.high_timestep_share:
        lowest, above = 700 * (last + 1) // 1000, last
    else:
        lowest, above = 0, last + 1
    other = lowest + int(torch.randint(above - lowest, (), generator=generator))
    if progress < stage.mixed_from or kind < stage.last_timestep_share:
        return last
    return other


def check_trained_parts(model: nn.Module, stage: DiffusionStage) -> None:
    """Check that a stage trains parts that the model has.

    Raises:
        ValueError: If it does not; the message names them.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in stage.trains:
        if not any(name.startswith(prefix) for name in names):
            parts = ", ".join(dict.fromkeys(f"{name.split('.')[0]}." for name in names))
            raise ValueError(f"trains: {prefix!r} is no part of this model, which has {parts}")


class LatentLosses:
    """What predicting the latents of sharp clips costs, and what their pixels cost.

    Args:
        divd: Encodes sharp clips; its schedule is trained on.
        stage: Weights of the losses.
        decode_fn: From restored latents and the clips they start from to pixels.
    """

    def __init__(
        self,
        divd: Divd,
        stage: DiffusionStage,
        decode_fn: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._divd, self._stage, self._decode_fn = divd, stage, decode_fn

    def __call__(
        self,
        predict_fn: Callable[[Tensor, Tensor], Tensor],
        condition: Tensor,
        base: Tensor,
        sharp: Tensor,
        draws: Draws,
        progress: float,
    ) -> dict[str, Tensor]:
        """Return the loss of each clip and its parts.

        Args:
            predict_fn: From noisy latents and timesteps to v, float32.
            condition: Latents that the prediction starts from, float32.
            base: Clips that it starts from, `[B, 3, T, H, W]` in -1..1.
            sharp: The same shape.
            draws: Random decisions.
            progress: Point of the run, 0 to 1.
        """
        stage, schedule = self._stage, self._divd.config.schedule
        timesteps = draws.timesteps
        with torch.no_grad():
            clean = self._divd.encode_sharp(sharp).float()
        noise = draws.noise.to(clean)
        noisy = add_noise(schedule, clean, noise, timesteps)
        target = velocity(schedule, clean, noise, timesteps)
        pred = predict_fn(noisy, timesteps)
        latent_loss = velocity_loss(pred, target)
        coherence = coherence_loss(pred, target)
        # What copying the condition would give: the figure to get below.
        copied = velocity_loss(clean, condition.detach())
        loss = self._weights(copied, timesteps, progress) * (
            latent_loss + stage.coherence_weight * coherence
        )
        values = {"v": latent_loss, "v_copy": copied, "coherence": coherence}
        values.update(_by_timestep(latent_loss, timesteps))
        if stage.pixel_loss != "off":
            restored = clean_from_velocity(schedule, noisy, pred, timesteps)
            pixels, gain = self._pixel_loss(restored, base, sharp, draws, progress)
            loss = loss + stage.pixel_weight * pixels
            values["gain_db"] = gain
        return {"loss": loss, **values}

    def _weights(self, copied: Tensor, timesteps: Tensor, progress: float) -> Tensor:
        stage = self._stage
        weights = torch.ones_like(copied)
        if stage.relative:
            weights = weights / (copied + annealed(stage.latent_floor, progress))
        if stage.min_snr_gamma is not None:
            schedule = self._divd.config.schedule
            alpha, sigma = alphas_at(schedule, timesteps), sigmas_at(schedule, timesteps)
            weights = weights * min_snr_weight(alpha, sigma, stage.min_snr_gamma)
        return weights

    def _pixel_loss(
        self, restored: Tensor, base: Tensor, sharp: Tensor, draws: Draws, progress: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss per clip, 0 where it has none, and the gain in dB, NaN there."""
        stage, last = self._stage, self._divd.config.schedule.num_timesteps - 1
        every = stage.pixel_loss == "decoder"
        counted = draws.timesteps >= (0 if every else last)
        clips = torch.nonzero(counted).flatten()
        if not len(clips):
            # One for nothing: processes that train together have to use the same weights.
            clips = clips.new_zeros(1)
        loss = restored.new_zeros(len(base))
        gain = torch.full_like(loss, torch.nan)
        frames = draws.frames[clips]
        base, truth = _take(base[clips], frames), _take(sharp[clips], frames)
        latents = _take(restored[clips], frames)
        if every:
            latents = latents.detach()
        decoded = self._decode_fn(latents, base).float()
        floor = annealed(stage.pixel_floor, progress)
        error = log_error(decoded, truth, floor)
        pixels = error + stage.fft_weight * spectrum_l1(decoded, truth)
        pixels = torch.where(counted[clips], pixels, 0.0)
        won = 10 * (log_error(base, truth, floor) - error).detach()
        won = torch.where(counted[clips], won, torch.nan)
        return loss.index_copy(0, clips, pixels), gain.index_copy(0, clips, won)


class DiffusionTraining(nn.Module):
    """Every stage after stage 0.

    Args:
        model: Trained in place; what the stage does not train is frozen here.
        stage: Weights of the losses, and what is trained.

    Raises:
        ValueError: If the stage trains a part that the model does not have.
    """

    def __init__(self, model: Divd, stage: DiffusionStage):
        super().__init__()
        self.model = model
        self.stage = stage
        train_parts(model, stage)
        model.unet.gradient_checkpointing = stage.gradient_checkpointing
        self._losses = LatentLosses(model, stage, model.decode_restored)

    def forward(
        self,
        blurry: Tensor,
        sharp: Tensor | None = None,
        draws: Draws | None = None,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return the loss of each clip and its parts; without `sharp`, restored clips.

        Restoring passes through here too, since that is where FSDP gathers the weights.

        Args:
            blurry: `[B, 3, T, H, W]` in -1..1.
            sharp: The same shape.
            draws: Random decisions; for restoring only the noise is read.
            progress: Point of the run, 0 to 1.
        """
        assert draws is not None
        if sharp is None:
            return {"restored": self._restore(blurry, draws.noise)}
        # Float32 from here, so that the latents are rounded once and not at every sum.
        condition = self.model.encode_blur(blurry).float()

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self._predict(blurry, noisy, condition, timesteps, draws.kept)

        return self._losses(predict, condition, blurry, sharp, draws, progress)

    def restored_clip(self, blurry: Tensor, index: int) -> Tensor:
        """See `validation.RestoresClips`."""
        noise = validation_noise(self.model, blurry, index)
        timesteps = torch.zeros(1, dtype=torch.long, device=blurry.device)
        draws = Draws(timesteps, timesteps == 0, noise, timesteps[:, None])
        return self(blurry[None], None, draws)["restored"][0]

    def _predict(
        self,
        blurry: Tensor,
        noisy: Tensor,
        condition: Tensor,
        timesteps: Tensor,
        kept: Tensor | None = None,
    ) -> Tensor:
        tokens = self.model.encode_tokens(blurry[:, :, blurry.shape[2] // 2])
        if kept is not None:
            tokens = tokens * kept.to(tokens)[:, None, None]
        return self.model.unet(torch.cat([noisy, condition], dim=1), timesteps, tokens).float()

    def _restore(self, blurry: Tensor, noise: Tensor) -> Tensor:
        """Restore in one step from the last timestep, `[B, 3, T, H, W]` in -1..1."""
        schedule = self.model.config.schedule
        timesteps = torch.full((len(blurry),), schedule.num_timesteps - 1, device=blurry.device)
        condition = self.model.encode_blur(blurry).float()
        noise = noise.to(condition)
        pred = self._predict(blurry, noise, condition, timesteps)
        latents = clean_from_velocity(schedule, noise, pred, timesteps)
        return self.model.decode_restored(latents, blurry).float().clamp(-1, 1)


def train_parts(model: nn.Module, stage: DiffusionStage) -> None:
    """Freeze what a stage does not train.

    Raises:
        ValueError: If the stage trains a part that the model does not have.
    """
    check_trained_parts(model, stage)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(stage.trains))


def validation_noise(divd: Divd, blurry: Tensor, index: int) -> Tensor:
    """Return the noise `[1, C, T, h, w]` that a clip of a validation is restored from.

    Args:
        divd: Whose latents are sampled.
        blurry: `[3, T, H, W]`.
        index: Of the clip.
    """
    channels, factor = divd.config.autoencoder.latent_channels, divd.downscale
    size = (blurry.shape[1], blurry.shape[2] // factor, blurry.shape[3] // factor)
    generator = torch.Generator().manual_seed(index)
    return torch.randn(1, channels, *size, generator=generator).to(blurry.device)


def _take(video: Tensor, frames: Tensor) -> Tensor:
    """Take each clip's own frames `[B, K]` out of `[B, C, T, H, W]`."""
    clips = torch.arange(len(video), device=video.device)[:, None]
    return rearrange(video[clips, :, frames], "b k c h w -> b c k h w")


def _by_timestep(loss: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
    """Return the losses of each range of timesteps, NaN where a clip is in another."""
    return {
        f"loss_t{low:03d}_{high - 1:03d}": torch.where(
            (timesteps >= low) & (timesteps < high), loss.detach(), torch.nan
        )
        for low, high in pairwise(_BUCKETS)
    }
