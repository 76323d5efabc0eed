from __future__ import annotations

import dataclasses
import json
import os
import re

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from video_deblur.cli import main
from video_deblur.models.checkpoint import load_model, read_info
from video_deblur.models.config import ScheduleConfig
from video_deblur.models.import_weights.convert import convert_weights
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.training.config import DataConfig
from video_deblur.training.presets import PRESETS
from video_deblur.training.recipe import train_preset

from ...conftest import SMALL_CPGD_CONFIG


@pytest.fixture(scope="module", params=["modelscope", "tf_t2v"])
def converted(request, files, tmp_path_factory):
    """The kind of source, and the checkpoint made of it."""
    path = tmp_path_factory.mktemp("converted") / "deblur-init.safetensors"
    unet = getattr(files, request.param)
    convert_weights(unet, files.vae, files.clip, path, dtype=torch.float32)
    return request.param, path


def test_before_training_the_model_is_the_text_to_video_model(
    converted, reference_unet, reference_clip, files, assert_same
):
    kind, path = converted
    model = load_model(path)
    frames = torch.rand(1, 3, 24, 40) * 2 - 1
    tokens = model.encode_tokens(frames)
    embedding = reference_clip.encode_image(model.image_encoder.preprocess(frames))
    if kind == "tf_t2v":
        weights = torch.load(files.tf_t2v, weights_only=True)["state_dict"]
        hidden = torch.nn.functional.silu(
            embedding @ weights["pre_image_condition.0.weight"].T
            + weights["pre_image_condition.0.bias"]
        )
        expected = hidden @ weights["pre_image_condition.2.weight"].T
        expected = expected + weights["pre_image_condition.2.bias"]
        assert_same(tokens, expected.reshape(1, 4, 64))
    else:
        assert torch.equal(tokens, torch.zeros(1, 4, 64))
        tokens = torch.randn(1, 4, 64)
    noisy, blur = torch.randn(2, 1, 4, 3, 16, 16).unbind(0)
    timesteps = torch.tensor([700])
    reference = reference_unet(noisy, timesteps, tokens).sample
    assert_same(model.unet(torch.cat([noisy, blur], dim=1), timesteps, tokens), reference)


def test_the_blur_encoder_starts_as_a_copy_of_the_sharp_one(converted):
    model = load_model(converted[1])
    video = torch.rand(1, 3, 2, 16, 24) * 2 - 1
    assert torch.equal(model.encode_blur(video), model.encode_sharp(video))
    restored = model.decode_restored(model.encode_blur(video), video)
    torch.testing.assert_close(restored, video, atol=1e-5, rtol=0)


def test_the_checkpoint_says_where_it_comes_from(converted, files):
    kind, path = converted
    info = read_info(path)
    source = info.provenance["converted_from"]
    assert source["unet"]["file"] == getattr(files, kind).name
    assert source["unet"]["bytes"] == getattr(files, kind).stat().st_size
    assert source["autoencoder"]["layout"] == "LDM's names"
    assert info.provenance["trained"] is False
    assert info.config.sampling.steps == 50
    assert not info.config.unet.latent_skip
    schedule = info.config.schedule
    if kind == "tf_t2v":
        assert schedule == ScheduleConfig(timestep_spacing="leading")
        assert info.provenance["prediction"] == "v"
        assert info.provenance["token_projection"] == "pre_image_condition of TF-T2V"
        assert info.licence == "unknown"
    else:
        assert schedule == ScheduleConfig()
        assert info.provenance["prediction"].startswith("noise, without zero terminal SNR")
        assert info.provenance["token_projection"].startswith("new: ")
        assert info.licence == "CC-BY-NC-4.0"
    assert schedule.zero_terminal_snr


