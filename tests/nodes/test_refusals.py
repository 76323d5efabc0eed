"""What would give garbage is refused in one line: turned latents, samplers that leave noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from video_deblur.video.reader import VideoReader

from .conftest import REPOSITORY

TURNS = {
    "mirrored left to right": ("LatentFlip", {"flip_method": "y-axis: horizontally"}),
    "mirrored top to bottom": ("LatentFlip", {"flip_method": "x-axis: vertically"}),
    "turned by 180 degrees": ("LatentRotate", {"rotation": "180 degrees"}),
    "turned by 90 degrees": ("LatentRotate", {"rotation": "90 degrees"}),
    "turned by 270 degrees": ("LatentRotate", {"rotation": "270 degrees"}),
}


@pytest.fixture(scope="module")
def bundled(extension_nodes, call_node):
    return call_node("VideoDeblur_LoadCheckpoint")


@pytest.fixture(scope="module")
def frames():
    """Two square frames of a street, 128x128."""
    path = REPOSITORY / "evaluation" / "demo_clips" / "street" / "blurry.mp4"
    with VideoReader(path) as reader:
        pixels = [next(reader).pixels[64:192, 64:192] / np.float32(255) for _ in range(2)]
    return torch.from_numpy(np.stack(pixels))


@pytest.fixture(scope="module")
def restored(call_node, bundled, frames):
    positive, negative, latent = call_node(
        "VideoDeblur_EncodeFrames", encoder=bundled[2], frames=frames
    )
    inputs = {"model": bundled[0], "positive": positive, "negative": negative}
    return call_node("VideoDeblur_Sample", **inputs, latent=latent)[0]


@pytest.mark.parametrize("what", list(TURNS))
def test_latents_that_were_turned_are_refused(call_node, bundled, restored, what):
    node_id, inputs = TURNS[what]
    (turned,) = call_node(node_id, samples=restored, **inputs)
    with pytest.raises(ValueError, match=f"latent is {what} against its blurry") as caught:
        call_node("VideoDeblur_DecodeLatents", vae=bundled[1], latent=turned)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keeps_frames", [True, False])
def test_connected_frames_do_not_hide_that_latents_were_mirrored(
    call_node, bundled, restored, frames, keeps_frames
):
    (turned,) = call_node("LatentFlip", samples=restored, flip_method="y-axis: horizontally")
    original = frames.flip(2)
    if not keeps_frames:
        turned, original = {"samples": turned["samples"]}, frames
    inputs = {"vae": bundled[1], "latent": turned, "original": original}
    with pytest.raises(ValueError, match="latent is mirrored left to right against"):
        call_node("VideoDeblur_DecodeLatents", **inputs)


def test_part_of_a_clip_decodes_onto_that_part(call_node, bundled, restored, frames):
    (part,) = call_node("LatentFromBatch", samples=restored, batch_index=1, length=1)
    inputs = {"vae": bundled[1], "latent": part, "original": frames[1:], "borrow": False}
    (result,) = call_node("VideoDeblur_DecodeLatents", **inputs)
    (whole,) = call_node(
        "VideoDeblur_DecodeLatents", vae=bundled[1], latent=restored, borrow=False
    )
    torch.testing.assert_close(result[0], whole[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["noise", "flat frames", "symmetric frames", "weak"])
def test_latents_that_lie_right_are_never_refused(call_node, bundled, restored, frames, kind):
    latent = dict(restored)
    if kind == "noise":
        latent["samples"] = torch.randn_like(latent["samples"])
    elif kind == "weak":
        latent["samples"] = latent["samples"] + 2 * torch.randn_like(latent["samples"])
    else:
        frames = torch.cat([frames[:, :, :64], frames[:, :, :64].flip(2)], dim=2)
        if kind == "flat frames":
            frames = torch.full_like(frames, 0.5)
        latent = call_node("VideoDeblur_EncodeFrames", encoder=bundled[2], frames=frames)[2]
    (result,) = call_node("VideoDeblur_DecodeLatents", vae=bundled[1], latent=latent)
    assert result.isfinite().all()


REFUSED = [("uni_pc", 1), ("uni_pc_bh2", 1), ("dpm_fast", 8), ("dpm_adaptive", 2)]


# ComfyUI's own: it copies tensors in a way that torch warns of.
@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")
@pytest.mark.parametrize(("sampler_name", "steps"), REFUSED)
def test_samplers_that_leave_noise_are_refused(
    call_node, bundled, restored, frames, sampler_name, steps
):
    positive, negative, latent = call_node(
        "VideoDeblur_EncodeFrames", encoder=bundled[2], frames=frames
    )
    inputs = {"model": bundled[0], "positive": positive, "negative": negative}
    inputs |= {"sampler_name": sampler_name, "steps": steps}
    with pytest.raises(ValueError, match=f"sampler_name {sampler_name} .* euler") as caught:
        call_node("VideoDeblur_Sample", **inputs, latent=latent)
    assert "\n" not in str(caught.value)
    # And for good reason: KSampler, which cannot refuse, leaves noise with it.
    inputs |= {"seed": 0, "cfg": 1.0, "scheduler": "simple", "denoise": 1.0}
    (result,) = call_node("KSampler", **inputs, latent_image=latent)
    assert (result["samples"] - restored["samples"]).square().mean() > 0.05


def test_every_other_sampler_takes_the_noise_away_in_one_step(
    comfy, call_node, bundled, restored, frames
):
    positive, negative, latent = call_node(
        "VideoDeblur_EncodeFrames", encoder=bundled[2], frames=frames
    )
    refused = {name for name, _ in REFUSED}
    inputs = {"model": bundled[0], "positive": positive, "negative": negative}
    for name in set(comfy.samplers.KSampler.SAMPLERS) - refused:
        (result,) = call_node("VideoDeblur_Sample", **inputs, latent=latent, sampler_name=name)
        error = (result["samples"] - restored["samples"]).square().mean()
        assert error < 1e-3, name


def test_a_scheduler_that_divides_by_zero_is_refused(call_node, bundled, frames):
    positive, negative, latent = call_node(
        "VideoDeblur_EncodeFrames", encoder=bundled[2], frames=frames
    )
    inputs = {"model": bundled[0], "positive": positive, "negative": negative}
    inputs |= {"latent": latent, "scheduler": "kl_optimal"}
    with pytest.raises(ValueError, match="scheduler kl_optimal needs 2 steps or more"):
        call_node("VideoDeblur_Sample", **inputs)
    assert call_node("VideoDeblur_Sample", **inputs, steps=2)[0]["samples"].isfinite().all()


def test_the_least_denoise_of_the_checkpoint_s_scheduler_is_named(call_node, bundled, frames):
    positive, negative, latent = call_node(
        "VideoDeblur_EncodeFrames", encoder=bundled[2], frames=frames[:, :32, :32]
    )
    inputs = {"model": bundled[0], "positive": positive, "negative": negative}
    inputs |= {"latent": latent, "scheduler": "checkpoint", "steps": 20}
    with pytest.raises(ValueError, match=r"^denoise must be at least 0\.02 for 20") as caught:
        call_node("VideoDeblur_Sample", **inputs, denoise=0.01)
    assert "\n" not in str(caught.value)
    (result,) = call_node("VideoDeblur_Sample", **inputs, denoise=0.02)
    assert result["samples"].isfinite().all()


@pytest.mark.parametrize("steps", [1, 3, 7, 29, 57, 333, 999, 1000])
def test_the_least_denoise_that_is_named_works(bundled, our_module, steps):
    sigmas = our_module("nodes.sample").checkpoint_sigmas
    least = -(-steps // 10) / 100
    assert len(sigmas(bundled[0], steps, least)) == steps + 1
    if least > 0.01:
        with pytest.raises(ValueError, match=f"at least {least:g} for"):
            sigmas(bundled[0], steps, least - 0.01)
