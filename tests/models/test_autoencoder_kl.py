from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from einops import rearrange
from video_deblur.models.autoencoder import Autoencoder
from video_deblur.models.config import AutoencoderConfig
from video_deblur.models.divd import Divd

SCALING = 0.18215
CONFIG = AutoencoderConfig(
    kind="kl",
    latent_channels=4,
    channels=(32, 64, 64, 64),
    blocks=(2, 2, 2, 2),
    latent_std=(1 / SCALING,) * 4,
)
"""Stable Diffusion's autoencoder at a fraction of its width."""


@pytest.fixture(scope="module")
def diffusers_autoencoder():
    from diffusers import AutoencoderKL

    reference = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CONFIG.channels,
        layers_per_block=2,
        latent_channels=4,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return reference.double().eval().requires_grad_(False)


def ours_from(reference):
    """Rename the only weights that have another place here."""
    ends = {
        "quant_conv": "encoder.quant_conv",
        "post_quant_conv": "decoder.post_quant_conv",
    }
    weights = {}
    for name, value in reference.state_dict().items():
        first, _, rest = name.partition(".")
        weights[f"{ends.get(first, first)}.{rest}"] = value
    autoencoder = Autoencoder(CONFIG, dtype=torch.float64).eval().requires_grad_(False)
    autoencoder.load_state_dict(weights, strict=True)
    return autoencoder


@pytest.mark.parametrize("size", [(64, 64), (40, 56), (8, 8)])
def test_it_equals_diffusers(diffusers_autoencoder, assert_same, size):
    ours = ours_from(diffusers_autoencoder)
    images = torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    latents = ours.encode(images)
    assert_same(latents, diffusers_autoencoder.encode(images).latent_dist.mode())
    assert_same(ours.decode(latents), diffusers_autoencoder.decode(latents).sample)


def test_normalised_latents_are_those_of_stable_diffusion(
    diffusers_autoencoder, assert_same, kl_config
):
    model = Divd(dataclasses.replace(kl_config, autoencoder=CONFIG)).requires_grad_(False)
    model.autoencoder = ours_from(diffusers_autoencoder)
    video = torch.rand(1, 3, 3, 32, 40, dtype=torch.float64) * 2 - 1
    images = rearrange(video, "1 c t h w -> t c h w")
    moments = diffusers_autoencoder.encode(images).latent_dist
    latents = rearrange(moments.mode() * SCALING, "t c h w -> 1 c t h w")
    assert_same(model.encode_sharp(video), latents)
    decoded = diffusers_autoencoder.decode(moments.mode()).sample
    assert_same(model.decode(latents), rearrange(decoded, "t c h w -> 1 c t h w"))


def test_single_precision_gives_the_same(diffusers_autoencoder, assert_same):
    ours = ours_from(diffusers_autoencoder).float()
    reference = copy.deepcopy(diffusers_autoencoder).float()
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    latents = ours.encode(images)
    assert_same(latents, reference.encode(images).latent_dist.mode())
    assert_same(ours.decode(latents), reference.decode(latents).sample)


def test_residual_decoding_of_the_blurry_latents_is_the_blurry_clip(kl_model):
    blurry = torch.rand(2, 3, 3, 16, 24) * 2 - 1
    latents = kl_model.encode_sharp(blurry)
    assert latents.shape == (2, 4, 3, 2, 3)
    assert torch.equal(kl_model.decode_restored(latents, blurry), blurry)
    moved = kl_model.decode_restored(latents + 0.5, blurry)
    assert (moved - blurry).abs().max() > 1e-3


def test_one_picture_can_be_learnt(kl_config, make_frames):
    autoencoder = Autoencoder(kl_config.autoencoder)
    images = make_frames(1, 32, 32).permute(0, 3, 1, 2) * 2 - 1
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    errors = []
    for _ in range(60):
        loss = (autoencoder.decode(autoencoder.encode(images)) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < errors[0] / 4
