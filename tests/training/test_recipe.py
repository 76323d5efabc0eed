from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from video_deblur.models.checkpoint import load_model, read_info
from video_deblur.training.config import AutoencoderStage, DataConfig, DiffusionStage, Preset
from video_deblur.training.data import workers
from video_deblur.training.divd import is_hidden_matrix
from video_deblur.training.recipe import train_preset

DATA = DataConfig(num_frames=3, crop=32, clips_per_batch=2, compressed_share=0.0)


@pytest.fixture
def data_folder(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "photos" / f"{seed}.png"), pixels)
    return tmp_path / "data"


def test_a_time_limit_is_of_one_stage(tmp_path, data_folder, small_config):
    with pytest.raises(ValueError, match="time_limit_s is for presets of one stage"):
        train(make_preset(small_config), data_folder, tmp_path / "run", time_limit_s=1.0)
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_of_another_checkpoint_replaces_stage_0(
    tmp_path, data_folder, small_config
):
    start = train(make_preset(small_config), data_folder, tmp_path / "start")
    unet = dataclasses.replace(small_config.unet, relative_positions=False)
    skip = dataclasses.replace(small_config.autoencoder, detail_skip=True)
    other = make_preset(dataclasses.replace(small_config, unet=unet, autoencoder=skip))
    path = train(other, data_folder, tmp_path / "other", autoencoder=start)
    assert not (tmp_path / "other" / "autoencoder.jsonl").exists()
    weights = weights_of(path)
    for name, value in weights_of(start).items():
        if name.startswith("autoencoder."):
            assert torch.equal(weights[name], value)
    assert not any("relative_position" in name for name in weights)
    info, started = read_info(path), read_info(start)
    assert info.config.autoencoder.latent_std == started.config.autoencoder.latent_std
    assert info.config.autoencoder.detail_skip
    assert info.provenance["autoencoder"] == start.name


def test_an_autoencoder_of_another_shape_is_refused(tmp_path, data_folder, small_config):
    wider = dataclasses.replace(small_config.autoencoder, channels=(24, 32))
    preset = make_preset(dataclasses.replace(small_config, autoencoder=wider))
    start = train(make_preset(small_config), data_folder, tmp_path / "start")
    with pytest.raises(ValueError, match=r"safetensors: its autoencoder has channels"):
        train(preset, data_folder, tmp_path / "run", autoencoder=start)


@pytest.fixture
def pairs_folder(tmp_path):
    rng = np.random.default_rng(0)
    for sequence in ("first", "second"):
        for kind in ("blur", "sharp"):
            (tmp_path / "pairs" / sequence / kind).mkdir(parents=True)
            for index in range(4):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                path = tmp_path / "pairs" / sequence / kind / f"{index:03d}.png"
                cv2.imwrite(str(path), pixels)
    return tmp_path / "pairs"


def make_preset(model, **changes):
    stage = DiffusionStage(steps=3, data=DATA, mixed_from=0.5, warmup_steps=1)
    return Preset(
        model=model,
        autoencoder=AutoencoderStage(steps=2, batch_size=2, crop=32),
        joint=dataclasses.replace(stage, **changes),
        precision="no",
    )


def train(preset, data_folder, folder, **options):
    options = {"device": "cpu", "num_workers": 0, **options}
    return train_preset(preset, [f"synthetic:{data_folder}"], folder, **options)


def weights_of(path):
    return load_model(path).state_dict()


def losses_of(folder, stage="joint"):
    lines = (folder / f"{stage}.jsonl").read_text().splitlines()
    return {values["step"]: values["loss"] for values in map(json.loads, lines)}


def assert_same_weights(first, second):
    ours, theirs = weights_of(first), weights_of(second)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_short_run_exports_a_checkpoint_that_loads(tmp_path, data_folder, small_config):
    preset = make_preset(small_config)
    exported = tmp_path / "exported.safetensors"
    path = train(preset, data_folder, tmp_path / "run", export=exported)
    info = read_info(path)
    assert info.provenance["data"] == ["synthetic:data"]
    assert info.provenance["joint"]["steps"] == 3
    assert info.provenance["init"] is None
    assert len(info.config.autoencoder.latent_std) == 4
    assert_same_weights(path, exported)
    again = train(preset, data_folder, tmp_path / "again")
    assert_same_weights(path, again)
    warm = train(preset, data_folder, tmp_path / "warm", init=path)
    assert read_info(warm).provenance["init"] == path.name
    assert read_info(warm).provenance["autoencoder"] is None
    assert read_info(warm).config.autoencoder == info.config.autoencoder


