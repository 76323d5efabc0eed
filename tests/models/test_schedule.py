from __future__ import annotations

import pytest
import torch
from video_deblur.models.config import ScheduleConfig
from video_deblur.models.schedule import (
    add_noise,
    alphas_at,
    alphas_cumprod,
    clean_from_velocity,
    sigmas_at,
    velocity,
)

ZERO_SNR = ScheduleConfig()
PLAIN = ScheduleConfig(zero_terminal_snr=False)


@pytest.mark.parametrize("zero_terminal_snr", [True, False])
def test_alphas_are_those_of_diffusers(zero_terminal_snr):
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=zero_terminal_snr,
    ).alphas_cumprod
    ours = alphas_cumprod(ScheduleConfig(zero_terminal_snr=zero_terminal_snr))
    assert ours.dtype == torch.float64
    # diffusers computes in float32 and rescales through products of 1000 betas.
    torch.testing.assert_close(ours, reference.double(), atol=1e-5, rtol=0)


def test_the_last_timestep_is_pure_noise_and_the_first_is_unchanged():
    alpha_bar = alphas_cumprod(ZERO_SNR)
    assert alpha_bar[-1] == 0
    torch.testing.assert_close(alpha_bar[0], alphas_cumprod(PLAIN)[0])
    assert (alpha_bar.diff() < 0).all()
    assert alphas_cumprod(PLAIN)[-1] > 0.004


def test_alpha_and_sigma_keep_the_variance():
    timesteps = torch.tensor([0, 1, 500, 998, 999])
    total = alphas_at(ZERO_SNR, timesteps) ** 2 + sigmas_at(ZERO_SNR, timesteps) ** 2
    torch.testing.assert_close(total, torch.ones(5))


def test_timesteps_between_two_are_interpolated_and_clamped():
    timesteps = torch.tensor([10.0, 10.5, 11.0, -3.0, 5000.0])
    low, middle, high, first, last = alphas_at(ZERO_SNR, timesteps).tolist()
    assert low > middle > high
    assert middle == pytest.approx((low + high) / 2)
    assert first == pytest.approx(float(alphas_cumprod(ZERO_SNR)[0].sqrt()))
    assert last == 0


def test_the_clean_latents_come_back_from_velocity_at_every_timestep():
    clean, noise = torch.randn(2, 5, 3, 2, 4, 4).unbind(0)
    timesteps = torch.tensor([0, 250, 500, 998, 999])
    noisy = add_noise(ZERO_SNR, clean, noise, timesteps)
    v = velocity(ZERO_SNR, clean, noise, timesteps)
    torch.testing.assert_close(clean_from_velocity(ZERO_SNR, noisy, v, timesteps), clean)
    torch.testing.assert_close(noisy[-1], noise[-1])
    torch.testing.assert_close(v[-1], -clean[-1])
    # Each item of a batch has its own timestep.
    alone = add_noise(ZERO_SNR, clean[1:2], noise[1:2], timesteps[1:2])
    torch.testing.assert_close(alone, noisy[1:2])


def test_tables_in_float32_are_those_of_float64_rounded_once():
    alpha_bar = alphas_cumprod(ZERO_SNR)
    every = torch.arange(1000)
    assert torch.equal(alphas_at(ZERO_SNR, every), alpha_bar.sqrt().float())
    assert torch.equal(sigmas_at(ZERO_SNR, every), (1 - alpha_bar).sqrt().float())
    between = every[:-1] + torch.rand(999)
    share = (between - between.floor()).double()
    expected = torch.lerp(alpha_bar.sqrt()[:-1], alpha_bar.sqrt()[1:], share)
    torch.testing.assert_close(
        alphas_at(ZERO_SNR, between).double(), expected, atol=1e-7, rtol=0
    )


def test_tables_made_while_restoring_serve_training():
    schedule = ScheduleConfig(beta_end=0.0123)
    with torch.inference_mode():
        alphas_at(schedule, torch.tensor([5]))
    weight = torch.ones(1, requires_grad=True)
    (alphas_at(schedule, torch.tensor([5])) * weight).sum().backward()
    assert weight.grad == alphas_at(schedule, torch.tensor([5]))
