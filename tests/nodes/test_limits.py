"""Nodes at the limits of memory and of numbers, and when they are cancelled."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.models.hardware import unet_bytes
from video_deblur.restoration.settings import RestorationSettings

from .checkpoints import NAME, blurry_clip


@pytest.fixture(scope="module")
def loaded(call_node, random_checkpoint):
    return call_node("VideoDeblur_LoadCheckpoint", checkpoint=NAME, dtype="float32")


def encode(call_node, loaded, frames):
    return call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)


def test_memory_counts_a_window_and_not_the_clip(loaded):
    model = loaded[0].model
    short, long = (model.memory_required([n, 16, 64, 64]) for n in (32, 4000))
    assert short == long
    wide = model.memory_required([16, 16, 512, 512])
    wider = model.memory_required([16, 16, 2048, 2048])
    assert wide == wider > 0


def test_memory_counts_the_window_and_the_tile_of_the_run(
    comfy, call_node, loaded, monkeypatch
):
    model = loaded[0].model
    conditions = encode(call_node, loaded, blurry_clip(64, 16, 160))
    inputs = dict(zip(("positive", "negative", "latent"), conditions, strict=True))
    dtype, config = model.get_dtype(), model.deblur_config
    helpers = importlib.import_module("comfy.sampler_helpers")
    load, asked = helpers.comfy.model_management.load_models_gpu, []

    def loading(models, memory_required=0, **options):
        asked.append((memory_required, options["minimum_memory_required"]))
        return load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", loading)

    def counted(window, tile=0):
        asked.clear()
        call_node(
            "VideoDeblur_Sample", model=loaded[0], **inputs, window=window, overlap=2, tile=tile
        )
        ((most, _),) = asked
        return most

    positions = (16 // config.autoencoder.downscale) * (160 // config.autoencoder.downscale)
    short, long = counted(8), counted(64)
    assert short >= unet_bytes(config.unet, 2 * 8 * positions, dtype)
    assert long >= unet_bytes(config.unet, 2 * 64 * positions, dtype)
    assert short < counted(64, tile=64) < long
    # Neither another run of the same network nor another node counts by these.
    asked.clear()
    stock = {"sampler_name": "euler", "scheduler": "simple", "cfg": 1.0, "denoise": 1.0}
    stock |= {"positive": inputs["positive"], "negative": inputs["negative"], "seed": 0}
    call_node("KSampler", model=loaded[0], latent_image=inputs["latent"], steps=1, **stock)
    ((most, _),) = asked
    assert most == counted(config.sampling.window) < long


def test_memory_of_deblur_video_is_that_of_its_own_settings(call_node, loaded, load_in_nodes):
    checkpoint = load_in_nodes(NAME)
    settings = [RestorationSettings(window=window, overlap=2) for window in (16, 64)]
    before = [checkpoint.memory_bytes(each, 512, 512) for each in settings]
    assert before[0] < before[1]
    tiled = dataclasses.replace(settings[1], tile=64)
    assert checkpoint.memory_bytes(tiled, 512, 512) < before[1]
    checkpoint.model.model.begin_run({"window": 4, "overlap": 2, "tile": 64})
    assert [checkpoint.memory_bytes(each, 512, 512) for each in settings] == before


def test_out_of_memory_goes_on_with_smaller_pieces(call_node, loaded, monkeypatch, caplog):
    frames = blurry_clip(8, 64, 64)
    positive, negative, latent = encode(call_node, loaded, frames)
    network = loaded[0].model.diffusion_model
    forward, sizes = network.forward, []

    def limited(x, *args, **kwargs):
        sizes.append(x.shape[2])
        if x.shape[2] > 4:
            raise torch.OutOfMemoryError("out of memory")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(network, "forward", limited)
    inputs = {"positive": positive, "negative": negative, "latent": latent, "steps": 2}
    (result,) = call_node("VideoDeblur_Sample", model=loaded[0], **inputs)
    assert result["samples"].shape == latent["samples"].shape
    assert [size for size in sizes if size > 4] == [8], "the second step begins where it fits"
    assert caplog.text.count("out of memory: going on with windows of 4 frames") == 1
    # What had to shrink belongs to that run.
    sizes.clear()
    monkeypatch.setattr(
        network, "forward", lambda x, *a, **o: sizes.append(x) or forward(x, *a, **o)
    )
    call_node("VideoDeblur_Sample", model=loaded[0], **inputs)
    assert [x.shape[2] for x in sizes] == [8, 8]


@pytest.mark.parametrize("node_id", ["VideoDeblur_Sample", "KSampler"])
def test_what_overflows_in_float16_is_computed_in_float32(
    call_node, loaded, random_checkpoint, monkeypatch, caplog, node_id
):
    half = call_node("VideoDeblur_LoadCheckpoint", checkpoint=NAME, dtype="float16")
    positive, negative, latent = encode(call_node, half, blurry_clip(5, 32, 48))
    inputs = {"positive": positive, "negative": negative, "latent_image": latent, "steps": 1}
    inputs |= {"cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "seed": 0}
    inputs |= {"denoise": 1.0}
    if node_id == "VideoDeblur_Sample":
        inputs["latent"] = inputs.pop("latent_image")
    (expected,) = call_node(node_id, model=loaded[0], **inputs)
    network = half[0].model.diffusion_model
    forward, dtypes = network.forward, []

    def overflowing(x, timesteps, context, **kwargs):
        dtypes.append(x.dtype)
        result = forward(x.float(), timesteps, context.float(), **kwargs)
        return result * float("inf") if x.dtype == torch.float16 else result

    # As on a device that computes in float16; this one does not.
    monkeypatch.setattr(half[0].model, "manual_cast_dtype", torch.float16)
    monkeypatch.setattr(network, "forward", overflowing)
    (result,) = call_node(node_id, model=half[0], **inputs)
    assert dtypes == [torch.float16, torch.float32]
    assert "not finite in float16: this window is computed in float32" in caplog.text
    close = (result["samples"] - expected["samples"]).abs().max()
    assert close < 0.02 * expected["samples"].abs().max()
    assert half[0].model.manual_cast_dtype == torch.float16


def test_values_that_are_not_finite_end_the_run_with_one_line(call_node, loaded, monkeypatch):
    positive, negative, latent = encode(call_node, loaded, blurry_clip(4, 32, 48))
    network = loaded[0].model.diffusion_model
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *a, **o: forward(*a, **o) * float("nan"))
    inputs = {"positive": positive, "negative": negative, "latent": latent}
    with pytest.raises(FloatingPointError, match="not finite: the checkpoint or a LoRA"):
        call_node("VideoDeblur_Sample", model=loaded[0], **inputs)


def test_frames_that_hold_nan_are_refused_by_every_node(call_node, loaded):
    frames = blurry_clip(4, 32, 48)
    frames[2, 3, 4, 0] = float("nan")
    for node_id in ("Deblur", "Borrow", "MeasureBlur"):
        with pytest.raises(ValueError, match=r"NaN\) in frame 2"):
            call_node(f"VideoDeblur_{node_id}", frames=frames)
    with pytest.raises(ValueError, match=r"NaN\) in frame 2"):
        encode(call_node, loaded, frames)


def test_comfyui_s_own_out_of_memory_error_is_understood(comfy, call_node, loaded, monkeypatch):
    positive, negative, latent = encode(call_node, loaded, blurry_clip(8, 64, 64))
    network = loaded[0].model.diffusion_model
    forward = network.forward

    def limited(x, *args, **kwargs):
        if x.shape[2] > 4:
            raise comfy.model_management.OOM_EXCEPTION("the allocator gave up")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(network, "forward", limited)
    inputs = {"positive": positive, "negative": negative, "latent": latent}
    (result,) = call_node("VideoDeblur_Sample", model=loaded[0], **inputs)
    assert result["samples"].shape == latent["samples"].shape


def test_encoding_and_decoding_in_comfyui_take_fewer_frames_when_memory_runs_out(
    call_node, loaded, monkeypatch
):
    frames = blurry_clip(8, 32, 32)
    latent = encode(call_node, loaded, frames)[2]
    network = loaded[2].model.blur_encoder
    decoder = loaded[1].first_stage_model.decoder
    sizes = []
    for part in (network, decoder):
        forward = part.forward

        def limited(x, *args, forward=forward):
            sizes.append(x.shape[0])
            if x.shape[0] > 2:
                raise torch.OutOfMemoryError("out of memory")
            return forward(x, *args)

        monkeypatch.setattr(part, "forward", limited)
    again = encode(call_node, loaded, frames)[2]
    assert torch.allclose(again["samples"], latent["samples"], atol=1e-5)
    (restored,) = call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=again)
    assert torch.allclose(restored, frames, atol=1e-5)
    assert set(sizes) == {8, 4, 2}


def test_cancelling_stops_between_pieces(comfy, call_node, loaded, monkeypatch):
    positive, negative, latent = encode(call_node, loaded, blurry_clip(40, 32, 32))
    network = loaded[0].model.diffusion_model
    forward, calls = network.forward, []

    def interrupt_in_the_second(x, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing(True)
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(network, "forward", interrupt_in_the_second)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        call_node(
            "KSampler",
            model=loaded[0],
            positive=positive,
            negative=negative,
            latent_image=latent,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
        )
    assert len(calls) == 2


def test_weights_that_do_not_fit_the_device_give_the_same_latents(comfy, call_node, loaded):
    positive, negative, latent = encode(call_node, loaded, blurry_clip(2, 32, 32))
    inputs = {"positive": positive, "negative": negative, "latent": latent}
    (plain,) = call_node("VideoDeblur_Sample", model=loaded[0], **inputs)
    comfy.model_management.unload_all_models()
    loaded[0].load(loaded[0].load_device, lowvram_model_memory=20_000)
    (streamed,) = call_node("VideoDeblur_Sample", model=loaded[0], **inputs)
    assert torch.allclose(plain["samples"], streamed["samples"], atol=1e-5)


def test_nodes_without_a_network_have_room_made_on_the_device(
    comfy, call_node, our_module, monkeypatch
):
    manage, asked = comfy.model_management, []
    monkeypatch.setattr(
        manage, "free_memory", lambda memory, device, *_, **__: asked.append((memory, device))
    )
    frames = blurry_clip(3, 70, 90)
    needed = our_module("restoration.borrowing.passes").borrowing_bytes(70, 90)
    for node, inputs, least in (
        ("Borrow", {"frames": frames}, needed),
        ("SynthesizeBlur", {"sharp": frames}, 140 * 70 * 90),
    ):
        asked.clear()
        call_node(f"VideoDeblur_{node}", **inputs)
        (memory, device), *_ = asked
        assert memory >= least + manage.extra_reserved_memory()
        assert device == manage.get_torch_device()


class FullDevice(PretendedDevice):
    """A device that has room for some tensors and no more."""

    def __init__(self, room: int) -> None:
        super().__init__("cuda")
        self.room = room

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.counts["uploads"]
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.counts["uploads"] > max(before, self.room):
            raise torch.OutOfMemoryError("out of memory")
        return result


@pytest.mark.parametrize("room", [0, 1])
def test_borrow_detail_goes_on_on_the_cpu_where_a_frame_finds_no_room(
    comfy, call_node, extension_nodes, monkeypatch, caplog, room
):
    frames = blurry_clip(3, 70, 90)
    (expected,) = call_node("VideoDeblur_Borrow", frames=frames)
    with FullDevice(room) as full:
        monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: full.device)
        monkeypatch.setattr(comfy.model_management, "free_memory", lambda *_, **__: [])
        # Not as the executor does: in inference mode copies do not reach the pretended device.
        (borrowed,) = extension_nodes["VideoDeblur_Borrow"].execute(frames).args
    assert torch.equal(borrowed, expected)
    assert "going on with borrowing on the CPU" in caplog.text
