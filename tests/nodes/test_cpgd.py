"""CPGD-Net in ComfyUI: its first stage alone, and with a second one that samples."""

from __future__ import annotations

import gc
import io
import weakref
from fractions import Fraction

import pytest
import torch
from video_deblur.cli import main
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import preset_settings

from . import comfy_process
from .checkpoints import STAGES, blurry_clip, every_stage
from .test_deblur_video import packets, read, write_clip

FRAMES, VIDEO = "VideoDeblur_Deblur", "VideoDeblur_DeblurVideo"


@pytest.fixture(autouse=True)
def files(cpgd_files):
    return cpgd_files


@pytest.fixture
def frames():
    return blurry_clip(11, 45, 70)


@pytest.fixture
def clip(frames, tmp_path):
    return write_clip(tmp_path / "clip.mp4", frames[:, :44], Fraction(25))


@every_stage
def test_frames_are_restored_as_the_library_does(call_node, files, frames, name):
    engine = load_deblurrer(files[name], "cpu")
    settings = preset_settings(engine.config, "fast", seed=2)
    expected = engine.restore(frames, settings)
    (restored,) = call_node(FRAMES, frames=frames, checkpoint=name, seed=2)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    assert (restored - frames).abs().mean() > 3e-3
    (other,) = call_node(FRAMES, frames=frames, checkpoint=name, seed=3)
    # Only what samples draws noise.
    assert torch.equal(other, restored) == (name == STAGES[1])


def test_detailed_averages_orientations_where_there_are_no_steps(call_node, files, frames):
    engine = load_deblurrer(files[STAGES[1]], "cpu")
    settings = preset_settings(engine.config, "fast", self_ensemble=4)
    expected = engine.restore(frames, settings)
    detailed, fast = (
        call_node(FRAMES, frames=frames, checkpoint=STAGES[1], preset=preset)[0]
        for preset in ("detailed", "fast")
    )
    torch.testing.assert_close(detailed, expected, atol=1e-5, rtol=0)
    assert (detailed - fast).abs().max() > 1e-3


@every_stage
def test_a_video_is_restored_as_by_the_command_line(
    comfy, call_node, files, clip, tmp_path, name
):
    output = tmp_path / "run.mp4"
    options = ["--checkpoint", str(files[name]), "--crf", "0", "--device", "cpu"]
    assert main(["run", str(clip), "-o", str(output), *options]) == 0
    for source in (str(clip), io.BytesIO(clip.read_bytes())):
        video = comfy.api.InputImpl.VideoFromFile(source)
        (result,) = call_node(VIDEO, video=video, checkpoint=name, crf=0)
        path = result.get_stream_source()
        assert torch.equal(read(path), read(output))
        assert packets(path, "audio") == packets(str(clip), "audio")
    assert (read(output) - read(clip)).abs().mean() > 3e-3


def test_created_videos_and_single_images_are_restored(call_node, files, frames):
    (video,) = call_node("CreateVideo", images=frames, fps=25.0)
    (result,) = call_node(VIDEO, video=video, checkpoint=STAGES[1])
    # 4:2:0 needs even sides.
    assert read(result.get_stream_source()).shape[0] == len(frames)
    with_alpha = torch.cat([frames[:1], torch.rand(1, 45, 70, 1)], dim=-1)
    (restored,) = call_node(FRAMES, frames=with_alpha, checkpoint=STAGES[1])
    assert torch.equal(restored[..., 3], with_alpha[..., 3])
    assert not torch.equal(restored[..., :3], with_alpha[..., :3])


@every_stage
def test_loading_it_for_samplers_is_refused_in_one_line(call_node, files, load_in_nodes, name):
    # Also after another node has loaded it.
    load_in_nodes(name)
    with pytest.raises(ValueError, match="sampler nodes cannot run it") as caught:
        call_node("VideoDeblur_LoadCheckpoint", checkpoint=name)
    assert str(caught.value) == (
        f"{files[name]}: holds CPGD-Net, a network that restores clips: sampler nodes cannot "
        f"run it. Use it in Deblur Frames or Deblur Video, or with `video-deblur run "
        f"--checkpoint`."
    )


@every_stage
def test_comfyui_keeps_its_memory(
    comfy, call_node, files, frames, load_in_nodes, monkeypatch, name
):
    management, asked = comfy.model_management, []
    load = management.load_models_gpu
    monkeypatch.setattr(
        management,
        "load_models_gpu",
        lambda models, memory_required=0, **options: (
            asked.append((models, memory_required)),
            load(models, memory_required=memory_required, **options),
        ),
    )
    call_node(FRAMES, frames=frames, checkpoint=name)
    patcher = load_in_nodes(name).network
    ((models, memory),) = asked
    assert models == [patcher]
    # A window of 8 frames, all of one tile, and what borrowing takes.
    assert memory > 8 * 45 * 70 * patcher.model.bytes_per_pixel
    assert any(entry.model is patcher for entry in management.current_loaded_models)
    management.unload_all_models()
    assert not management.current_loaded_models
    parameters = list(patcher.model.parameters())
    assert {each.device for each in parameters} == {management.unet_offload_device()}
    # And loaded again.
    call_node(FRAMES, frames=frames, checkpoint=name)
    assert any(entry.model is patcher for entry in management.current_loaded_models)


def test_memory_counts_a_window_of_a_tile(files, load_in_nodes):
    network = load_in_nodes(STAGES[1])
    settings = preset_settings(network.config, "fast")
    small, large, huge = (
        network.memory_bytes(settings, *size) for size in ((32, 32), (512, 512), (2160, 3840))
    )
    assert small < large < huge
    # The network sees tiles of 64 pixels; the window itself grows with the frames.
    pixels = network.network.model.bytes_per_pixel * 64 * 64
    assert large - 8 * pixels == 8 * 64 * 512 * 512
    # Whose windows are shorter.
    assert huge - 6 * pixels == 6 * 76 * 2160 * 3840


