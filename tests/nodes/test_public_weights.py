"""Checkpoints converted from public weights in ComfyUI: TF-T2V's layout at reduced width."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from safetensors.torch import save_file
from video_deblur.benchmarks.activations import count_activations
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.models.schedule import alphas_cumprod
from video_deblur.restoration.denoising.sampler import sampling_timesteps
from video_deblur.restoration.settings import preset_settings

from .checkpoints import CONVERTED_NAME, blurry_clip, library_latents

TOLERANCE = 1e-3
FRAMES = blurry_clip(6, 64, 96)
DTYPES = {"bfloat16": 0.05, "float16": 0.01, "float8_e4m3fn": 0.3, "float8_e5m2": 0.5}
"""Storage of the UNet, and the largest error of latents, std over std."""


@pytest.fixture(scope="module")
def loaded(call_node, converted_checkpoint):
    return call_node("VideoDeblur_LoadCheckpoint", checkpoint=CONVERTED_NAME, dtype="float32")


@pytest.fixture(scope="module")
def encoded(call_node, loaded):
    return call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=FRAMES)


def psnr(a, b):
    return float(-10 * torch.log10(((a - b) ** 2).mean().clamp(min=1e-12)))


@pytest.fixture(scope="module")
def library(converted_checkpoint):
    from video_deblur.models.checkpoint import load_model
    from video_deblur.restoration.diffusion import Deblurrer

    return Deblurrer(load_model(converted_checkpoint))


def sample(call_node, model, encoded, **inputs):
    values = {"seed": 5, "steps": 4, "cfg": 2.0, "scheduler": "checkpoint", **inputs}
    (result,) = call_node(
        "VideoDeblur_Sample",
        model=model,
        **dict(zip(("positive", "negative", "latent"), encoded, strict=True)),
        **values,
    )
    return model.model.latent_format.process_in(result["samples"])


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_noise_levels_are_those_of_the_library(loaded, steps, spacing, monkeypatch):
    network = loaded[0].model
    assert network.deblur_config.schedule.timestep_spacing == "leading"
    schedule = dataclasses.replace(network.deblur_config.schedule, timestep_spacing=spacing)
    config = dataclasses.replace(network.deblur_config, schedule=schedule)
    monkeypatch.setattr(network, "deblur_config", config)
    node_module = sys.modules[type(network).__module__.replace("denoiser", "sample")]
    sigmas = node_module.checkpoint_sigmas(loaded[0], steps)
    timesteps = sampling_timesteps(schedule, steps)
    assert [int(network.model_sampling.timestep(s)) for s in sigmas[:-1]] == timesteps
    alpha_bar = alphas_cumprod(schedule)[timesteps].clamp(min=4.8973451890853435e-08)
    expected = ((1 - alpha_bar) / alpha_bar).sqrt().float()
    torch.testing.assert_close(sigmas[:-1], expected, rtol=1e-3, atol=0)
    assert sigmas[-1] == 0
    part = node_module.checkpoint_sigmas(loaded[0], 3, 0.4)
    assert torch.equal(part, node_module.checkpoint_sigmas(loaded[0], 7)[-4:])
    assert not len(node_module.checkpoint_sigmas(loaded[0], 3, 0.0))


def test_noise_is_scaled_wherever_a_run_before_has_left_the_levels(loaded):
    node_module = sys.modules[type(loaded[0].model).__module__.replace("denoiser", "sample")]
    noise, level = torch.randn(2, 4, 3, 3), torch.tensor(2.0)
    expected = node_module.pure_noise(loaded[0], noise, level)
    with PretendedDevice("cuda") as pretended:
        found = node_module.pure_noise(loaded[0], noise, level.to(pretended.device))
    assert torch.equal(found, expected)
    torch.testing.assert_close(found, noise * 5**0.5 / 2)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_leading_spacing_samples_as_the_library(
    call_node, loaded, library, encoded, steps, monkeypatch
):
    ours = sample(call_node, loaded[0], encoded, steps=steps)
    settings = {"steps": steps, "seed": 5, "guidance_scale": 2.0}
    expected, _ = library_latents(library, FRAMES, monkeypatch, **settings)
    assert (ours - expected).abs().max() < TOLERANCE * expected.std()
    trailing = sample(call_node, loaded[0], encoded, steps=steps, scheduler="simple")
    assert (trailing - expected).abs().max() > 10 * TOLERANCE * expected.std()


def test_deblur_node_gives_the_frames_of_the_library(
    call_node, library, converted_checkpoint, monkeypatch
):
    inputs = {"checkpoint": CONVERTED_NAME, "preset": "paper", "seed": 9}
    (restored,) = call_node("VideoDeblur_Deblur", frames=FRAMES, **inputs)
    settings = preset_settings(library.model.config, "paper", seed=9)
    expected = library.restore(FRAMES, settings)
    assert psnr(restored, expected) > 50
    assert psnr(restored, FRAMES) < 45


def test_stock_ksampler_with_ddim_uniform_takes_leading_spacing(call_node, loaded, encoded):
    sampling = loaded[0].model.model_sampling
    (sigmas,) = call_node("BasicScheduler", model=loaded[0], scheduler="ddim_uniform", steps=50)
    timesteps = [int(sampling.timestep(sigma)) for sigma in sigmas[:-1]]
    schedule = loaded[0].model.deblur_config.schedule
    assert timesteps == sampling_timesteps(schedule, 50)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_storage_dtype_restores_nearly_the_same(call_node, loaded, encoded, dtype):
    model = call_node("VideoDeblur_LoadCheckpoint", checkpoint=CONVERTED_NAME, dtype=dtype)[0]
    weight = model.model.diffusion_model.mid_block.resnets[0].conv1.weight
    assert str(weight.dtype) == f"torch.{dtype}"
    reference = sample(call_node, loaded[0], encoded)
    error = (sample(call_node, model, encoded) - reference).std() / reference.std()
    assert 0 < error < DTYPES[dtype]


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
def test_weights_that_do_not_fit_the_device_give_the_same_latents(
    comfy, call_node, encoded, converted_checkpoint, dtype
):
    model = call_node("VideoDeblur_LoadCheckpoint", checkpoint=CONVERTED_NAME, dtype=dtype)[0]
    plain = sample(call_node, model, encoded)
    comfy.model_management.unload_all_models()
    model.load(model.load_device, lowvram_model_memory=model.model_size() // 3)
    assert model.model.model_lowvram
    streamed = sample(call_node, model, encoded)
    comfy.model_management.unload_all_models()
    assert torch.equal(plain, streamed)


def lora(network, names, rank=2):
    """Return a LoRA for modules of the network, and what it adds to their weights."""
    weights, added = {}, {}
    for prefix, name in names.items():
        weight = network.get_submodule(name).weight
        down = 0.3 * torch.randn(rank, *weight.shape[1:])
        up = 0.3 * torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2))
        suffixes = ("lora_down", "lora_up") if "lora_unet" in prefix else ("lora_A", "lora_B")
        weights |= {
            f"{prefix}.{s}.weight": w for s, w in zip(suffixes, (down, up), strict=True)
        }
        added[name] = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    return weights, added


@pytest.mark.parametrize(
    ("dtype", "partly", "error"),
    [("float32", False, 1e-4), ("float32", True, 1e-4), ("float8_e4m3fn", True, 0.3)],
)
@torch.inference_mode()  # as the weights were made
def test_a_lora_loads_through_the_stock_loader(
    comfy, call_node, loaded, encoded, dtype, partly, error
):
    model = call_node("VideoDeblur_LoadCheckpoint", checkpoint=CONVERTED_NAME, dtype=dtype)[0]
    attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    temporal = "mid_block.temp_attentions.0.transformer_blocks.0.attn1.to_out.0"
    names = {
        f"lora_unet_{attention.replace('.', '_')}": attention,
        f"diffusion_model.{temporal}": temporal,
        "diffusion_model.up_blocks.1.temp_convs.0.conv2.3": "up_blocks.1.temp_convs.0.conv2.3",
        "lora_unet_conv_in": "conv_in",
    }
    weights, added = lora(model.model.diffusion_model, names)
    path = comfy.base / "models" / "loras" / "test.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    (patched,) = call_node(
        "LoraLoaderModelOnly", model=model, lora_name=path.name, strength_model=0.5
    )
    assert set(patched.patches) == {f"diffusion_model.{n}.weight" for n in names.values()}
    plain = sample(call_node, model, encoded)
    if partly:
        comfy.model_management.unload_all_models()
        patched.load(patched.load_device, lowvram_model_memory=patched.model_size() // 3)
    changed = sample(call_node, patched, encoded)
    comfy.model_management.unload_all_models()
    assert torch.equal(sample(call_node, model, encoded), plain)
    # The same weights put in by hand.
    network = loaded[0].model.diffusion_model
    kept = {name: network.get_submodule(name).weight.clone() for name in added}
    for name, value in added.items():
        network.get_submodule(name).weight.add_(0.5 * value)
    expected = sample(call_node, loaded[0], encoded)
    for name, value in kept.items():
        network.get_submodule(name).weight.copy_(value)
    assert (changed - expected).std() < error * expected.std()
    assert (changed - plain).std() > 0.2 * plain.std()


def test_the_autoencoder_works_in_tiles(call_node, loaded):
    frames = blurry_clip(2, 192, 160)
    (latent,) = call_node("VAEEncode", pixels=frames, vae=loaded[1])
    (whole,) = call_node("VAEDecode", samples=latent, vae=loaded[1])
    options = {"vae": loaded[1], "tile_size": 128, "overlap": 32}
    (encoded,) = call_node("VAEEncodeTiled", pixels=frames, **options)
    (tiled,) = call_node("VAEDecodeTiled", samples=latent, **options)
    assert tiled.shape == whole.shape
    assert encoded["samples"].shape == latent["samples"].shape
    # Normalisation and attention see a tile instead of the picture.
    assert 15 < psnr(tiled, whole) < 60
    assert nearly(encoded["samples"], latent["samples"])


def nearly(latents, reference):
    return 0 < (latents - reference).std() < 0.5 * reference.std()


def test_the_autoencoder_takes_tiles_when_memory_runs_out(
    comfy, call_node, loaded, monkeypatch
):
    frames = blurry_clip(1, 64, 576)
    network, widths = loaded[1].first_stage_model, []
    (latent,) = call_node("VAEEncode", pixels=frames, vae=loaded[1])
    (whole,) = call_node("VAEDecode", samples=latent, vae=loaded[1])
    for name in ("encode", "decode"):
        run = getattr(network, name)

        def limited(x, *args, run=run, **options):
            widths.append(x.shape[-1])
            if len(widths) == 1:
                raise comfy.model_management.OOM_EXCEPTION("out of memory")
            return run(x, *args, **options)

        monkeypatch.setattr(network, name, limited)
    (tiled,) = call_node("VAEDecode", samples=latent, vae=loaded[1])
    assert widths[0] == 72
    assert min(widths) < 72
    assert 15 < psnr(tiled, whole) < 60
    widths.clear()
    (encoded,) = call_node("VAEEncode", pixels=frames, vae=loaded[1])
    assert widths[0] == 576
    assert min(widths) < 576
    assert nearly(encoded["samples"], latent["samples"])


def test_the_memory_estimate_covers_what_is_counted_and_is_comfyuis(comfy, loaded, monkeypatch):
    network = loaded[0].model
    config = network.deblur_config.unet
    counted = count_activations(config, 16, 32)
    estimate = network.memory_required([16, 4, 32, 32])
    assert counted < estimate < 2 * counted
    manage = comfy.model_management
    monkeypatch.setattr(manage, "pytorch_attention_flash_attention", lambda: True)
    stock = super(type(network), network).memory_required([16, 4, 32, 32])
    assert estimate == pytest.approx(stock)
