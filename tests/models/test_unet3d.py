from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from video_deblur.models.config import UNet3DConfig
from video_deblur.models.layers import timestep_embedding
from video_deblur.models.schedule import alphas_at, clean_from_velocity, sigmas_at
from video_deblur.models.unet3d import UNet3D

PUBLIC_LAYOUT = UNet3DConfig(
    block_channels=(32, 64, 64, 64), context_dim=32, head_dim=16, norm_groups=8
)


@pytest.fixture(scope="module")
def diffusers_unet():
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel(
        block_out_channels=(32, 64, 64, 64),
        cross_attention_dim=32,
        attention_head_dim=16,
        norm_num_groups=8,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return unet.eval().requires_grad_(False)


def inputs(config, batch=1, num_frames=3, height=8, width=8):
    x = torch.randn(batch, config.in_channels, num_frames, height, width)
    return x, torch.full((batch,), 500), torch.randn(batch, 2, config.context_dim)


@pytest.mark.parametrize(
    ("batch", "num_frames", "timesteps"),
    [(1, 1, [999]), (1, 5, [0]), (2, 3, [17, 801])],
)
def test_frame_attention_equals_diffusers(
    diffusers_unet, assert_same, batch, num_frames, timesteps
):
    ours = UNet3D(PUBLIC_LAYOUT).eval().requires_grad_(False)
    ours.load_state_dict(diffusers_unet.state_dict(), strict=True)
    x, _, context = inputs(PUBLIC_LAYOUT, batch, num_frames, 16, 8)
    timesteps = torch.tensor(timesteps)
    reference = diffusers_unet(x, timesteps, context).sample
    assert_same(ours(x, timesteps, context), reference)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_every_dtype_is_as_close_to_diffusers_as_the_table_says(
    diffusers_unet, assert_same, dtype
):
    ours = UNet3D(PUBLIC_LAYOUT, dtype=dtype).eval().requires_grad_(False)
    ours.load_state_dict(diffusers_unet.state_dict(), strict=True)
    x, timesteps, context = inputs(PUBLIC_LAYOUT, 1, 3, 16, 8)
    exact = copy.deepcopy(diffusers_unet).double()
    exact.load_state_dict(ours.state_dict())  # the rounded weights
    reference = exact(x.double(), timesteps, context.double()).sample
    assert_same(ours(x.to(dtype), timesteps, context.to(dtype)), reference, dtype)


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
def test_timesteps_are_embedded_as_diffusers_does(timestep):
    from diffusers.models.embeddings import get_timestep_embedding

    timesteps = torch.tensor([timestep])
    reference = get_timestep_embedding(
        timesteps, 320, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    # Another order of rounding moves them by 5e-5 at the last timestep.
    assert torch.equal(timestep_embedding(timesteps, 320), reference)


@pytest.mark.parametrize("kind", ["frame", "window", "both"])
@pytest.mark.parametrize("size", [(17, 11), (1, 1), (2, 3), (16, 8)])
def test_any_latent_size_comes_back(small_unet_config, randomise, kind, size):
    config = dataclasses.replace(
        small_unet_config, temporal_attention=kind, transformer_in=True
    )
    unet = randomise(UNet3D(config)).eval()
    x, timesteps, context = inputs(config, 2, 3, *size)
    with torch.no_grad():
        out = unet(x, timesteps, context)
    assert out.shape == (2, 4, 3, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize("multiple_levels", [(16, 32), (16, 16, 32)])
def test_odd_sizes_are_padded_by_repeating_the_border(
    small_unet_config, randomise, multiple_levels, assert_same
):
    count = len(multiple_levels)
    config = dataclasses.replace(
        small_unet_config,
        block_channels=multiple_levels,
        attention_levels=(False,) * count,
        temporal_levels=(False,) * count,
        windows=((4, 4, 4),) * count,
    )
    unet = randomise(UNet3D(config), 0.05, add=True).eval()
    x, timesteps, context = inputs(config, 1, 2, 7, 9)
    multiple = config.size_multiple
    pad = (0, -9 % multiple, 0, -7 % multiple, 0, 0)
    padded = torch.nn.functional.pad(x, pad, mode="replicate")
    with torch.no_grad():
        assert_same(unet(x, timesteps, context), unet(padded, timesteps, context)[..., :7, :9])


def test_an_untrained_network_returns_the_blurry_clip_at_the_last_timestep(small_unet_config):
    unet = UNet3D(small_unet_config).eval()
    x, _, context = inputs(small_unet_config, 2)
    out = unet(x, torch.tensor([999, 999]), context)
    torch.testing.assert_close(out, -x[:, 4:], atol=0, rtol=0)


@pytest.mark.parametrize("timestep", [999, 700, 250, 20])
def test_an_untrained_network_gives_the_gaussian_posterior_mean(small_unet_config, timestep):
    config = dataclasses.replace(small_unet_config, latent_skip_std=0.3)
    unet = UNet3D(config).eval()
    x, _, context = inputs(config, 2)
    timesteps = torch.tensor([timestep, timestep])
    with torch.no_grad():
        v = unet(x, timesteps, context)
    noisy, blur = x[:, :4], x[:, 4:]
    alpha = float(alphas_at(unet.schedule, timesteps)[0])
    sigma = float(sigmas_at(unet.schedule, timesteps)[0])
    # The mean of two Gaussian observations, weighted by their precisions.
    precisions = 1 / 0.3**2, (alpha / sigma) ** 2
    weighted = blur * precisions[0] + noisy * alpha / sigma**2
    expected = weighted / sum(precisions)
    clean = clean_from_velocity(unet.schedule, noisy, v, timesteps)
    torch.testing.assert_close(clean, expected, atol=1e-5, rtol=1e-5)


def test_the_skip_is_off_unless_the_config_says_so(small_unet_config):
    config = dataclasses.replace(small_unet_config, latent_skip=False)
    with torch.no_grad():
        unet = UNet3D(config).eval()
        x, timesteps, context = inputs(config)
        assert unet(x, timesteps, context).std() > 1e-4
        unet.conv_out.weight.zero_()
        unet.conv_out.bias.zero_()
        assert unet(x, timesteps, context).abs().max() == 0


def test_clips_of_a_batch_do_not_see_each_other(small_unet_config, randomise, assert_same):
    unet = randomise(UNet3D(small_unet_config), 0.05, add=True).eval().requires_grad_(False)
    x, _, context = inputs(small_unet_config, 3)
    timesteps = torch.tensor([10, 500, 999])
    whole = unet(x, timesteps, context)
    for index in range(3):
        one = slice(index, index + 1)
        assert_same(unet(x[one], timesteps[one], context[one]), whole[one])


def test_every_input_matters(small_unet_config, randomise):
    unet = randomise(UNet3D(small_unet_config), 0.05, add=True).eval().requires_grad_(False)
    x, timesteps, context = inputs(small_unet_config)
    out = unet(x, timesteps, context)
    assert (unet(x, timesteps, context * 0) - out).abs().max() > 1e-4
    assert (unet(x, timesteps - 100, context) - out).abs().max() > 1e-4
    # A far frame and a far place reach the first position.
    changed = x.clone()
    changed[..., -1, -1, -1] += torch.randn(8)
    assert (unet(changed, timesteps, context) - out)[..., 0, 0, 0].abs().max() > 1e-6


def without_spatial_attention(unet):
    for name, parameter in unet.named_parameters():
        if ".attentions." in name and ".proj_out." in name:
            parameter.zero_()
    return unet


@torch.no_grad()
def test_far_places_do_not_matter_without_spatial_attention(
    small_unet_config, randomise, assert_same
):
    # 2 positions per convolution, 7 per window of level 1: less than 64 in all.
    unet = without_spatial_attention(
        randomise(UNet3D(small_unet_config), 0.05, add=True).eval()
    )
    x, timesteps, context = inputs(small_unet_config, 1, 2, 4, 96)
    out = unet(x, timesteps, context)
    changed = x.clone()
    changed[..., 80:] = 3 * torch.randn(changed[..., 80:].shape)
    difference = (unet(changed, timesteps, context) - out).abs()
    assert difference[..., 80:].max() > 0.1
    assert difference[..., :16].max() == 0
    assert_same(unet(x[..., :80], timesteps, context)[..., :16], out[..., :16])


def test_the_same_weights_give_the_same_result_in_low_precision(
    small_unet_config, randomise, assert_same
):
    unet = randomise(UNet3D(small_unet_config), 0.05, add=True).eval().requires_grad_(False)
    x, timesteps, context = inputs(small_unet_config)
    reference = unet(x, timesteps, context)
    low = UNet3D(small_unet_config, dtype=torch.bfloat16).eval().requires_grad_(False)
    low.load_state_dict(unet.state_dict())
    out = low(x.bfloat16(), timesteps, context.bfloat16())
    assert out.dtype == torch.bfloat16
    assert_same(out.float(), reference, torch.bfloat16)


@pytest.mark.parametrize("kind", ["frame", "window"])
def test_gradient_checkpointing_changes_nothing(kind):
    config = dataclasses.replace(PUBLIC_LAYOUT, temporal_attention=kind)
    torch.manual_seed(0)
    unet = UNet3D(config)
    x, timesteps, context = inputs(config)
    results = []
    for checkpointing in (False, True):
        unet.gradient_checkpointing = checkpointing
        unet.zero_grad()
        out = unet(x, timesteps, context)
        out.square().mean().backward()
        gradients = {
            n: p.grad.clone() for n, p in unet.named_parameters() if p.grad is not None
        }
        results.append((out.detach(), gradients))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        assert torch.equal(gradient, results[1][1][name]), name
