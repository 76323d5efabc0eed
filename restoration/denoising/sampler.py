"""Samplers: plain functions from noise to clean latents.

`denoised_fn(x, timestep)` returns the clean estimate at an integer timestep; samplers know
nothing of the networks behind it, which count their own pieces of work.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...models.config import ScheduleConfig
from ...models.schedule import alphas_cumprod

DenoisedFn = Callable[[Tensor, int], Tensor]


def sampling_timesteps(schedule: ScheduleConfig, num_steps: int) -> list[int]:
    """Return the timesteps a sampler visits, from noisy to clean.

    `trailing` spacing starts at the last timestep, where there is no signal; `leading` is
    `1 + k * (T // num_steps)`, as TF-T2V's weights were sampled.

    Raises:
        ValueError: If `num_steps` is out of range.
    """
    total = schedule.num_timesteps
    if not 1 <= num_steps <= total:
        raise ValueError(f"steps must be between 1 and {total}, got {num_steps}")
    if schedule.timestep_spacing == "trailing":
        return [round(total - k * total / num_steps) - 1 for k in range(num_steps)]
    stride = total // num_steps
    # The offset of 1 would lead past the end when every timestep is visited.
    offset = min(1, total - 1 - (num_steps - 1) * stride)
    return [offset + k * stride for k in reversed(range(num_steps))]


def sample_ddim(
    denoised_fn: DenoisedFn,
    noise: Tensor,
    schedule: ScheduleConfig,
    num_steps: int,
) -> Tensor:
    """Sample with DDIM, eta 0 (Song et al., arXiv 2010.02502), down to alpha 1.

    Args:
        denoised_fn: The wrapped network.
        noise: Start, unit variance, `[B, C, T, h, w]`.
        schedule: Of the training.
        num_steps: Calls of the network.

    Returns:
        Clean latents, the shape of `noise`.
    """
    x = noise
    levels = _levels(schedule, num_steps)
    for step, (timestep, alpha, sigma) in enumerate(levels):
        denoised = denoised_fn(x, timestep)
        if step == num_steps - 1:
            return denoised
        _, next_alpha, next_sigma = levels[step + 1]
        x = next_alpha * denoised + next_sigma * (x - alpha * denoised) / sigma
    raise AssertionError("a sampler takes at least one step")


def sample_dpmpp_2m(
    denoised_fn: DenoisedFn,
    noise: Tensor,
    schedule: ScheduleConfig,
    num_steps: int,
) -> Tensor:
    """Sample with DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, Algorithm 2).

    From the last timestep, whose log-SNR is minus infinity, the first two steps are of
    first order. Arguments and result as for `sample_ddim`.
    """
    x = noise
    levels = _levels(schedule, num_steps)
    previous: Tensor | None = None
    previous_h = math.inf
    for step, (timestep, alpha, sigma) in enumerate(levels):
        denoised = denoised_fn(x, timestep)
        if step == num_steps - 1:
            return denoised
        _, next_alpha, next_sigma = levels[step + 1]
        h = _log_snr(next_alpha, next_sigma) - _log_snr(alpha, sigma)
        estimate = denoised
        if previous is not None and math.isfinite(previous_h):
            ratio = previous_h / h
            estimate = (1 + 0.5 / ratio) * denoised - 0.5 / ratio * previous
        x = (next_sigma / sigma) * x - next_alpha * math.expm1(-h) * estimate
        previous, previous_h = denoised, h
    raise AssertionError("a sampler takes at least one step")


SOLVERS = {"ddim": sample_ddim, "dpmpp_2m": sample_dpmpp_2m}
"""Samplers by the name users give."""


def _levels(schedule: ScheduleConfig, num_steps: int) -> list[tuple[int, float, float]]:
    """Return (timestep, alpha, sigma) of each step."""
    timesteps = sampling_timesteps(schedule, num_steps)
    alpha_bar = alphas_cumprod(schedule)[torch.tensor(timesteps)]
    alphas, sigmas = alpha_bar.sqrt().tolist(), (1 - alpha_bar).sqrt().tolist()
    return list(zip(timesteps, alphas, sigmas, strict=True))


def _log_snr(alpha: float, sigma: float) -> float:
    return math.log(alpha / sigma) if alpha > 0 else -math.inf
