"""Training on devices that are not there: losses, gradients, updates, the loop around them.

On a pretended device updates must be the CPU's; under fake CUDA tensors only
the losses are computed, as gradients ask for a driver there. Covered: that no operation
mixes devices, that nothing asks Apple's GPUs for float64 or for an operation they lack. Not
covered: the devices' own kernels, gradients in half precision, several devices, memory.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.models.autoencoder import Autoencoder
from video_deblur.models.divd import Divd
from video_deblur.restoration.adaptation.losses import log_error, spectrum_l1
from video_deblur.training import muon
from video_deblur.training.config import AutoencoderStage, DiffusionStage
from video_deblur.training.divd import is_hidden_matrix
from video_deblur.training.losses import coherence_loss, min_snr_weight, velocity_loss
from video_deblur.training.muon import Muon, orthogonalise
from video_deblur.training.stages import AutoencoderTraining, DiffusionTraining, draw

from .fake_cuda import fake_cuda, moved

KINDS = ["cuda", "mps"]
STAGE = DiffusionStage(steps=1, mixed_from=0.0, token_dropout=0.5, min_snr_gamma=5.0)
STAGES = {
    "joint": STAGE,
    "decoder": dataclasses.replace(STAGE, pixel_loss="decoder", relative=False),
    "checkpointing": dataclasses.replace(
        STAGE, pixel_loss="off", gradient_checkpointing=True, offset_noise=0.1
    ),
}


@pytest.fixture(autouse=True)
def _one_precision(monkeypatch):
    """Muon would compute in bfloat16 on a CPU that has it, and in float32 where it has not."""
    monkeypatch.setattr(muon, "multiplies_bfloat16", lambda device: False)


def batch(config, stage):
    """Clips and random decisions."""
    generator = torch.Generator().manual_seed(5)
    sharp = torch.rand(2, 3, 3, 16, 16, generator=generator) * 2 - 1
    blurry = (sharp + sharp.roll(1, -1)) / 2
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return blurry, sharp, draw(stage, config, (3, 16, 16), 0.9, generators)


def make_module(config, stage, randomise):
    torch.manual_seed(0)
    return DiffusionTraining(randomise(Divd(config), 0.02, add=True), stage)


def update(module, arguments):
    """Return the losses of a batch and the weights after an update by both optimizers."""
    values = module(*arguments)
    values["loss"].mean().backward()
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    matrices = [p for n, p in parameters.items() if is_hidden_matrix(n, p)]
    vectors = [p for n, p in parameters.items() if not is_hidden_matrix(n, p)]
    torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    for optimizer in (torch.optim.AdamW(vectors, lr=1e-3), Muon(matrices, lr=1e-3)):
        optimizer.step()
    return values, dict(parameters)


def to_device(arguments, device):
    blurry, sharp, draws = arguments
    return blurry.to(device), sharp.to(device), draws.to(device), 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STAGES)
def test_an_update_is_the_cpus(small_config, randomise, name, kind):
    stage, arguments = STAGES[name], batch(small_config, STAGES[name])
    with sdpa_kernel(SDPBackend.MATH):
        values, weights = update(make_module(small_config, stage, randomise), (*arguments, 0.9))
    module = make_module(small_config, stage, randomise)
    with PretendedDevice(kind) as pretended:
        module.to(pretended.device)
        found, moved_weights = update(module, to_device(arguments, pretended.device))
        for key, value in values.items():
            assert found[key].device == pretended.device
            torch.testing.assert_close(found[key].cpu(), value, equal_nan=True, msg=key)
        for key, weight in weights.items():
            assert moved_weights[key].device == pretended.device
            torch.testing.assert_close(
                moved_weights[key].detach().cpu(), weight.detach(), atol=1e-4, rtol=0, msg=key
            )


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_computed_under_autocast_on_fake_cuda(small_config, randomise, name, dtype):
    stage = STAGES[name]
    if stage.pixel_loss != "off":
        # Which clips the pixel loss takes is read back, which fakes cannot.
        stage = dataclasses.replace(stage, pixel_loss="off")
    arguments = batch(small_config, stage)
    module = make_module(small_config, stage, randomise)
    with fake_cuda(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        values = moved(module)(*to_device(arguments, "cuda"))
        assert {value.device.type for value in values.values()} == {"cuda"}
        assert values["loss"].dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_autoencoders_stage_learns_there(small_config, randomise, kind):
    torch.manual_seed(0)
    autoencoder = randomise(Autoencoder(small_config.autoencoder), 0.02, add=True)
    stage = AutoencoderStage(steps=1)
    images, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 4, 4)
    expected = AutoencoderTraining(autoencoder, stage)(images, noise)
    with PretendedDevice(kind) as pretended:
        module = AutoencoderTraining(autoencoder, stage).to(pretended.device)
        values = module(images.to(pretended.device), noise.to(pretended.device))
        values["loss"].mean().backward()
        for name, value in expected.items():
            assert torch.equal(values[name].detach().cpu(), value.detach()), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_is_the_cpus(kind):
    pred, target = torch.randn(2, 2, 3, 4, 8, 8).unbind(0)
    alpha, sigma = torch.tensor([1.0, 0.3]), torch.tensor([0.0, 0.9])

    def losses(pred, target, alpha, sigma):
        return [
            log_error(pred, target, 0.1),
            spectrum_l1(pred, target),
            velocity_loss(pred, target),
            coherence_loss(pred, target),
            min_snr_weight(alpha, sigma, 5.0),
            orthogonalise(pred.flatten(2)),
        ]

    expected = losses(pred, target, alpha, sigma)
    with PretendedDevice(kind) as pretended:
        there = [value.to(pretended.device) for value in (pred, target, alpha, sigma)]
        for ours, theirs in zip(losses(*there), expected, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs)