def test_training_goes_on_from_it(files, tmp_path):
    path = tmp_path / "deblur-init.safetensors"
    convert_weights(files.tf_t2v, files.vae, files.clip, path)
    (tmp_path / "data" / "photos").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 72, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "data" / "photos" / "a.png"), pixels)
    data = DataConfig(num_frames=2, crop=32, clips_per_batch=1, compressed_share=0.0)
    paper = PRESETS["paper"]
    assert paper.stage1 is not None
    assert paper.stage2 is not None
    preset = dataclasses.replace(
        paper,
        stage1=dataclasses.replace(paper.stage1, steps=1, data=data),
        stage2=dataclasses.replace(paper.stage2, steps=1, data=data),
        precision="no",
    )
    data_specs = [f"synthetic:{tmp_path / 'data'}"]
    options = {"device": "cpu", "num_workers": 0}
    trained = train_preset(preset, data_specs, tmp_path / "run", init=path, **options)
    before, after = read_info(path), read_info(trained)
    assert after.config == before.config
    assert after.licence == before.licence == "unknown"
    losses = (tmp_path / "run" / "stage2.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in losses)


def test_cpgd_nets_second_stage_begins_from_it(converted, tmp_path, make_frames):
    _, path = converted
    (tmp_path / "data" / "photos").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 72, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "data" / "photos" / "a.png"), pixels)
    data = DataConfig(num_frames=2, crop=32, clips_per_batch=1, compressed_share=0.0)
    paper = PRESETS["cpgd-paper"]
    assert paper.cpfp is not None
    assert paper.cpc is not None
    preset = dataclasses.replace(
        paper,
        cpgd_model=SMALL_CPGD_CONFIG,
        cpfp=dataclasses.replace(paper.cpfp, steps=1, data=data),
        # Two: what comes before the convolutions that start at zero has no gradient at first.
        cpc=dataclasses.replace(
            paper.cpc, steps=2, data=data, warmup_steps=1, learning_rate=1e-2
        ),
        precision="no",
    )
    specs, options = [f"synthetic:{tmp_path / 'data'}"], {"device": "cpu", "num_workers": 0}
    with pytest.raises(ValueError, match="cpc begins from a diffusion model; name its"):
        train_preset(preset, specs, tmp_path / "run", **options)
    trained = train_preset(preset, specs, tmp_path / "run", diffusion=path, **options)
    before, after = read_info(path), read_info(trained)
    assert after.config.cpc.divd == before.config
    assert after.config.sampling.steps == 50
    assert after.licence == before.licence
    network, divd = load_model(trained), load_model(path)
    for name, value in network.cpc.divd.state_dict().items():
        assert torch.equal(value, divd.state_dict()[name].half().float()), name
    ours, theirs = network.cpc.control.state_dict(), divd.unet.state_dict()
    copied = [n for n in ours if n in theirs and n != "conv_in.weight"]
    assert len(copied) > 100
    for name in copied:
        torch.testing.assert_close(ours[name], theirs[name], atol=0.03, rtol=0)
    assert any(not torch.equal(ours[n], theirs[n].half().float()) for n in copied)
    settings = RestorationSettings(borrow=False, steps=2)
    assert ClipRestorer(network).restore(make_frames(2, 32, 40), settings).isfinite().all()


