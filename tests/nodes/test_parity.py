"""The three doors give the same result: our nodes, stock nodes, and the library."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from .checkpoints import NAME, blurry_clip, library_latents

TOLERANCE = 1e-3
"""On normalised latents, float32; ComfyUI keeps alpha_bar_T = 4.9e-8 instead of 0."""


@pytest.fixture(scope="module")
def loaded(call_node, random_checkpoint):
    return call_node("VideoDeblur_LoadCheckpoint", checkpoint=NAME, dtype="float32")


@pytest.fixture(scope="module")
def library(random_checkpoint):
    from video_deblur.models.checkpoint import load_model
    from video_deblur.restoration.diffusion import Deblurrer

    return Deblurrer(load_model(random_checkpoint))


def sample(call_node, node_id, loaded, encoded, **inputs):
    positive, negative, latent = encoded
    values = {"seed": 5, "steps": 4, "cfg": 2.0, **inputs}
    (result,) = call_node(
        node_id,
        model=loaded[0],
        positive=positive,
        negative=negative,
        **{"latent" if "Deblur" in node_id else "latent_image": latent},
        **{"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, **values},
    )
    return result


def normalised(loaded, latent):
    return loaded[0].model.latent_format.process_in(latent["samples"])


def psnr(a, b):
    return float(-10 * torch.log10(((a - b) ** 2).mean().clamp(min=1e-12)))


def library_frames(library, frames, **settings):
    from video_deblur.restoration.settings import preset_settings

    settings = preset_settings(library.model.config, "fast", **settings)
    return library.restore(frames, settings)


@pytest.mark.parametrize("num_frames", [8, 16, 40])
def test_our_sampler_and_stock_ksampler_give_the_same_latents(call_node, loaded, num_frames):
    frames = blurry_clip(num_frames, 48, 64)
    encoded = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)
    ours = sample(call_node, "VideoDeblur_Sample", loaded, encoded)
    stock = sample(call_node, "KSampler", loaded, encoded)
    difference = (normalised(loaded, ours) - normalised(loaded, stock)).abs().max()
    assert difference < TOLERANCE
    assert (ours["samples"] - encoded[2]["samples"]).abs().max() > 0.1
    assert stock["video_deblur"]["frames"] is frames


@pytest.mark.parametrize("num_frames", [8, 40])
def test_sampled_latents_equal_the_library(call_node, loaded, library, num_frames, monkeypatch):
    frames = blurry_clip(num_frames, 48, 64)
    encoded = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)
    ours = normalised(loaded, sample(call_node, "VideoDeblur_Sample", loaded, encoded))
    expected, _ = library_latents(
        library, frames, monkeypatch, steps=4, seed=5, guidance_scale=2.0
    )
    assert (ours - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    "shape", [(1, 64, 64, 3), (17, 50, 37, 4), (11, 90, 110, 3), (2, 250, 187, 3)]
)
def test_deblur_node_gives_the_frames_of_the_library(call_node, library, shape):
    frames = blurry_clip(*shape[:3])
    if shape[3] == 4:
        frames = torch.cat([frames, torch.rand(*shape[:3], 1)], dim=-1)
    (restored,) = call_node("VideoDeblur_Deblur", frames=frames, checkpoint=NAME, seed=9)
    expected = library_frames(library, frames, seed=9)
    assert restored.shape == frames.shape
    assert psnr(restored, expected) > 50
    assert psnr(restored[..., :3], frames[..., :3]) < 60
    assert torch.equal(restored[..., 3:], frames[..., 3:])


def test_our_four_nodes_give_the_frames_of_the_library(call_node, loaded, library):
    frames = blurry_clip(10, 50, 62)
    encoded = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)
    latent = sample(call_node, "VideoDeblur_Sample", loaded, encoded, steps=2, cfg=1.5)
    (restored,) = call_node(
        "VideoDeblur_DecodeLatents",
        vae=loaded[1],
        latent=latent,
        strength=0.7,
        color_match=True,
    )
    expected = library_frames(library, frames, seed=5, strength=0.7, color_match=True)
    assert psnr(restored, expected) > 50


def test_tiles_give_the_frames_of_the_library(call_node, loaded, library):
    frames = blurry_clip(6, 96, 160)
    encoded = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)
    inputs = {"steps": 2, "cfg": 1.5, "tile": 64, "window": 4, "overlap": 2}
    latent = sample(call_node, "VideoDeblur_Sample", loaded, encoded, **inputs)
    (restored,) = call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=latent)
    expected = library_frames(library, frames, seed=5, tile=64, window=4, overlap=2)
    assert psnr(restored, expected) > 50
    assert psnr(restored, library_frames(library, frames, seed=5)) < 60


def test_five_axes_give_the_same_latents_as_frames_in_the_batch(call_node, loaded):
    frames = blurry_clip(20, 48, 64)
    encoded = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)
    flat = sample(call_node, "KSampler", loaded, encoded)["samples"]
    volume = encoded[2]["samples"].movedim(0, 1)[None]
    latent = {"samples": volume}
    # Noise is drawn in the order of the axes: hand both samplers the same.
    import comfy.sample

    noise = comfy.sample.prepare_noise(encoded[2]["samples"], 5)
    with torch.inference_mode():
        deep = comfy.sample.sample(
            loaded[0],
            noise.movedim(0, 1)[None],
            4,
            2.0,
            "euler",
            "simple",
            *encoded[:2],
            latent["samples"],
            seed=5,
            disable_pbar=True,
        )
    assert (deep[0].movedim(1, 0) - flat).abs().max() < TOLERANCE


def test_noise_mask_restores_only_its_region(call_node, loaded):
    frames = blurry_clip(5, 64, 64)
    encoded = list(call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    (encoded[2],) = call_node("SetLatentNoiseMask", samples=encoded[2], mask=mask)
    for node_id in ("VideoDeblur_Sample", "KSampler"):
        result = sample(call_node, node_id, loaded, encoded)["samples"]
        change = (result - encoded[2]["samples"]).abs()
        assert change[..., :7].max() < 1e-4
        assert change[..., 9:].max() > 0.1


def test_denoise_below_one_stays_closer_to_the_blurry_frames(call_node, loaded):
    frames = blurry_clip(5, 64, 64)
    encoded = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)
    start = encoded[2]["samples"]
    changes = []
    for denoise in (0.1, 0.5, 1.0):
        ours = sample(call_node, "VideoDeblur_Sample", loaded, encoded, denoise=denoise)
        stock = sample(call_node, "KSampler", loaded, encoded, denoise=denoise)
        assert (ours["samples"] - stock["samples"]).abs().max() < TOLERANCE
        changes.append(float((ours["samples"] - start).abs().mean()))
    assert changes[0] == min(changes)
    assert changes[1] != changes[2]


def test_same_seed_gives_identical_frames_and_another_seed_does_not(
    call_node, random_checkpoint
):
    frames = blurry_clip(3, 32, 32)
    inputs = {"frames": frames, "checkpoint": NAME}
    first, again, other = (
        call_node("VideoDeblur_Deblur", **inputs, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_detail_skip_decodes_as_the_library_does(call_node, comfy, extension_nodes, tmp_path):
    from video_deblur.models.checkpoint import load_model
    from video_deblur.restoration.diffusion import Deblurrer

    from .checkpoints import write_random_checkpoint

    path = write_random_checkpoint(tmp_path, detail_skip=True)
    target = comfy.base / "models" / "video_deblur" / "detail.safetensors"
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    frames = blurry_clip(3, 40, 40)
    (restored,) = call_node("VideoDeblur_Deblur", frames=frames, checkpoint=target.name)
    deblurrer = Deblurrer(load_model(target))
    assert psnr(restored, library_frames(deblurrer, frames)) > 50
    assert dataclasses.asdict(deblurrer.model.config)["autoencoder"]["detail_skip"]


def test_the_autoencoder_of_stable_diffusion_gives_the_frames_of_the_library(
    call_node, comfy, extension_nodes, tmp_path
):
    from video_deblur.models.checkpoint import load_model
    from video_deblur.restoration.diffusion import Deblurrer

    from .checkpoints import write_random_checkpoint

    path = write_random_checkpoint(
        tmp_path, kind="kl", channels=(8, 8, 16, 16), blocks=(1,) * 4, norm_groups=4
    )
    target = comfy.base / "models" / "video_deblur" / "kl.safetensors"
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    deblurrer = Deblurrer(load_model(target))
    frames = blurry_clip(10, 50, 62)
    (restored,) = call_node("VideoDeblur_Deblur", frames=frames, checkpoint=target.name)
    assert psnr(restored, library_frames(deblurrer, frames)) > 50
    loaded = call_node("VideoDeblur_LoadCheckpoint", checkpoint=target.name, dtype="float32")
    encoded = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)
    assert encoded[2]["samples"].shape == (10, 16, 7, 8)
    latent = sample(call_node, "KSampler", loaded, encoded, steps=2, cfg=1.5)
    (restored,) = call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=latent)
    assert psnr(restored, library_frames(deblurrer, frames, seed=5)) > 50
    (stock,) = call_node("VAEEncode", pixels=frames, vae=loaded[1])
    assert torch.allclose(stock["samples"], encoded[2]["samples"], atol=1e-5)


@pytest.mark.parametrize("sampler_name", ["ddim", "dpmpp_2m", "euler_ancestral", "uni_pc"])
def test_other_samplers_run(call_node, loaded, sampler_name):
    encoded = call_node(
        "VideoDeblur_EncodeFrames", encoder=loaded[2], frames=blurry_clip(3, 32, 32)
    )
    result = sample(call_node, "KSampler", loaded, encoded, sampler_name=sampler_name)
    assert result["samples"].isfinite().all()


def test_custom_sampling_keeps_what_decoding_needs(call_node, loaded):
    encoded = call_node(
        "VideoDeblur_EncodeFrames", encoder=loaded[2], frames=blurry_clip(3, 32, 32)
    )
    stock = sample(call_node, "KSampler", loaded, encoded)
    (noise,) = call_node("RandomNoise", noise_seed=5)
    (guider,) = call_node(
        "CFGGuider", model=loaded[0], positive=encoded[0], negative=encoded[1], cfg=2.0
    )
    (sampler,) = call_node("KSamplerSelect", sampler_name="euler")
    (sigmas,) = call_node("BasicScheduler", model=loaded[0], scheduler="simple", steps=4)
    custom, _ = call_node(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=sampler,
        sigmas=sigmas,
        latent_image=encoded[2],
    )
    assert torch.allclose(custom["samples"], stock["samples"], atol=1e-5)
    assert custom["video_deblur"] == encoded[2]["video_deblur"]
