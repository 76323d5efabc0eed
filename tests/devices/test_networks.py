"""Networks, schedule and samplers on devices that are not there.

Under fake CUDA tensors; and on pretended CUDA and Apple devices, where the results must be the
CPU's to the bit (with attention computed from its parts on both). Covered: that no operation
mixes devices, that dtypes fit, that nothing asks Apple's GPUs for float64 or for an operation
they lack. Not covered: results of the devices' own kernels, their memory, what they refuse for
its size, and values read back under fake tensors. See `pretended` and `fake_cuda`.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.models.config import UNet3DConfig
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.models.divd import Divd
from video_deblur.models.schedule import add_noise, clean_from_velocity, velocity
from video_deblur.models.unet3d import UNet3D
from video_deblur.restoration.denoising.sampler import SOLVERS

from .fake_cuda import fake_cuda, moved

UNETS = {
    "window": {},
    "window, no relative positions": {"relative_positions": False},
    "window, spatial": {"attention_levels": (True, True)},
    "frame": {"temporal_attention": "frame"},
    "both": {"temporal_attention": "both", "temporal_levels": (True, True)},
    "public weights": {
        "temporal_attention": "frame",
        "attention_levels": (True, True),
        "temporal_levels": (True, True),
        "transformer_in": True,
        "norm": "group",
        "norm_groups": 4,
        "latent_skip": False,
    },
}
SMALL_DBLRNET = DblrNetConfig(channels=4, num_units=1, head_channels=4)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KINDS = ["cuda", "mps"]


def make_unet(config: UNet3DConfig, changes: dict, randomise) -> UNet3D:
    unet = UNet3D(dataclasses.replace(config, **changes))
    return randomise(unet, 0.05, add=True).eval().requires_grad_(False)


def unet_inputs(config: UNet3DConfig, batch: int = 2) -> list[torch.Tensor]:
    """Noisy and blur latents of an odd size, timesteps with fractions, tokens."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(batch, config.in_channels, 5, 7, 6, generator=generator)
    tokens = torch.randn(batch, 2, config.context_dim, generator=generator)
    return [x, torch.tensor([999.0, 12.5])[:batch], tokens]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in UNETS),
        ("window", torch.bfloat16),
        ("public weights", torch.float16),
    ],
)
def test_every_unet_runs_on_fake_cuda(small_unet_config, randomise, name, dtype):
    unet = make_unet(small_unet_config, UNETS[name], randomise).to(dtype)
    inputs = unet_inputs(small_unet_config)
    with fake_cuda(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        v = moved(unet)(*(value.to("cuda") for value in inputs))
        assert v.device == torch.device("cuda:0")
        assert v.shape == (2, 4, 5, 7, 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", UNETS)
def test_every_unet_is_the_cpus_on_a_pretended_device(small_unet_config, randomise, name, kind):
    unet = make_unet(small_unet_config, UNETS[name], randomise)
    inputs = unet_inputs(small_unet_config)
    with sdpa_kernel(SDPBackend.MATH):
        expected = unet(*inputs)
    with PretendedDevice(kind) as pretended:
        v = unet.to(pretended.device)(*(value.to(pretended.device) for value in inputs))
        assert torch.equal(v.cpu(), expected)


@pytest.fixture(params=["local", "local with detail", "kl"])
def model(request, small_config, kl_config, randomise) -> Divd:
    config = kl_config if request.param == "kl" else small_config
    if request.param == "local with detail":
        autoencoder = dataclasses.replace(config.autoencoder, detail_skip=True)
        config = dataclasses.replace(config, autoencoder=autoencoder)
    return randomise(Divd(config), 0.05, add=True).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_models_parts_run_on_fake_cuda_in_their_dtypes(model, dtype):
    """As the engine calls them; it reads back whether values are finite, which fakes cannot."""
    blurry = torch.rand(1, 3, 3, 24, 32) * 2 - 1
    model.unet.to(dtype)
    model.image_encoder.to(dtype)
    with fake_cuda():
        moved(model)
        blurry = blurry.to("cuda")
        condition, clean = model.encode_blur(blurry), model.encode_sharp(blurry)
        timesteps = torch.tensor([999], device="cuda")
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            tokens = model.encode_tokens(blurry[:, :, 1]).float()
            v = model.unet(torch.cat([clean, condition], dim=1), timesteps, tokens).float()
        estimate = clean_from_velocity(model.config.schedule, clean, v, timesteps)
        decoded = model.decode_restored(estimate, blurry)
        assert {x.dtype for x in (condition, clean, estimate, decoded)} == {torch.float32}
        assert {x.device.type for x in (condition, clean, tokens, estimate)} == {"cuda"}
        assert decoded.shape == blurry.shape


def test_nothing_is_sent_to_the_device_in_a_second_pass(model):
    """What networks add or divide by is made once and kept there."""
    blurry = torch.rand(1, 3, 3, 24, 32) * 2 - 1
    with PretendedDevice("cuda") as pretended:
        model.to(pretended.device)
        blurry, timesteps = blurry.to(pretended.device), torch.tensor([999]).to("cuda")

        def run() -> None:
            condition, clean = model.encode_blur(blurry), model.encode_sharp(blurry)
            tokens = model.encode_tokens(blurry[:, :, 1])
            v = model.unet(torch.cat([clean, condition], dim=1), timesteps, tokens)
            clean = clean_from_velocity(model.config.schedule, clean, v, timesteps)
            model.decode_restored(clean, blurry)

        run()
        before = dict(pretended.counts)
        run()
        assert pretended.counts == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_samplers_are_the_cpus_on_a_pretended_device(small_config, kind, solver, num_steps):
    noise = torch.randn(1, 4, 2, 3, 3)

    def sample(noise: torch.Tensor) -> torch.Tensor:
        def denoised(x: torch.Tensor, timestep: int) -> torch.Tensor:
            timesteps = torch.tensor([timestep], device=x.device)
            return clean_from_velocity(small_config.schedule, x, x.tanh(), timesteps)

        return SOLVERS[solver](denoised, noise, small_config.schedule, num_steps)

    expected = sample(noise)
    with PretendedDevice(kind) as pretended:
        waits = pretended.counts
        assert torch.equal(sample(noise.to(pretended.device)).cpu(), expected)
        assert waits["waits"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_schedule_is_read_on_the_device_without_waiting(small_config, kind):
    clean, noise = torch.randn(2, 3, 4, 2, 3, 3).unbind(0)
    timesteps = torch.tensor([0.0, 500.25, 999.0])
    functions = (add_noise, velocity, clean_from_velocity)
    expected = [f(small_config.schedule, clean, noise, timesteps) for f in functions]
    with PretendedDevice(kind) as pretended:
        moved = [value.to(pretended.device) for value in (clean, noise, timesteps)]
        add_noise(small_config.schedule, *moved)
        before = dict(pretended.counts)
        found = [f(small_config.schedule, *moved) for f in functions]
        # The tables are there by now.
        assert pretended.counts == before
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_dblrnet_is_the_cpus_on_a_pretended_device(make_frames, randomise, kind):
    network = randomise(DblrNet(SMALL_DBLRNET), 0.1, add=True).eval().requires_grad_(False)
    frames = make_frames(5, 12, 14).movedim(-1, 1)
    expected = network.restore_frame(frames)
    with PretendedDevice(kind) as pretended:
        network.to(pretended.device)
        restored = network.restore_frame(frames.to(pretended.device))
        assert torch.equal(restored.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dblrnet_runs_on_fake_cuda(make_frames, dtype):
    network, frames = (
        DblrNet(SMALL_DBLRNET).eval().requires_grad_(False),
        make_frames(5, 12, 14).movedim(-1, 1),
    )
    with fake_cuda(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        restored = moved(network).restore_frame(frames.to("cuda"))
        assert restored.device.type == "cuda"
        assert restored.dtype == torch.float32
