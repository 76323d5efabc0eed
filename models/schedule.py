"""The diffusion schedule: alphas and sigmas over the training timesteps.

Conventions: `x_t = alpha_t * x_0 + sigma_t * noise` with `alpha_t^2 + sigma_t^2 = 1`, and
`v = alpha_t * noise - sigma_t * x_0` (Salimans & Ho, arXiv 2202.00512).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .config import ScheduleConfig


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # what restoring puts in the cache must serve training too
def alphas_cumprod(schedule: ScheduleConfig) -> Tensor:
    """Return alpha_bar over the training timesteps.

    Betas are linear in their square roots ("scaled linear"). With `zero_terminal_snr` the
    square root of alpha_bar is shifted and scaled so that it ends at exactly 0 and starts
    where it did (Lin et al., arXiv 2305.08891, Algorithm 1).

    Returns:
        float64 `[num_timesteps]` on the CPU, decreasing.
    """
    roots = torch.linspace(
        schedule.beta_start**0.5,
        schedule.beta_end**0.5,
        schedule.num_timesteps,
        dtype=torch.float64,
    )
    alpha_bar = (1 - roots**2).cumprod(0)
    if schedule.zero_terminal_snr:
        root = alpha_bar.sqrt()
        first, last = root[0].clone(), root[-1].clone()
        alpha_bar = ((root - last) * first / (first - last)) ** 2
    return alpha_bar


def alphas_at(schedule: ScheduleConfig, timesteps: Tensor) -> Tensor:
    """Return alpha_t (not squared) at timesteps `[B]`, float32 on their device."""
    return _at(_tables(schedule, timesteps.device)[0], timesteps)


def sigmas_at(schedule: ScheduleConfig, timesteps: Tensor) -> Tensor:
    """Return sigma_t at timesteps `[B]`, float32 on their device."""
    return _at(_tables(schedule, timesteps.device)[1], timesteps)


def add_noise(
    schedule: ScheduleConfig, clean: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return x_t for clean latents `[B, ...]` at timesteps `[B]`."""
    alpha, sigma = _spread(schedule, timesteps, clean)
    return alpha * clean + sigma * noise


def velocity(
    schedule: ScheduleConfig, clean: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """Return the v-prediction target for clean latents `[B, ...]` at timesteps `[B]`."""
    alpha, sigma = _spread(schedule, timesteps, clean)
    return alpha * noise - sigma * clean


def clean_from_velocity(
    schedule: ScheduleConfig, noisy: Tensor, v: Tensor, timesteps: Tensor
) -> Tensor:
    """Return the estimate of x_0 from x_t and v, both `[B, ...]`."""
    alpha, sigma = _spread(schedule, timesteps, noisy)
    return alpha * noisy - sigma * v


def _spread(schedule: ScheduleConfig, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (-1,) + (1,) * (like.ndim - 1)
    alpha = alphas_at(schedule, timesteps).to(like).reshape(shape)
    return alpha, sigmas_at(schedule, timesteps).to(like).reshape(shape)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what restoring puts in the cache must serve training too
def _tables(schedule: ScheduleConfig, device: torch.device) -> Tensor:
    """Return alphas and sigmas, float32 `[2, num_timesteps]`.

    Made on the CPU: Apple's GPUs have no float64. One copy serves every step.
    """
    alpha_bar = alphas_cumprod(schedule)
    return torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()]).float().to(device)


def _at(table: Tensor, timesteps: Tensor) -> Tensor:
    """Read a table at timesteps, between two of them linearly."""
    position = timesteps.float().clamp(0, len(table) - 1)
    lower = position.floor().long()
    upper = (lower + 1).clamp(max=len(table) - 1)
    fraction = position - lower
    return table[lower] * (1 - fraction) + table[upper] * fraction
