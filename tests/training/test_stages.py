from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.training.config import AutoencoderStage, DiffusionStage
from video_deblur.training.presets import PRESETS
from video_deblur.training.stages import (
    AutoencoderTraining,
    DiffusionTraining,
    Draws,
    draw,
    draw_timestep,
)

STAGE = DiffusionStage(steps=1, token_dropout=0.0)
PAPER = {"optimizer": "adamw", "relative": False, "pixel_loss": "off"}


def make_clips(count=2, num_frames=3, size=16):
    generator = torch.Generator().manual_seed(5)
    sharp = torch.rand(count, 3, num_frames, size, size, generator=generator) * 2 - 1
    return (sharp + sharp.roll(1, -1)) / 2, sharp


def make_draws(stage, config, clips, progress=0.0, first=0):
    generators = [torch.Generator().manual_seed(first + i) for i in range(len(clips))]
    return draw(stage, config, tuple(clips.shape[2:]), progress, generators)


def part(draws, chosen):
    values = (getattr(draws, field.name)[chosen] for field in dataclasses.fields(Draws))
    return Draws(*values)


@pytest.fixture
def model(untrained_model):
    """A model whose UNet is no longer exactly the skip."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in untrained_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return untrained_model


def test_timesteps_are_the_last_alone_before_the_mix():
    generator = torch.Generator().manual_seed(0)
    assert {draw_timestep(STAGE, 0.1, 999, generator) for _ in range(50)} == {999}
    mixed = torch.tensor([draw_timestep(STAGE, 0.9, 999, generator) for _ in range(4000)])
    assert abs(float((mixed == 999).float().mean()) - STAGE.last_timestep_share) < 0.05
    assert int(mixed.min()) >= 0
    below = float((mixed < 700).float().mean())
    expected = 0.7 * (1 - STAGE.last_timestep_share - STAGE.high_timestep_share)
    assert abs(below - expected) < 0.05


def test_the_papers_timesteps_are_uniform_with_the_last_among_them():
    generator = torch.Generator().manual_seed(0)
    stage = PRESETS["paper"].stage2
    drawn = [draw_timestep(stage, 0.0, 4, generator) for _ in range(1000)]
    shares = torch.bincount(torch.tensor(drawn)) / len(drawn)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.05, rtol=0)


@pytest.mark.parametrize("count", [4, 20])
def test_draws_of_a_clip_depend_on_its_generator_alone(small_config, count):
    stage = dataclasses.replace(STAGE, mixed_from=0.0, token_dropout=0.5, offset_noise=0.1)
    blurry, _ = make_clips(count=count)
    whole = make_draws(stage, small_config, blurry)
    for index in range(count):
        alone = make_draws(stage, small_config, blurry[:1], first=index)
        for field in dataclasses.fields(Draws):
            value = getattr(whole, field.name)
            assert torch.equal(value[index : index + 1], getattr(alone, field.name))
    assert whole.noise.shape == (count, 4, 3, 4, 4)
    assert len(set(whole.timesteps.tolist())) > 1


def test_offset_noise_is_the_same_over_a_channel(small_config):
    blurry, _ = make_clips(count=1)
    plain = make_draws(STAGE, small_config, blurry).noise
    shifted = make_draws(
        dataclasses.replace(STAGE, offset_noise=0.5), small_config, blurry
    ).noise
    difference = shifted - plain
    assert float(difference.std(dim=(3, 4)).max()) < 1e-6
    assert float(difference.std()) > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"mixed_from": 0.0},
        {"mixed_from": 0.0, "min_snr_gamma": 5.0, "relative": False},
        {"mixed_from": 0.0, "pixel_loss": "decoder", "trains": ("autoencoder.decoder.",)},
    ],
)
def test_losses_are_each_clips_own(model, changes):
    stage = dataclasses.replace(STAGE, **changes)
    training = DiffusionTraining(model, stage)
    blurry, sharp = make_clips(count=4)
    draws = make_draws(stage, model.config, blurry)
    whole = training(blurry, sharp, draws, 0.5)
    for index in range(4):
        chosen = slice(index, index + 1)
        alone = training(blurry[chosen], sharp[chosen], part(draws, chosen), 0.5)
        for name, value in whole.items():
            assert torch.allclose(value[chosen], alone[name], rtol=1e-4, equal_nan=True), name


def test_the_loss_reaches_everything_that_is_trained(model):
    training = DiffusionTraining(model, STAGE)
    blurry, sharp = make_clips()
    draws = make_draws(STAGE, model.config, blurry)
    training(blurry, sharp, draws)["loss"].mean().backward()
    for prefix in ("unet.conv_in", "blur_encoder.", "image_encoder."):
        gradients = [p.grad for n, p in model.named_parameters() if n.startswith(prefix)]
        assert any(g is not None and g.abs().max() > 0 for g in gradients), prefix
    assert all(p.grad is None for p in model.autoencoder.parameters())


@pytest.mark.parametrize(
    ("trains", "pixel_loss"),
    [
        (("blur_encoder.",), "off"),
        (("blur_encoder.", "unet.", "image_encoder.token_projection."), "off"),
        (("blur_encoder.", "unet.", "autoencoder.decoder."), "decoder"),
    ],
)
def test_a_stage_reaches_what_it_trains_and_nothing_else(model, trains, pixel_loss):
    stage = dataclasses.replace(
        STAGE, **{**PAPER, "pixel_loss": pixel_loss, "trains": trains, "mixed_from": 0.0}
    )
    training = DiffusionTraining(model, stage)
    blurry, sharp = make_clips()
    training(blurry, sharp, make_draws(stage, model.config, blurry))["loss"].mean().backward()
    reached = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    assert all(name.startswith(trains) for name in reached)
    for prefix in trains:
        assert any(name.startswith(prefix) for name in reached), prefix


def test_the_decoders_pixel_loss_does_not_reach_the_latents(model):
    stage = dataclasses.replace(STAGE, relative=False, coherence_weight=0.0, mixed_from=0.0)
    blurry, sharp = make_clips()
    gradients = []
    for pixel_loss in ("off", "decoder"):
        training = DiffusionTraining(model, dataclasses.replace(stage, pixel_loss=pixel_loss))
        model.zero_grad()
        draws = make_draws(stage, model.config, blurry)
        training(blurry, sharp, draws)["loss"].mean().backward()
        gradients.append(model.unet.conv_out.weight.grad.clone())
    assert torch.equal(*gradients)


def test_a_batch_without_the_last_timestep_uses_the_decoder_for_nothing(model):
    stage = dataclasses.replace(STAGE, trains=("unet.", "autoencoder.decoder."))
    module = DiffusionTraining(model, stage)
    blurry, sharp = make_clips()
    draws = make_draws(stage, model.config, blurry)
    draws = dataclasses.replace(draws, timesteps=torch.tensor([3, 998]))
    values = module(blurry, sharp, draws)
    values["loss"].sum().backward()
    assert values["gain_db"].isnan().all()
    gradients = [p.grad for p in model.autoencoder.decoder.parameters()]
    # Processes that train together reduce the gradients of the same weights.
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    without = DiffusionTraining(model, dataclasses.replace(stage, pixel_loss="off"))
    assert torch.equal(values["loss"], without(blurry, sharp, draws)["loss"])


def test_relative_losses_divide_by_the_error_of_copying(model):
    stage = dataclasses.replace(STAGE, pixel_loss="off", coherence_weight=0.0)
    blurry, sharp = make_clips()
    draws = make_draws(stage, model.config, blurry)
    plain = DiffusionTraining(model, dataclasses.replace(stage, relative=False))
    values = plain(blurry, sharp, draws)
    assert torch.equal(values["loss"], values["v"])
    relative = DiffusionTraining(model, stage)(blurry, sharp, draws, 1.0)
    expected = values["v"] / (values["v_copy"] + stage.latent_floor[1])
    assert torch.allclose(relative["loss"], expected)


def test_an_untrained_model_copies_and_gains_nothing(untrained_model):
    encoder = untrained_model.autoencoder.encoder
    untrained_model.blur_encoder.load_state_dict(encoder.state_dict())
    training = DiffusionTraining(untrained_model, STAGE)
    blurry, sharp = make_clips()
    draws = make_draws(STAGE, untrained_model.config, blurry)
    values = training(blurry, sharp, draws)
    assert torch.allclose(values["v"], values["v_copy"], rtol=1e-3)
    assert values["gain_db"].abs().max() < 0.01
    assert values["loss_t750_999"].tolist() == pytest.approx(values["v"].tolist())
    assert values["loss_t000_249"].isnan().all()
    restored = training(blurry, None, draws)["restored"]
    assert restored.shape == blurry.shape
    assert torch.allclose(restored, blurry, atol=1e-5)


def test_a_part_that_does_not_exist_is_refused(untrained_model):
    stage = dataclasses.replace(STAGE, trains=("unet.", "decoder."))
    with pytest.raises(ValueError, match=r"'decoder\.' is no part of this model"):
        DiffusionTraining(untrained_model, stage)


def test_the_autoencoders_loss_is_each_images_own(untrained_model):
    autoencoder = untrained_model.autoencoder.requires_grad_(True)
    training = AutoencoderTraining(autoencoder, AutoencoderStage(steps=1))
    torch.manual_seed(0)
    images, noise = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 4, 4, 4)
    whole = training(images, noise)
    for index in range(3):
        alone = training(images[index : index + 1], noise[index : index + 1])
        for name, value in whole.items():
            assert torch.allclose(value[index], alone[name][0], rtol=1e-4), name
    whole["loss"].mean().backward()
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())
