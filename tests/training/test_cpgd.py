"""Training of CPGD-Net, from data to checkpoint."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import random
import time

import cv2
import numpy as np
import pytest
import torch
from video_deblur.models.checkpoint import load_model, read_info
from video_deblur.models.config_fields import ConfigError
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_config import CpfpConfig
from video_deblur.restoration.clip_priors import priors_of_frames
from video_deblur.training import cpgd_stages
from video_deblur.training.config import ContentStage, DataConfig, DiffusionStage, Preset
from video_deblur.training.cpgd import is_inner_matrix
from video_deblur.training.cpgd_stages import CpfpTraining, priors_of_clips
from video_deblur.training.presets import CPGD_TINY, PRESETS, load_preset
from video_deblur.training.recipe import train_preset
from video_deblur.training.report.page import write_report

from ..conftest import SMALL_CPGD_CONFIG

DATA = DataConfig(num_frames=3, crop=32, clips_per_batch=2, compressed_share=0.5)


@pytest.fixture
def data_folder(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "photos" / f"{seed}.png"), pixels)
    return tmp_path / "data"


@pytest.fixture
def pairs_folder(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("blur", "sharp"):
        (tmp_path / "pairs" / "first" / kind).mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "pairs" / "first" / kind / f"{index:03d}.png"), pixels)
    return tmp_path / "pairs"


def make_preset(**changes):
    stage = ContentStage(steps=3, data=DATA, warmup_steps=1)
    return Preset(
        cpgd_model=SMALL_CPGD_CONFIG,
        cpfp=dataclasses.replace(stage, **changes),
        precision="no",
    )


def train(preset, data_folder, folder, **options):
    options = {"device": "cpu", "num_workers": 0, **options}
    return train_preset(preset, [f"synthetic:{data_folder}"], folder, **options)


def weights_of(path):
    return load_model(path).state_dict()


def assert_same_weights(first, second):
    ours, theirs = weights_of(first), weights_of(second)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_short_run_exports_a_checkpoint_that_loads(tmp_path, data_folder):
    exported = tmp_path / "exported.safetensors"
    path = train(make_preset(), data_folder, tmp_path / "run", export=exported)
    info = read_info(path)
    assert info.config == SMALL_CPGD_CONFIG
    assert info.provenance["data"] == ["synthetic:data"]
    assert info.provenance["cpfp"]["steps"] == 3
    assert "cpgd_model" not in info.provenance
    assert weights_of(path)["cpfp.decoder.leave.weight"].any()
    assert_same_weights(path, exported)
    warm = train(make_preset(), data_folder, tmp_path / "warm", init=path)
    assert read_info(warm).provenance["init"] == path.name


def test_validation_the_page_and_the_best_weights(tmp_path, data_folder, pairs_folder):
    folder = tmp_path / "run"
    train(
        make_preset(),
        data_folder,
        folder,
        validation=f"pairs:{pairs_folder}",
        validate_every=2,
    )
    lines = [json.loads(line) for line in (folder / "cpfp.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3]
    assert all(np.isfinite(line["validation_gain_db"]) for line in lines)
    assert read_info(folder / "best.safetensors").config == SMALL_CPGD_CONFIG
    assert "cpfp" in write_report(folder).read_text()


def test_killed_at_random_moments_and_resumed_equals_never_stopped(tmp_path, data_folder):
    preset = make_preset(steps=16)
    before = time.monotonic()
    whole = train(preset, data_folder, tmp_path / "whole")
    duration_s = time.monotonic() - before
    folder, rng, reached = tmp_path / "killed", random.Random(4), [0]
    for _ in range(4):
        process = multiprocessing.get_context("fork").Process(
            target=train,
            args=(preset, data_folder, folder),
            kwargs={"save_every_s": 0.0},
        )
        process.start()
        process.join(timeout=rng.uniform(0.1, 0.5) * duration_s)
        process.kill()
        process.join()
        reached.append(max((int(p.stem[-7:]) for p in folder.rglob("*.pt")), default=0))
    assert reached == sorted(reached)
    assert any(0 < step < 16 for step in reached)
    assert_same_weights(whole, train(preset, data_folder, folder))


def test_parts_of_an_update_give_what_it_gives_at_once(tmp_path, data_folder):
    whole = train(make_preset(), data_folder, tmp_path / "whole")
    parts = train(make_preset(accumulation=2), data_folder, tmp_path / "parts")
    theirs = weights_of(parts)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-2, atol=1e-3)


def test_priors_are_those_of_the_clips_as_they_were_degraded():
    clips = (torch.rand(2, 3, 3, 32, 32) * 255).round() / 127.5 - 1
    together = priors_of_clips(clips, SMALL_CPGD_CONFIG)
    for index, clip in enumerate(clips):
        pictures = ((clip + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
        for ours, alone in zip(together, priors_of_frames(pictures), strict=True):
            assert torch.equal(ours[index : index + 1], alone)


def test_a_network_that_reads_no_priors_is_trained_without(monkeypatch):
    def encode(frames):
        raise AssertionError("encoded")

    monkeypatch.setattr(cpgd_stages, "priors_of_frames", encode)
    first = dataclasses.replace(SMALL_CPGD_CONFIG.cpfp, priors="none")
    config = dataclasses.replace(SMALL_CPGD_CONFIG, cpfp=first)
    clips = torch.rand(2, 3, 3, 30, 32) * 2 - 1
    priors = priors_of_clips(clips, config)
    assert [list(part.shape) for part in priors] == [[2, c, 3, 8, 8] for c in (2, 1, 1)]
    assert all(part.eq(0).all() for part in priors)
    module = CpfpTraining(Cpgd(config), ContentStage(steps=1, data=DATA))
    assert torch.equal(module.restored_clip(clips[0], 0), clips[0])
    with pytest.raises(AssertionError, match="encoded"):
        priors_of_clips(clips, SMALL_CPGD_CONFIG)


def test_edges_count_by_their_weight():
    sharp = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    blurry = 0.5 * sharp
    priors = priors_of_clips(blurry, SMALL_CPGD_CONFIG)
    losses = []
    for weight in (0.0, 1.0, 2.0):
        stage = ContentStage(steps=1, data=DATA, high_frequency_weight=weight)
        losses.append(
            CpfpTraining(Cpgd(SMALL_CPGD_CONFIG), stage)(blurry, sharp, priors)["loss"]
        )
    torch.testing.assert_close(losses[2] - losses[1], losses[1] - losses[0])
    assert (losses[1] > losses[0]).all()


@pytest.mark.parametrize("pixel_loss", ["log", "mse", "charbonnier"])
def test_the_loss_falls_to_its_least_where_all_is_restored(pixel_loss):
    stage = ContentStage(steps=1, data=DATA, pixel_loss=pixel_loss)
    module = CpfpTraining(Cpgd(SMALL_CPGD_CONFIG), stage)
    sharp = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    blurry = sharp.clone()
    blurry[1] *= 0.5
    # A fresh network returns its input: the first clip is restored, the second is not.
    priors = priors_of_clips(blurry, SMALL_CPGD_CONFIG)
    values = module(blurry, sharp, priors)
    assert values["loss"].shape == (2,)
    assert values["loss"][0] < values["loss"][1]
    assert values["gain_db"].tolist() == [0, 0]
    assert torch.equal(
        module(blurry, None, priors_of_clips(blurry, SMALL_CPGD_CONFIG))["restored"], blurry
    )


def test_another_kind_of_checkpoint_is_refused(tmp_path, data_folder, dblrnet_checkpoint):
    with pytest.raises(ValueError, match=r"holds DBLRNet, .* needs a checkpoint of CPGD-Net"):
        train(make_preset(), data_folder, tmp_path / "run", init=dblrnet_checkpoint)
    with pytest.raises(ValueError, match="leave out --autoencoder"):
        train(make_preset(), data_folder, tmp_path / "run", autoencoder=dblrnet_checkpoint)
    assert not (tmp_path / "run").exists()


def test_a_preset_trains_one_network():
    stage = ContentStage(steps=1, data=DATA)
    with pytest.raises(ConfigError, match="trains another network than"):
        Preset(cpfp=stage, joint=DiffusionStage(steps=1))
    with pytest.raises(ConfigError, match="trains another network than content"):
        Preset(cpfp=stage, content=stage)
    with pytest.raises(ConfigError, match="needs the stage cpfp"):
        Preset(cpgd_model=SMALL_CPGD_CONFIG, content=stage)


def test_an_ablation_is_a_file_of_changes(tmp_path):
    path = tmp_path / "motion.json"
    change = {"preset": "cpgd-tiny", "cpgd_model": {"cpfp": {"priors": "motion"}}}
    path.write_text(json.dumps(change))
    preset, base = load_preset(path), PRESETS["cpgd-tiny"]
    assert preset.cpfp == base.cpfp
    changed = dataclasses.replace(CPGD_TINY.cpfp, priors="motion")
    assert preset.cpgd_model == dataclasses.replace(CPGD_TINY, cpfp=changed)


def test_the_tiny_network_is_small():
    network = Cpgd(CPGD_TINY, device="meta")
    assert 0.5e6 < sum(p.numel() for p in network.cpfp.parameters()) < 2e6
    assert PRESETS["cpgd-paper"].cpgd_model.cpfp == CpfpConfig()


def test_muon_takes_the_matrices_between_the_ends():
    network = Cpgd(SMALL_CPGD_CONFIG)
    names = {n for n, p in network.named_parameters() if is_inner_matrix(f"model.{n}", p)}
    assert "cpfp.passes.0.alignment.deform.weight" in names
    assert "cpfp.encoder.enter.1.weight" in names
    assert "cpfp.passes.3.blocks.0.expand.weight" in names
    for outside in ("encoder.enter.0.", "decoder.leave.", "alignment.leave.", "around."):
        assert not any(outside in name for name in names)
    assert all(name.endswith("weight") and "norm" not in name for name in names)
