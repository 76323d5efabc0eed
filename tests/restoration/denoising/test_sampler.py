from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from video_deblur.models.config import ScheduleConfig
from video_deblur.models.schedule import alphas_cumprod, clean_from_velocity
from video_deblur.restoration.denoising.sampler import SOLVERS, sample_ddim, sampling_timesteps

SCHEDULE = ScheduleConfig()
LEADING = ScheduleConfig(timestep_spacing="leading", zero_terminal_snr=False)
MEAN, SPREAD = 0.7, 0.4


def network(x, timestep):
    """Stand in for a network: nonlinear in x and in time, returns v."""
    return torch.tanh(1.3 * x + timestep / 700) - 0.3 * x


def denoised_fn(x, timestep):
    return clean_from_velocity(SCHEDULE, x, network(x, timestep), torch.tensor([timestep]))


def gaussian_denoiser(schedule):
    """Return the posterior mean of data from N(MEAN, SPREAD^2)."""
    alpha_bar = alphas_cumprod(schedule)

    def denoise(x, timestep):
        alpha, variance = alpha_bar[timestep].sqrt(), 1 - alpha_bar[timestep]
        gain = SPREAD**2 * alpha / (SPREAD**2 * alpha**2 + variance)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise


def gaussian_errors(solver, num_steps):
    """Return the errors against the exact solution of the diffusion's ODE.

    Of the noisy latents at the last timestep that is visited, which the solver alone makes,
    and of the result, which the jump from there to alpha 1 adds to.
    """
    noise = torch.linspace(-2, 2, 41, dtype=torch.float64).reshape(1, 1, 1, 1, -1)
    denoiser, visited = gaussian_denoiser(SCHEDULE), []

    def denoise(x, timestep):
        visited.append((x, timestep))
        return denoiser(x, timestep)

    result = SOLVERS[solver](denoise, noise, SCHEDULE, num_steps)
    x, timestep = visited[-1]
    square = alphas_cumprod(SCHEDULE)[timestep]
    exact = square.sqrt() * MEAN + (square * SPREAD**2 + 1 - square).sqrt() * noise
    solver_error = float((x - exact).abs().max())
    return solver_error, float((result - (MEAN + SPREAD * noise)).abs().max())


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 50, 1000])
def test_ddim_equals_diffusers(num_steps):
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        clip_sample=False,
        prediction_type="v_prediction",
    )
    # Divisors of 1000: else diffusers steps to timesteps that it does not visit.
    reference.set_timesteps(num_steps)
    assert sampling_timesteps(SCHEDULE, num_steps) == reference.timesteps.tolist()
    noise = torch.randn(1, 2, 3, 4, 5)
    x = noise
    for timestep in reference.timesteps:
        x = reference.step(network(x, int(timestep)), timestep, x).prev_sample
    ours = sample_ddim(denoised_fn, noise, SCHEDULE, num_steps)
    # At 1000 steps float32 rounding of diffusers' own tables adds up.
    tolerance = 1e-5 if num_steps <= 50 else 1e-3
    torch.testing.assert_close(ours, x, atol=tolerance, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 4, 50])
def test_leading_timesteps_are_those_of_diffusers(num_steps):
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    reference.set_timesteps(num_steps)
    assert sampling_timesteps(LEADING, num_steps) == reference.timesteps.tolist()


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_one_step_gives_the_posterior_mean(solver):
    noise = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64)
    result = SOLVERS[solver](gaussian_denoiser(SCHEDULE), noise, SCHEDULE, 1)
    torch.testing.assert_close(result, torch.full_like(noise, MEAN))


def test_ddim_converges_with_first_order():
    errors = [gaussian_errors("ddim", count)[1] for count in (25, 50, 100)]
    for coarse, fine in pairwise(errors):
        assert 1.6 < coarse / fine < 2.5


def test_dpmpp_2m_converges_with_second_order():
    # From a finite log-SNR: from pure noise its first step is of first order.
    schedule = ScheduleConfig(zero_terminal_snr=False)
    squares, n = alphas_cumprod(schedule), torch.linspace(-2, 2, 41, dtype=torch.float64)

    def exact(timestep):
        square = squares[timestep]
        return square.sqrt() * MEAN + (square * SPREAD**2 + 1 - square).sqrt() * n

    def error(num_steps):
        visited = []

        def denoise(x, timestep):
            visited.append((x, timestep))
            return gaussian_denoiser(schedule)(x, timestep)

        SOLVERS["dpmpp_2m"](denoise, exact(999), schedule, num_steps)
        # At timestep 199, which all of these visit.
        return max(float((x - exact(t)).abs().max()) for x, t in visited if t == 199)

    errors = [error(count) for count in (20, 40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert 3 < coarse / fine < 6, errors


@pytest.mark.parametrize("num_steps", [8, 10, 20, 80])
def test_dpmpp_2m_needs_fewer_steps_than_ddim(num_steps):
    solver_error, error = gaussian_errors("dpmpp_2m", num_steps)
    ddim_solver_error, ddim_error = gaussian_errors("ddim", num_steps)
    assert solver_error < 0.3 * ddim_solver_error
    assert error < 0.95 * ddim_error


@pytest.mark.parametrize("solver", list(SOLVERS))
@pytest.mark.parametrize("schedule", [SCHEDULE, LEADING], ids=["trailing", "leading"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 999, 1000])
def test_any_number_of_steps_gives_finite_latents(solver, schedule, num_steps):
    noise = torch.randn(1, 1, 1, 2, 2)
    result = SOLVERS[solver](gaussian_denoiser(schedule), noise, schedule, num_steps)
    assert result.isfinite().all()


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_each_step_calls_the_network_once(solver):
    timesteps = []

    def denoise(x, timestep):
        timesteps.append(timestep)
        return denoised_fn(x, timestep)

    noise = torch.randn(1, 1, 1, 2, 2)
    before = noise.clone()
    SOLVERS[solver](denoise, noise, SCHEDULE, 5)
    assert timesteps == sampling_timesteps(SCHEDULE, 5)
    assert timesteps[0] == 999
    assert torch.equal(noise, before)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match=f"steps must be between 1 and 1000, got {num_steps}"):
        sampling_timesteps(SCHEDULE, num_steps)