def test_a_preset_without_stage_0_needs_a_checkpoint(tmp_path, data_folder):
    preset = Preset(joint=DiffusionStage(steps=1, data=DATA))
    with pytest.raises(ValueError, match="starts from a checkpoint; name one with --init"):
        train(preset, data_folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["init", "autoencoder"])
def test_a_checkpoint_of_another_architecture_is_refused(
    tmp_path, data_folder, small_config, dblrnet_checkpoint, option
):
    with pytest.raises(ValueError, match=r"holds DBLRNet, .* needs a checkpoint of DIVD"):
        train(
            make_preset(small_config),
            data_folder,
            tmp_path / "run",
            **{option: dblrnet_checkpoint},
        )
    assert not (tmp_path / "run").exists()


def test_stage_0_alone_goes_on_from_a_checkpoint(tmp_path, data_folder, small_config):
    start = train(make_preset(small_config), data_folder, tmp_path / "start")
    alone = dataclasses.replace(make_preset(small_config), seed=5).only(["autoencoder"])
    path = train(alone, data_folder, tmp_path / "run", init=start)
    ours, theirs = weights_of(path), weights_of(start)
    changed = {n for n, w in ours.items() if not torch.equal(w, theirs[n])}
    assert any(name.startswith("autoencoder.encoder.") for name in changed)
    # Two small updates from what the checkpoint had, not from new weights.
    fresh = weights_of(train(alone, data_folder, tmp_path / "fresh"))
    name = max((n for n in ours if n.startswith("autoencoder.")), key=lambda n: ours[n].numel())
    assert (ours[name] - theirs[name]).norm() < 0.2 * (fresh[name] - theirs[name]).norm()
    blur_encoder = {n: w for n, w in ours.items() if n.startswith("blur_encoder.")}
    for name, value in blur_encoder.items():
        assert torch.equal(value, ours[name.replace("blur_encoder.", "autoencoder.encoder.")])
    with pytest.raises(ValueError, match="stage 0 alone restores no clips"):
        train(alone, data_folder, tmp_path / "run", init=start, validation="pairs:none")


def test_too_many_workers_are_refused_before_stage_0(
    tmp_path, data_folder, small_config, monkeypatch
):
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e6))
    with pytest.raises(ValueError, match="--workers 1 may need"):
        train(make_preset(small_config), data_folder, tmp_path / "run", num_workers=1)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("kind", ["small_config", "kl_config"])
def test_the_papers_stages_change_what_they_train_alone(tmp_path, data_folder, kind, request):
    config = request.getfixturevalue(kind)
    start = train(make_preset(config), data_folder, tmp_path / "start")
    paper = {"data": DATA, "optimizer": "adamw", "relative": False, "warmup_steps": 1}
    stage1 = DiffusionStage(
        steps=2,
        trains=("blur_encoder.",),
        pixel_loss="off",
        mixed_from=0.0,
        learning_rate=1e-2,
        **paper,
    )
    stage2 = DiffusionStage(
        steps=3,
        trains=("blur_encoder.", "unet.", "image_encoder.token_proj", "autoencoder.decoder."),
        pixel_loss="decoder",
        mixed_from=0.0,
        learning_rate=1e-2,
        **paper,
    )
    first = train(Preset(stage1=stage1), data_folder, tmp_path / "first", init=start)
    both = train(
        Preset(stage1=stage1, stage2=stage2), data_folder, tmp_path / "both", init=start
    )
    weights = [weights_of(path) for path in (start, first, both)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]) != name.startswith("blur_encoder."), name
        assert name.startswith(stage2.trains) or torch.equal(value, weights[2][name]), name
    for prefix in stage2.trains:
        names = [name for name in weights[0] if name.startswith(prefix)]
        assert any(not torch.equal(weights[1][n], weights[2][n]) for n in names), prefix


