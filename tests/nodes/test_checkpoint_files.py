"""Checkpoints in ComfyUI: the list of files, what loads, and what is refused in one line."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import weakref
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import preset_settings
from video_deblur.video.reader import VideoReader

from . import comfy_process
from .checkpoints import NAME, blurry_clip


@pytest.fixture(scope="module")
def loaded(call_node, random_checkpoint):
    return call_node("VideoDeblur_LoadCheckpoint", checkpoint=NAME, dtype="float32")


def encode(call_node, loaded, frames):
    return call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)


@pytest.mark.parametrize(
    ("node_id", "bundled"),
    [
        ("LoadCheckpoint", ["divd-tiny (bundled)"]),
        (
            "Deblur",
            [
                "cpgd-tiny (bundled)",
                "divd-tiny (bundled)",
                "dblrnet (bundled)",
                "dblrgan (bundled)",
            ],
        ),
        (
            "DeblurVideo",
            [
                "cpgd-tiny (bundled)",
                "divd-tiny (bundled)",
                "dblrnet (bundled)",
                "dblrgan (bundled)",
            ],
        ),
    ],
)
def test_checkpoints_are_listed_with_bundled_ones_first(
    extension_nodes, random_checkpoint, node_id, bundled
):
    node_class = extension_nodes[f"VideoDeblur_{node_id}"]
    described = node_class.INPUT_TYPES()["required"]["checkpoint"][1]
    options = described["options"]
    assert options[: len(bundled)] == bundled
    assert described["default"] == bundled[0]
    assert NAME in options
    assert not any(name.endswith("(bundled)") for name in options[len(bundled) :])


def test_registering_the_folder_keeps_the_paths_of_the_user(comfy, extension_nodes, tmp_path):
    comfy.folder_paths.add_model_folder_path("video_deblur", str(tmp_path))
    extension_nodes["VideoDeblur_Deblur"].INPUT_TYPES()
    paths = comfy.folder_paths.get_folder_paths("video_deblur")
    assert str(tmp_path) in paths
    assert str(comfy.base / "models" / "video_deblur") in paths


def test_a_second_run_loads_nothing_and_a_changed_file_does(
    comfy, call_node, extension_nodes, random_checkpoint
):
    copy = random_checkpoint.with_name("copy.safetensors")
    shutil.copyfile(random_checkpoint, copy)
    inputs = {"checkpoint": copy.name, "dtype": "float32"}
    first = call_node("VideoDeblur_LoadCheckpoint", **inputs)
    assert call_node("VideoDeblur_LoadCheckpoint", **inputs)[0] is first[0]
    node_class = extension_nodes["VideoDeblur_LoadCheckpoint"]
    before = node_class.fingerprint_inputs(**inputs)
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    os.utime(copy, ns=(1, 1))
    assert node_class.fingerprint_inputs(**inputs) != before
    assert call_node("VideoDeblur_LoadCheckpoint", **inputs)[0] is not first[0]


def graph_of(width, *checkpoints):
    """Return a graph that restores pictures, in API format."""
    picture = {"width": width, "height": 32, "batch_size": 2, "color": 0x406080}
    graph = {"picture": {"class_type": "EmptyImage", "inputs": picture}}
    inputs = {"frames": ["picture", 0], "preset": "fast", "strength": 1.0, "seed": 0}
    for name in checkpoints:
        given = {**inputs, "checkpoint": name}
        graph[name] = {"class_type": "VideoDeblur_Deblur", "inputs": given}
        shown = {"images": [name, 0]}
        graph[f"show {name}"] = {"class_type": "PreviewImage", "inputs": shown}
    return graph


def test_weights_stay_from_run_to_run_until_comfyui_frees_memory(
    comfy, our_module, random_checkpoint, monkeypatch
):
    module, built = our_module("nodes.checkpoint"), []
    build = module.build_checkpoint

    def counted(*arguments):
        loaded = build(*arguments)
        built.append(weakref.ref(loaded.model.model))
        return loaded

    monkeypatch.setattr(module, "build_checkpoint", counted)
    other = random_checkpoint.with_name("other.safetensors")
    shutil.copyfile(random_checkpoint, other)
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
    make = comfy.execution.PromptExecutor
    newer = "cache_args" in inspect.signature(make).parameters
    sizes = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
    executor = make(server, **({"cache_args": sizes} if newer else {}))

    def run(number, *checkpoints):
        graph = graph_of(32 + 8 * number, *checkpoints)
        shown = [name for name in graph if name.startswith("show")]
        executor.execute(graph, f"run {number}", execute_outputs=shown)
        assert executor.success, executor.status_messages

    comfy_process.forget_instances()
    run(0, random_checkpoint.name)
    run(1, random_checkpoint.name)
    comfy.model_management.unload_all_models()
    run(2, random_checkpoint.name)
    assert len(built) == 1
    run(3, random_checkpoint.name, other.name)
    run(4, random_checkpoint.name, other.name)
    assert len(built) == 2
    gc.collect()
    assert all(each() is not None for each in built)
    # As ComfyUI's /free does.
    comfy.model_management.unload_all_models()
    executor.reset()
    gc.collect()
    assert [each() for each in built] == [None, None]
    other.unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page, not the weights"),
        (b"hello" * 10, "not a valid safetensors file"),
        (None, "truncated or damaged"),
    ],
)
def test_damaged_file_gives_one_line(comfy, call_node, random_checkpoint, content, message):
    bad = comfy.base / "models" / "video_deblur" / "bad.safetensors"
    data = random_checkpoint.read_bytes()[:-100] if content is None else content
    bad.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        call_node("VideoDeblur_LoadCheckpoint", checkpoint=bad.name)
    assert "\n" not in str(caught.value)
    bad.unlink()


def test_a_network_without_a_sampler_gives_one_line(
    call_node, random_checkpoint, dblrnet_checkpoint
):
    path = random_checkpoint.with_name("dblrnet.safetensors")
    shutil.copyfile(dblrnet_checkpoint, path)
    with pytest.raises(ValueError, match="sampler nodes cannot run it") as caught:
        call_node("VideoDeblur_LoadCheckpoint", checkpoint=path.name)
    path.unlink()
    assert str(caught.value) == (
        f"{path}: holds DBLRNet, a feed-forward network: sampler nodes cannot run it. Use it "
        f"in Deblur Frames or Deblur Video, or with `video-deblur run --checkpoint`."
    )


def test_a_feed_forward_checkpoint_restores_frames_as_the_library_does(
    comfy, call_node, random_checkpoint, dblrnet_checkpoint
):
    path = random_checkpoint.with_name("feed_forward.safetensors")
    shutil.copyfile(dblrnet_checkpoint, path)
    frames = blurry_clip(6, 70, 90)
    engine = load_deblurrer(path, "cpu")
    settings = preset_settings(engine.config, "fast", seed=2)
    inputs = {"frames": frames, "checkpoint": path.name, "seed": 2}
    (restored,) = call_node("VideoDeblur_Deblur", **inputs)
    torch.testing.assert_close(restored, engine.restore(frames, settings), atol=1e-5, rtol=0)
    assert (restored - frames).abs().max() > 1e-3
    video = comfy.api.InputImpl.VideoFromComponents(
        comfy.api.Types.VideoComponents(images=frames, audio=None, frame_rate=Fraction(10))
    )
    (result,) = call_node("VideoDeblur_DeblurVideo", video=video, checkpoint=path.name)
    with VideoReader(result.get_stream_source()) as reader:
        assert len(list(reader)) == 6


def test_pickle_is_refused_unread(comfy, call_node, random_checkpoint):
    bad = comfy.base / "models" / "video_deblur" / "bad.pth"
    bad.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"not a \.safetensors file"):
        call_node("VideoDeblur_Deblur", frames=blurry_clip(1, 8, 8), checkpoint=bad.name)
    bad.unlink()


@pytest.mark.parametrize(
    "dtype", ["auto", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"]
)
def test_every_dtype_restores_nearly_the_same(call_node, random_checkpoint, loaded, dtype):
    frames = blurry_clip(4, 32, 48)
    half = call_node("VideoDeblur_LoadCheckpoint", checkpoint=NAME, dtype=dtype)
    results = []
    for parts in (loaded, half):
        positive, negative, latent = encode(call_node, parts, frames)
        (latent,) = call_node(
            "VideoDeblur_Sample",
            model=parts[0],
            positive=positive,
            negative=negative,
            latent=latent,
            steps=2,
        )
        results.append(call_node("VideoDeblur_DecodeLatents", vae=parts[1], latent=latent)[0])
    assert ((results[0] - results[1]) ** 2).mean() < 1e-4
