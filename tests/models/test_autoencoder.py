from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.autoencoder import (
    Autoencoder,
    denormalise_latents,
    normalise_latents,
)
from video_deblur.models.config import AutoencoderConfig

SMALL = AutoencoderConfig(latent_channels=4, channels=(8, 16), blocks=(1, 1))


def psnr(pred, target):
    return float(10 * torch.log10(4 / (pred - target).square().mean()))


@pytest.mark.parametrize(
    ("channels", "blocks", "downscale"),
    [((8,), (0,), 2), ((8, 16), (1, 2), 4), ((4,) * 3, (1,) * 3, 8)],
)
def test_latents_are_smaller_by_the_downscale(channels, blocks, downscale):
    config = AutoencoderConfig(latent_channels=5, channels=channels, blocks=blocks)
    autoencoder = Autoencoder(config).requires_grad_(False)
    latents = autoencoder.encode(torch.randn(2, 3, 16, 24))
    assert config.downscale == downscale
    assert latents.shape == (2, 5, 16 // downscale, 24 // downscale)
    assert autoencoder.decode(latents).shape == (2, 3, 16, 24)


def test_weights_that_were_saved_give_the_same_result(randomise):
    first = randomise(Autoencoder(SMALL), 0.1).requires_grad_(False)
    second = Autoencoder(SMALL).requires_grad_(False)
    second.load_state_dict(first.state_dict(), strict=True)
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(second.decode(second.encode(images)), first.decode(first.encode(images)))


def test_tiles_encode_and_decode_as_the_whole_frame_does(randomise, assert_same):
    autoencoder = randomise(Autoencoder(SMALL), 0.1, add=True).requires_grad_(False)
    images = torch.randn(1, 3, 96, 16)
    whole = autoencoder.decode(autoencoder.encode(images))
    tile = autoencoder.decode(autoencoder.encode(images[:, :, :64]))
    # Each way 3 convolutions of 2 pixels and 4 of 4, so 44 pixels in all.
    assert_same(tile[:, :, :16], whole[:, :, :16])
    changed = images.clone()
    changed[:, :, 64:] += 1
    moved = autoencoder.decode(autoencoder.encode(changed)) - whole
    assert moved[:, :, :16].abs().max() == 0
    assert moved[:, :, 64:].abs().max() > 1e-3


def test_detail_starts_as_nothing_and_is_optional(randomise):
    config = dataclasses.replace(SMALL, detail_skip=True)
    autoencoder = Autoencoder(config).requires_grad_(False)
    images = torch.randn(1, 3, 8, 8)
    latents, detail = autoencoder.encode(images), autoencoder.encoder.features(images)
    assert [tuple(f.shape[1:]) for f in detail] == [(8, 4, 4), (16, 2, 2)]
    plain = autoencoder.decode(latents)
    assert torch.equal(autoencoder.decoder(latents, detail), plain)
    randomise(autoencoder.decoder.detail, 0.1)
    assert torch.equal(autoencoder.decode(latents), plain)
    assert (autoencoder.decoder(latents, detail) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 4, 5, 3, 3)])
def test_normalising_works_per_channel_and_is_undone(shape):
    mean, std = (0.5, -1.0, 2.0, 0.0), (0.5, 1.0, 2.0, 4.0)
    config = dataclasses.replace(SMALL, latent_mean=mean, latent_std=std)
    latents = torch.randn(shape)
    normal = normalise_latents(config, latents)
    torch.testing.assert_close(normal[:, 2], (latents[:, 2] - 2) / 2)
    torch.testing.assert_close(denormalise_latents(config, normal), latents)
    torch.testing.assert_close(normalise_latents(SMALL, latents), latents)


def test_one_picture_can_be_learnt(make_frames):
    autoencoder = Autoencoder(SMALL)
    images = make_frames(1, 32, 32).permute(0, 3, 1, 2) * 2 - 1
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    scores = []
    for _ in range(60):
        decoded = autoencoder.decode(autoencoder.encode(images))
        loss = (decoded - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scores.append(psnr(decoded.detach(), images))
    assert scores[-1] > scores[0] + 6