@every_stage
def test_weights_that_are_cast_layer_by_layer_give_the_same(
    call_node, files, frames, load_in_nodes, name
):
    """As where they do not fit the device: layers fetch and cast theirs as they run."""
    (expected,) = call_node(FRAMES, frames=frames, checkpoint=name, borrow=False)
    network = load_in_nodes(name).network.model
    layers = [each for each in network.cpfp.modules() if hasattr(each, "comfy_cast_weights")]
    assert any(type(layer).__name__ == "DeformConv" for layer in layers)
    kept = {each: each.data for each in network.cpfp.parameters()}
    try:
        for layer in layers:
            layer.comfy_cast_weights = True
            for parameter in layer.parameters():
                parameter.data = parameter.data.half()
        (streamed,) = call_node(FRAMES, frames=frames, checkpoint=name, borrow=False)
    finally:
        for layer in layers:
            layer.comfy_cast_weights = False
        for parameter, values in kept.items():
            parameter.data = values
    assert (streamed - expected).abs().mean() < 2e-3
    assert (streamed - frames).abs().mean() > 3e-3


def test_what_is_no_longer_used_is_given_up(comfy, call_node, files, frames, our_module):
    call_node(FRAMES, frames=frames[:2], checkpoint=STAGES[1])
    load = our_module("nodes.checkpoint").load_checkpoint
    held = weakref.ref(load(STAGES[1]).network.model)
    comfy.model_management.unload_all_models()
    gc.collect()
    assert load(STAGES[1]).network.model is held(), "moved to the host, and no further"
    comfy_process.forget_instances()
    gc.collect()
    assert held() is None


@every_stage
def test_the_bar_rises_to_its_end(comfy, call_node, files, frames, monkeypatch, name):
    seen = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar,
        "update_absolute",
        lambda bar, value, total=None, preview=None: seen.append(value / total),
    )
    call_node(FRAMES, frames=frames, checkpoint=name)
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(set(seen)) > 4


@every_stage
@pytest.mark.parametrize("part", ["encoder", "passes", "decoder"])
def test_cancel_is_heard_within_a_window(
    comfy, call_node, files, frames, load_in_nodes, monkeypatch, name, part
):
    management = comfy.model_management
    network = load_in_nodes(name).network.model
    called, after = [], []
    module = getattr(network.cpfp, part)
    module = module[2] if part == "passes" else module
    forward = module.forward

    def interrupt(*args, **options):
        called.append(1)
        management.interrupt_current_processing(True)
        result = forward(*args, **options)
        after.append(1)
        return result

    monkeypatch.setattr(module, "forward", interrupt)
    with pytest.raises(management.InterruptProcessingException):
        call_node(FRAMES, frames=frames, checkpoint=name)
    assert (called, after) == ([1], [])
    monkeypatch.undo()
    (restored,) = call_node(FRAMES, frames=frames, checkpoint=name)
    assert restored.isfinite().all()


def test_cancel_is_heard_while_the_second_stage_samples(
    comfy, call_node, files, frames, load_in_nodes, monkeypatch
):
    management = comfy.model_management
    unet = load_in_nodes(STAGES[2]).network.model.cpc.divd.unet
    forward, calls = unet.forward, []

    def interrupt(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing(True)
        return forward(*args, **options)

    monkeypatch.setattr(unet, "forward", interrupt)
    with pytest.raises(management.InterruptProcessingException):
        call_node(FRAMES, frames=frames, checkpoint=STAGES[2], preset="detailed")
    assert len(calls) == 2


def test_a_cancelled_video_leaves_nothing_and_goes_on(
    comfy, call_node, files, frames, load_in_nodes, monkeypatch, tmp_path
):
    path = write_clip(tmp_path / "long.mp4", blurry_clip(40, 44, 70), Fraction(25))
    video = comfy.api.InputImpl.VideoFromFile(str(path))
    network = load_in_nodes(STAGES[1]).network.model
    forward, calls = network.forward, []

    def interrupt(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            comfy.model_management.interrupt_current_processing(True)
        return forward(*args, **options)

    monkeypatch.setattr(network, "forward", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        call_node(VIDEO, video=video, checkpoint=STAGES[1])
    assert len(calls) == 4
    monkeypatch.setattr(network, "forward", forward)
    (result,) = call_node(VIDEO, video=video, checkpoint=STAGES[1])
    assert len(read(result.get_stream_source())) == 40


def test_values_that_are_not_finite_end_the_run_with_one_line(
    call_node, files, frames, load_in_nodes, monkeypatch
):
    network = load_in_nodes(STAGES[1]).network.model
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *a, **o: forward(*a, **o) * float("nan"))
    with pytest.raises(FloatingPointError, match=r"^the network gave values that are not fin"):
        call_node(FRAMES, frames=frames, checkpoint=STAGES[1])


def test_a_first_stage_of_load_upscale_model_goes_with_it(comfy, call_node, files, frames):
    from .other_models import write_first_stage

    write_first_stage(comfy.base / "models" / "upscale_models" / "nafnet.pth")
    (model,) = call_node("UpscaleModelLoader", model_name="nafnet.pth")
    (restored,) = call_node(FRAMES, frames=frames, checkpoint=STAGES[1], first_stage=model)
    (alone,) = call_node(FRAMES, frames=frames, checkpoint=STAGES[1])
    assert restored.shape == alone.shape
    assert restored.isfinite().all()