def test_validation_draws_pictures_and_keeps_the_best(
    tmp_path, data_folder, pairs_folder, small_config
):
    preset, folder = make_preset(small_config), tmp_path / "run"
    train(preset, data_folder, folder, validation=f"pairs:{pairs_folder}", validate_every=2)
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    assert names == ["joint_000002.png", "joint_000003.png"]
    lines = [json.loads(line) for line in (folder / "joint.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert all(np.isfinite(line["validation_gain_db"]) for line in lines)
    assert len(weights_of(folder / "best.safetensors")) > 100
    assert any((folder / "tensorboard").rglob("events.*"))
    assert json.loads((folder / "config.json").read_text())["joint"]["steps"] == 3


def test_clips_too_short_for_validation_are_refused_before_training(
    tmp_path, data_folder, pairs_folder, small_config
):
    longer = dataclasses.replace(DATA, num_frames=5)
    preset = make_preset(small_config, data=longer)
    with pytest.raises(ValueError, match="first: has 4 frames, validation needs 5"):
        train(preset, data_folder, tmp_path / "run", validation=f"pairs:{pairs_folder}")


def test_killed_at_random_moments_and_resumed_equals_never_stopped(
    tmp_path, data_folder, small_config
):
    preset = make_preset(small_config, steps=40)
    options = {"init": train(make_preset(small_config), data_folder, tmp_path / "start")}
    before = time.monotonic()
    whole = train(preset, data_folder, tmp_path / "whole", **options)
    duration_s = time.monotonic() - before
    folder, rng, reached = tmp_path / "killed", random.Random(4), [0]
    options["save_every_s"] = 0.0
    for _ in range(5):
        context = multiprocessing.get_context("fork")
        process = context.Process(
            target=train, args=(preset, data_folder, folder), kwargs=options
        )
        process.start()
        process.join(timeout=rng.uniform(0.1, 0.5) * duration_s)
        process.kill()
        process.join()
        reached.append(max((int(p.stem[-7:]) for p in folder.rglob("*.pt")), default=0))
    assert reached == sorted(reached)
    assert any(0 < step < preset.joint.steps for step in reached)
    assert_same_weights(whole, train(preset, data_folder, folder, **options))


def train_by(processes, preset, folder, data_folder):
    """Train with several processes; on a CPU accelerate's launcher starts only one."""
    config = folder / f"{processes}.json"
    config.write_text(json.dumps({**dataclasses.asdict(preset), "preset": "tiny"}))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(processes)]
    launch += ["-m", "video_deblur.cli", "train", str(config), "--device", "cpu"]
    launch += [
        "--data",
        f"synthetic:{data_folder}",
        "--validation",
        f"pairs:{folder / 'pairs'}",
    ]
    return subprocess.run(
        [*launch, "--out", str(folder / f"by_{processes}"), "--workers", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_give_the_losses_and_weights_of_one(
    tmp_path, data_folder, small_config, pairs_folder
):
    preset = make_preset(
        small_config, steps=24, data=dataclasses.replace(DATA, clips_per_batch=4)
    )
    losses, weights = [], []
    for processes in (1, 2):
        done = train_by(processes, preset, tmp_path, data_folder)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / f"by_{processes}"
        losses.append({**losses_of(folder, "autoencoder"), **losses_of(folder)})
        weights.append(weights_of(folder / "checkpoint.safetensors"))
    assert losses[0].keys() == {2, 20, 24}
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3)


def test_an_update_that_two_processes_cannot_share_is_refused(
    tmp_path, data_folder, small_config, pairs_folder
):
    preset = make_preset(
        small_config, steps=24, data=dataclasses.replace(DATA, clips_per_batch=3)
    )
    done = train_by(2, preset, tmp_path, data_folder)
    assert done.returncode != 0
    assert "cannot be split evenly over 2 processes" in done.stderr


def test_muon_takes_the_matrices_inside_the_unet(untrained_model):
    names = {
        name
        for name, parameter in untrained_model.named_parameters()
        if is_hidden_matrix(name, parameter)
    }
    assert "unet.down_blocks.0.resnets.0.conv1.weight" in names
    assert any(name.endswith("to_qkv.weight") for name in names)
    assert not names & {"unet.conv_in.weight", "unet.conv_out.weight"}
    assert all(name.startswith("unet.") and name.endswith("weight") for name in names)
    assert not any("time_emb" in name or "norm" in name for name in names)
