from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.divd import Divd
from video_deblur.models.schedule import add_noise, clean_from_velocity, velocity


def clip(num_frames=3, height=16, width=24, batch=2):
    return torch.rand(batch, 3, num_frames, height, width) * 2 - 1


def test_shapes_are_those_the_class_promises(small_model):
    video = clip()
    for encode in (small_model.encode_sharp, small_model.encode_blur):
        assert encode(video).shape == (2, 4, 3, 4, 6)
    assert small_model.encode_tokens(video[:, :, 0]).shape == (2, 2, 16)
    latents = small_model.encode_sharp(video)
    assert small_model.decode(latents).shape == video.shape
    assert small_model.decode_restored(latents, video).shape == video.shape


def test_keys_have_the_prefixes_of_the_checkpoint(small_model):
    prefixes = {name.partition(".")[0] for name in small_model.state_dict()}
    assert prefixes == {"unet", "autoencoder", "blur_encoder", "image_encoder"}


def test_weights_that_were_saved_give_the_same_result(small_model, small_config):
    copy = Divd(small_config).eval().requires_grad_(False)
    copy.load_state_dict(small_model.state_dict(), strict=True)
    video = clip()
    latents = torch.randn(2, 8, 3, 4, 6)
    timesteps, tokens = torch.tensor([3, 900]), small_model.encode_tokens(video[:, :, 1])
    assert torch.equal(
        copy.unet(latents, timesteps, tokens), small_model.unet(latents, timesteps, tokens)
    )
    assert torch.equal(copy.encode_blur(video), small_model.encode_blur(video))
    assert torch.equal(copy.decode(latents[:, :4]), small_model.decode(latents[:, :4]))


@pytest.mark.parametrize("detail_skip", [False, True])
def test_residual_decoding_of_the_blurry_latents_is_the_blurry_clip(
    small_config, randomise, detail_skip
):
    autoencoder = dataclasses.replace(
        small_config.autoencoder,
        detail_skip=detail_skip,
        latent_mean=(0.1, 0.2, 0.3, 0.4),
        latent_std=(0.5, 1.0, 2.0, 3.0),
    )
    config = dataclasses.replace(small_config, autoencoder=autoencoder)
    model = randomise(Divd(config), 0.1, add=True).eval().requires_grad_(False)
    blurry = clip()
    restored = model.decode_restored(model.encode_sharp(blurry), blurry)
    if detail_skip:
        # The blurry side is decoded plainly: detail may add, it is trained to.
        assert restored.shape == blurry.shape
    else:
        assert torch.equal(restored, blurry)


def test_without_residual_decoding_the_decoder_answers_alone(small_model, small_config):
    small_model.config = dataclasses.replace(small_config, residual_decoding=False)
    blurry, latents = clip(), torch.randn(2, 4, 3, 4, 6)
    restored = small_model.decode_restored(latents, blurry)
    assert torch.equal(restored, small_model.decode(latents))


def test_the_condition_comes_from_the_blur_encoder(small_model):
    video = clip()
    before = small_model.encode_sharp(video)
    small_model.blur_encoder.conv_out.weight.zero_()
    assert torch.equal(small_model.encode_sharp(video), before)
    assert float(small_model.encode_blur(video).std(dim=(0, 2, 3, 4)).max()) < 1e-6


def test_one_clip_can_be_deblurred_after_a_few_dozen_updates(small_config, make_frames):
    sharp = make_frames(4, 32, 32).permute(3, 0, 1, 2)[None] * 2 - 1
    kernel = torch.full((3, 1, 1, 1, 7), 1 / 7)
    padded = torch.nn.functional.pad(sharp, (3, 3, 0, 0, 0, 0), mode="replicate")
    blurry = torch.nn.functional.conv3d(padded, kernel, groups=3)
    model, schedule = Divd(small_config), small_config.schedule
    timesteps, noise = torch.tensor([999]), torch.randn(1, 4, 4, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scores = []
    for _ in range(60):
        condition, tokens = model.encode_blur(blurry), model.encode_tokens(blurry[:, :, 2])
        clean = model.encode_sharp(sharp)
        noisy = add_noise(schedule, clean, noise, timesteps)
        v = model.unet(torch.cat([noisy, condition], dim=1), timesteps, tokens)
        latents = clean_from_velocity(schedule, noisy, v, timesteps)
        restored = model.decode_restored(latents, blurry)
        pixels = (restored - sharp).square().mean()
        target = velocity(schedule, clean, noise, timesteps).detach()
        loss = pixels + 0.01 * (v - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scores.append(float(10 * torch.log10(4 / pixels.detach())))
    blurry_score = float(10 * torch.log10(4 / (blurry - sharp).square().mean()))
    assert scores[-1] > blurry_score + 0.5
