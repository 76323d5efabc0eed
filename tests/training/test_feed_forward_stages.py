"""The losses of DBLRNet and DBLRGAN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from video_deblur.models.dblrgan import Discriminator, DiscriminatorConfig
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.training.feed_forward_config import AdversarialStage, ContentStage
from video_deblur.training.feed_forward_stages import (
    AdversarialTraining,
    ContentTraining,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)

SMALL = DblrNetConfig(
    channels=8, num_units=2, head_channels=16, input_skip=True, batch_norm=False
)
JUDGE = DiscriminatorConfig(channels=(4, 8), num_convs=(1, 2), hidden=(6,))


def content(**values):
    torch.manual_seed(0)
    return ContentTraining(DblrNet(SMALL), ContentStage(steps=1, **values))


def adversarial(**values):
    torch.manual_seed(0)
    stage = AdversarialStage(steps=1, discriminator=JUDGE, **values)
    module = AdversarialTraining(DblrNet(SMALL), stage, Discriminator(JUDGE))
    nn.init.normal_(module.model.head3.weight, std=0.02)
    return module


def make_clips(clips=2, num_frames=6, size=16):
    sharp = torch.rand(clips, num_frames, size, size)
    return (sharp + sharp.roll(1, -1)) / 2, sharp


def test_a_network_that_copies_gains_nothing():
    values = content()(*make_clips(), 0.5)
    assert values["loss"].shape == (2,)
    torch.testing.assert_close(values["gain_db"], torch.zeros(2), atol=1e-4, rtol=0)


def test_a_network_that_restores_gains_decibels():
    blurry = torch.rand(1, 6, 16, 16)
    module = content()
    nn.init.constant_(module.model.head3.bias, 0.09)
    # The error falls to a tenth: 20 dB, less what the floor of the loss hides.
    assert 15 < float(module(blurry, blurry + 0.1, 1.0)["gain_db"]) < 20


@pytest.mark.parametrize(
    ("pixel_loss", "expected"),
    [
        ("mse", 0.04),  # of -1..1
        ("charbonnier", math.hypot(0.2, 1e-3)),
        ("log", math.log10(0.04 + 5e-3)),
    ],
)
def test_golden_pixel_losses(pixel_loss, expected):
    blurry = torch.rand(2, 5, 8, 8)
    module = content(pixel_loss=pixel_loss, fft_weight=0.0, pixel_weight=3.0)
    loss = module(blurry, blurry + 0.1, 0.0)["loss"]
    assert loss.tolist() == pytest.approx([3 * expected] * 2, rel=1e-4)


def test_lpips_is_given_each_frame_in_three_channels():
    class Mean(nn.Module):
        def forward(self, pred, target):
            assert pred.shape == target.shape == (4, 3, 12, 12)
            return (pred - target).abs().mean(dim=(1, 2, 3))

    torch.manual_seed(0)
    blurry = torch.rand(2, 6, 12, 12)
    stage = ContentStage(steps=1, pixel_loss="mse", fft_weight=0.0, lpips_weight=0.5)
    loss = ContentTraining(DblrNet(SMALL), stage, Mean())(blurry, blurry + 0.1)["loss"]
    assert loss.tolist() == pytest.approx([0.04 + 0.5 * 0.2] * 2, rel=1e-4)


def test_golden_adversarial_losses():
    at_sharp, at_restored = torch.tensor([0.0, 2.0, -2.0]), torch.tensor([1.0, 0.0, -3.0])
    likely, fooled = (1 / (1 + torch.exp(-logits)) for logits in (at_sharp, at_restored))

    def check(kind, of_restored, of_discriminator):
        found = generator_loss(at_restored, at_sharp, kind)
        torch.testing.assert_close(found, of_restored)
        found = discriminator_loss(at_sharp, at_restored, kind)
        torch.testing.assert_close(found, of_discriminator)

    both = -likely.log() - (1 - fooled).log()
    check("non_saturating", -fooled.log(), both)
    check("paper", (1 - fooled).log(), both)
    told = 1 / (1 + torch.exp(at_restored - at_sharp))
    check("relativistic", -(1 - told).log(), -told.log())


def test_the_papers_gradient_vanishes_where_the_discriminator_wins():
    slopes = {}
    for kind in ("paper", "non_saturating", "relativistic"):
        logits = torch.tensor([-8.0], requires_grad=True)
        generator_loss(logits, torch.zeros(1), kind).sum().backward()
        slopes[kind] = float(logits.grad)
    assert slopes["relativistic"] == slopes["non_saturating"] == pytest.approx(-1, rel=1e-3)
    assert slopes["paper"] == pytest.approx(-math.exp(-8), rel=1e-3)


def test_r1_is_the_squared_gradient_at_each_frame():
    class Linear(nn.Module):
        def forward(self, x):
            return (x * torch.tensor([[1.0, 2.0], [3.0, 0.0]])).sum(dim=(1, 2, 3))

    frames = torch.rand(3, 1, 2, 2)
    assert gradient_penalty(Linear(), frames).tolist() == pytest.approx([14.0] * 3)


@pytest.mark.parametrize("r1_weight", [0.0, 3.0])
@pytest.mark.parametrize("kind", ["relativistic", "non_saturating"])
def test_each_network_is_trained_by_its_own_losses(kind, r1_weight):
    module = adversarial(adversarial_weight=0.5, adversarial_loss=kind, r1_weight=r1_weight)
    blurry, sharp = make_clips()
    values = module(blurry, sharp, 0.0, 1)
    values["loss"].mean().backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters()}

    def frames(clip):
        return (2 * clip - 1).flatten(0, 1)[:, None]

    def expect(loss, prefix):
        module.zero_grad()
        loss.backward()
        for name, parameter in module.named_parameters():
            if name.startswith(prefix):
                torch.testing.assert_close(found[name], parameter.grad, msg=name)

    content = ContentTraining(module.model, module.stage)(blurry, sharp, 0.0, 1)["loss"]
    torch.testing.assert_close(values["content_loss"], content)
    restored, sharp = frames(module.model(blurry)), frames(sharp[:, 2:-2])
    at_sharp = module.discriminator(sharp)
    fooled = generator_loss(module.discriminator(restored), at_sharp, kind)
    expect(content.mean() + 0.5 * fooled.mean(), "model.")

    restored = restored.detach()
    opponent = discriminator_loss(
        module.discriminator(sharp), module.discriminator(restored), kind
    )
    for at in (sharp, restored)[: 2 if kind == "relativistic" else 1]:
        at = at.requires_grad_()
        judged = module.discriminator(at).sum()
        (slope,) = torch.autograd.grad(judged, at, create_graph=True)
        opponent = opponent + r1_weight / 2 * slope.square().sum(dim=(1, 2, 3))
    expect(opponent.mean(), "discriminator.")


def test_accuracy_tells_who_wins():
    module, clips = adversarial(adversarial_loss="non_saturating"), make_clips()
    nn.init.constant_(module.discriminator.head[-1].weight, 0)
    nn.init.constant_(module.discriminator.head[-1].bias, 1)
    values = module(*clips, 0.0, 1)
    assert values["accuracy_sharp"].tolist() == [1, 1]
    assert values["accuracy_restored"].tolist() == [0, 0]


def test_accuracy_of_pairs_is_the_share_told_right():
    module, (blurry, sharp) = adversarial(), make_clips()

    class Mean(nn.Module):
        def forward(self, frames):
            return frames.mean(dim=(1, 2, 3))

    module.discriminator = Mean()
    nn.init.zeros_(module.model.head3.weight)
    nn.init.zeros_(module.model.head3.bias)
    sharp = blurry + torch.tensor([0.1, -0.1])[:, None, None, None]
    values = module(blurry, sharp, 0.0, 1)
    assert values["accuracy_pairs"].tolist() == [1, 0]
    assert "accuracy_sharp" not in values


@pytest.mark.parametrize("kind", ["relativistic", "non_saturating"])
def test_gradient_penalties_are_added_every_few_updates(kind):
    module = adversarial(r1_weight=2.0, r1_every=4, adversarial_loss=kind)
    blurry, sharp = make_clips()
    assert "r1" not in module(blurry, sharp, 0.0, 1)
    values = module(blurry, sharp, 0.0, 4)
    module.stage = AdversarialStage(steps=1, discriminator=JUDGE, adversarial_loss=kind)
    plain = module(blurry, sharp, 0.0, 4)
    torch.testing.assert_close(values["loss"], plain["loss"] + 4 * values["r1"])
    frames = [sharp[:, 2:-2]] + ([module.model(blurry)] if kind == "relativistic" else [])
    expected = sum(
        gradient_penalty(module.discriminator, 2 * part.flatten(0, 1)[:, None] - 1)
        for part in frames
    )
    torch.testing.assert_close(values["r1"], expected.reshape(2, -1).mean(1))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_restored_clip_is_what_the_engine_makes_of_it(batch_norm):
    from video_deblur.restoration.feed_forward import FeedForward
    from video_deblur.restoration.settings import RestorationSettings

    config = DblrNetConfig(channels=8, num_units=1, head_channels=8, batch_norm=batch_norm)
    module = ContentTraining(DblrNet(config), ContentStage(steps=1))
    clip = torch.rand(3, 4, 16, 20) * 2 - 1
    with torch.no_grad():
        restored = module.restored_clip(clip, 0)
    assert module.training
    assert module.model.training
    frames = (clip.movedim(0, -1) + 1) / 2
    engine = FeedForward(module.model.eval().requires_grad_(False))
    expected = engine.restore(frames, RestorationSettings(borrow=False, scene_cuts=False))
    torch.testing.assert_close((restored.movedim(0, -1) + 1) / 2, expected.clamp(0, 1))


def test_content_training_overfits_a_clip():
    module = content(pixel_loss="mse", fft_weight=0.0)
    blurry, sharp = make_clips(1, 5, 24)
    blurry = blurry * 0.5 + 0.25
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        values = module(blurry, sharp)
        values["loss"].mean().backward()
        optimizer.step()
    assert float(values["gain_db"]) > 3


def test_adversarial_training_overfits_a_clip():
    module = adversarial(pixel_loss="mse", fft_weight=0.0, adversarial_weight=1e-3)
    blurry, sharp = make_clips(1, 5, 24)
    blurry = blurry * 0.5 + 0.25
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    for step in range(150):
        optimizer.zero_grad()
        values = module(blurry, sharp, 0.0, step)
        values["loss"].mean().backward()
        optimizer.step()
    assert float(values["gain_db"]) > 3


@pytest.mark.parametrize("kind", ["relativistic", "non_saturating"])
def test_the_discriminator_learns_to_tell_blurry_frames(kind):
    module = adversarial(adversarial_weight=0.0, adversarial_loss=kind)
    blurry, sharp = make_clips(4, 5, 24)
    optimizer = torch.optim.Adam(module.discriminator.parameters(), lr=5e-3)
    for step in range(60):
        optimizer.zero_grad()
        values = module(blurry, sharp, 0.0, step)
        values["loss"].mean().backward()
        optimizer.step()
    told = [values[name].tolist() for name in values if name.startswith("accuracy_")]
    assert told == [[1] * 4] * (1 if kind == "relativistic" else 2)
    assert float(values["discriminator_loss"].detach().max()) < 0.5
