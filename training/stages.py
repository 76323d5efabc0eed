"""The losses of each stage: one batch in, one scalar out.

Stage 0 trains the autoencoder. The joint stage trains blur encoder, UNet and image tower
by v-prediction and, at the last timestep, by pixels through residual decoding; the
autoencoder stays as it is, since its sharp encoder defines what is predicted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.autoencoder import Autoencoder
from ..models.divd import Divd
from ..models.schedule import add_noise, clean_from_velocity, velocity
from .config import AutoencoderStage, JointStage
from .losses import coherence_loss, log_error, spectrum_l1, velocity_loss


def autoencoder_loss(
    autoencoder: Autoencoder,
    images: Tensor,
    stage: AutoencoderStage,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the loss of stage 0 and its parts.

    Args:
        autoencoder: Trained in place by the caller.
        images: `[N, 3, H, W]` in -1..1.
        stage: Weights.
        generator: CPU generator of the latent noise.
    """
    latents = autoencoder.encode(images)
    spread = latents.detach().float().std(dim=(0, 2, 3), keepdim=True).to(latents.dtype)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    decoded = autoencoder.decode(latents + stage.latent_noise * spread * noise).float()
    pixels = (decoded - images).abs().mean()
    spectrum = spectrum_l1(decoded, images)
    total = (
        pixels + stage.fft_weight * spectrum + stage.kl_weight * latents.float().square().mean()
    )
    return {"loss": total, "l1": pixels, "mse": (decoded - images).square().mean()}


def draw_timesteps(
    count: int, stage: JointStage, progress: float, last: int, generator: torch.Generator
) -> Tensor:
    """Draw timesteps `[count]`: the last one alone at first, then the stage's mix."""
    timesteps = torch.full((count,), last)
    if progress < stage.mixed_from:
        return timesteps
    kind = torch.rand(count, generator=generator)
    high = 700 + torch.randint(last - 700, (count,), generator=generator)
    uniform = torch.randint(last, (count,), generator=generator)
    rest = stage.last_timestep_share
    timesteps = torch.where(kind >= rest, high, timesteps)
    return torch.where(kind >= rest + stage.high_timestep_share, uniform, timesteps)


def joint_loss(
    model: Divd,
    blurry: Tensor,
    sharp: Tensor,
    stage: JointStage,
    progress: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the loss of the joint stage and its parts.

    Args:
        model: Trained in place by the caller.
        blurry: `[B, 3, T, H, W]` in -1..1.
        sharp: The same shape.
        stage: Weights.
        progress: Point of the run, 0 to 1.
        generator: CPU generator of timesteps, noise and dropout.
    """
    schedule = model.config.schedule
    last = schedule.num_timesteps - 1
    count, _, num_frames = blurry.shape[:3]
    timesteps = draw_timesteps(count, stage, progress, last, generator).to(blurry.device)
    with torch.no_grad():
        clean = model.encode_sharp(sharp).float()
    # Float32 from here, so that the latents are rounded once and not at every sum.
    condition = model.encode_blur(blurry).float()
    tokens = model.encode_tokens(blurry[:, :, num_frames // 2])
    kept = torch.rand(count, 1, 1, generator=generator) >= stage.token_dropout
    tokens = tokens * kept.to(tokens)

    noise = torch.randn(clean.shape, generator=generator).to(clean)
    noisy = add_noise(schedule, clean, noise, timesteps)
    target = velocity(schedule, clean, noise, timesteps)
    pred = model.unet(torch.cat([noisy, condition], dim=1), timesteps, tokens)
    pred = pred.float()
    with torch.no_grad():
        # What copying the condition would give: the figure to get below.
        copy_loss = velocity_loss(clean, condition)
        weights = 1 / (copy_loss + _annealed(stage.latent_floor, progress))
    base_loss = velocity_loss(pred, target)
    coherence = (weights * coherence_loss(pred, target)).mean()
    total = (weights * base_loss).mean() + stage.coherence_weight * coherence
    parts = {"v": base_loss.mean(), "v_copy": copy_loss.mean(), "coherence": coherence}

    at_last = timesteps == last
    if stage.pixel_weight and bool(at_last.any()):
        restored = clean_from_velocity(schedule, noisy, pred, timesteps)[at_last]
        frames = (
            torch.randperm(num_frames, generator=generator)[: stage.pixel_frames].sort().values
        )
        frames = frames.to(blurry.device)
        decoded = model.decode_restored(
            restored[:, :, frames], blurry[at_last][:, :, frames]
        ).float()
        truth = sharp[at_last][:, :, frames]
        floor = _annealed(stage.pixel_floor, progress)
        pixels = log_error(decoded, truth, floor) + stage.fft_weight * spectrum_l1(
            decoded, truth
        )
        total = total + stage.pixel_weight * pixels * at_last.float().mean()
        with torch.no_grad():
            parts["gain_db"] = 10 * (
                log_error(blurry[at_last][:, :, frames], truth, floor)
                - log_error(decoded, truth, floor)
            )
    return {"loss": total, **parts}


def _annealed(ends: tuple[float, float], progress: float) -> float:
    """Go from the first to the second value, evenly in their logarithms."""
    return ends[0] * (ends[1] / ends[0]) ** progress