def test_the_command_makes_a_checkpoint_that_info_shows(files, tmp_path, capsys):
    path = tmp_path / "deblur-init.safetensors"
    arguments = ["--unet", files.tf_t2v, "--vae", files.vae, "--clip", files.clip, "-o", path]
    assert main(["convert", *map(str, arguments), "--licence", "CC-BY-NC-4.0"]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: ")
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "stored as torch.float16" in shown
    assert "TF-T2V (VGen's names)" in shown
    assert "licence       CC-BY-NC-4.0" in shown
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"unet": "clip"}, "open_clip_.*: not the UNet of .*it looks like a CLIP model"),
        ({"unet": "vae"}, "v2-1_512-.*: .*not the UNet of .*it looks like a Stable Diffusion"),
        ({"vae": "clip"}, "open_clip_.*: not Stable Diffusion's autoencoder .*a CLIP model"),
        ({"vae": "tf_t2v"}, "tft2v_.*: not Stable Diffusion's autoencoder .*like a UNet"),
        ({"clip": "modelscope"}, "text2video_.*: not the image tower of .*like a UNet"),
        (
            {"clip": "vae"},
            "v2-1_512-.*: not the image tower of .*a Stable Diffusion checkpoint",
        ),
    ],
)
def test_a_file_in_the_wrong_slot_is_one_line(files, tmp_path, capsys, slots, message):
    chosen = {"unet": "tf_t2v", "vae": "vae", "clip": "clip", **slots}
    arguments = [f"--{slot}={getattr(files, name)}" for slot, name in chosen.items()]
    assert main(["convert", *arguments, "-o", str(tmp_path / "out.safetensors")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(message, line), line
    assert not os.listdir(tmp_path)


def test_outputs_that_cannot_be_are_refused_before_any_work(files, tmp_path):
    inputs = (files.tf_t2v, files.vae, files.clip)
    with pytest.raises(ValueError, match=r"a folder; name the output FILE\.safetensors"):
        convert_weights(*inputs, tmp_path)
    with pytest.raises(ValueError, match=r"out\.pth: a checkpoint is written as .safetensors"):
        convert_weights(*inputs, tmp_path / "out.pth")
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        convert_weights(*inputs, tmp_path / "none" / "out.safetensors")
    with pytest.raises(ValueError, match="is one of the inputs, choose another output"):
        convert_weights(*inputs, files.vae)
    assert not os.listdir(tmp_path)


def test_parts_that_do_not_belong_together_are_refused(
    files, tmp_path, reference_autoencoder, reference_clip
):
    from diffusers import AutoencoderKL
    from open_clip.model import CLIP

    config = dict(reference_autoencoder.config, latent_channels=16)
    vae = tmp_path / "flux.safetensors"
    save_file(AutoencoderKL.from_config(config).state_dict(), vae)
    with pytest.raises(
        ValueError, match=r"flux.*: its latents have 16 channels, .* denoises 4"
    ):
        convert_weights(files.tf_t2v, vae, files.clip, tmp_path / "out.safetensors")
    clip = CLIP(
        embed_dim=48,
        vision_cfg={
            "image_size": 28,
            "patch_size": 14,
            "layers": 1,
            "width": 80,
            "head_width": 80,
        },
        text_cfg={"context_length": 7, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1},
    )
    other = tmp_path / "other.safetensors"
    save_file(clip.state_dict(), other)
    with pytest.raises(ValueError, match=r"its embedding has 48 channels, .* takes 64"):
        convert_weights(files.tf_t2v, files.vae, other, tmp_path / "out.safetensors")
    # ModelScope brings no projection that could disagree.
    path = tmp_path / "out.safetensors"
    convert_weights(files.modelscope, files.vae, other, path)
    assert read_info(path).config.image_encoder.embedding_dim == 48


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"'visual\.proj' is stored as int64, expected a floating-point format"),
        (float("nan"), r"'visual\.proj' has values that are not finite"),
        (1e6, r"'visual\.proj' has values that are too large for float16. Convert to bfloat16"),
    ],
)
def test_values_that_cannot_be_stored_leave_no_file(
    files, tmp_path, reference_clip, value, message
):
    weights = {**reference_clip.state_dict(), "visual.proj": torch.full((160, 64), value)}
    clip = tmp_path / "clip.bin"
    torch.save(weights, clip)
    with pytest.raises(ValueError, match=message):
        convert_weights(files.tf_t2v, files.vae, clip, tmp_path / "out.safetensors")
    assert os.listdir(tmp_path) == ["clip.bin"]


def test_cancelling_leaves_no_file(files, tmp_path):
    def callback(done, total):
        if done == total // 2:
            raise KeyboardInterrupt

    path = tmp_path / "out.safetensors"
    with pytest.raises(KeyboardInterrupt):
        convert_weights(files.tf_t2v, files.vae, files.clip, path, callback=callback)
    assert not os.listdir(tmp_path)


def test_converting_takes_little_more_memory_than_the_largest_file_and_is_repeatable(
    files, tmp_path, grown_memory_bytes
):
    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    inputs = (files.tf_t2v, files.vae, files.clip)
    (grown,) = grown_memory_bytes(
        "convert_weights(*sys.argv[1:4], sys.argv[5])",
        arguments=[*inputs, first, second],
        # Once before, so that what Python loads on the way is not counted.
        setup="from video_deblur.models.import_weights.convert import convert_weights\n"
        "convert_weights(*sys.argv[1:5])",
    )
    assert grown <= 1.3 * max(path.stat().st_size for path in inputs)
    assert first.read_bytes() == second.read_bytes()
