"""Training of CPGD-Net's second stage, behind its first one."""

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
from video_deblur.benchmarks.training_cost import FULL
from video_deblur.models.checkpoint import load_model, read_info, save_checkpoint
from video_deblur.models.config_fields import ConfigError
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_control import query_prior
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.color import match_color
from video_deblur.restoration.refinement import refine
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.training.config import ContentStage, CpcStage, DataConfig, Preset
from video_deblur.training.cpgd import is_matrix_of_second_stage
from video_deblur.training.cpgd_stages import CpcTraining, priors_of_clips
from video_deblur.training.presets import CPGD_TINY, PRESETS, load_preset
from video_deblur.training.recipe import train_preset
from video_deblur.training.stages import draw
from video_deblur.training.start import second_stage_config, with_second_stage

from ..conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG

DATA = DataConfig(num_frames=3, crop=32, clips_per_batch=2, compressed_share=0.5)
FIRST = ContentStage(steps=4, data=DATA, warmup_steps=1)
TRAINED = ("cpc.control.", "cpc.divd.unet.")


@pytest.fixture
def data_folder(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "photos" / f"{seed}.png"), pixels)
    return tmp_path / "data"


@pytest.fixture
def second(checkpoint):
    """Stage `cpc`, around the small diffusion model."""

    def make(**changes):
        values = {
            "steps": 4,
            "data": DATA,
            "warmup_steps": 1,
            "mixed_from": 0.5,
            "diffusion": checkpoint,
            "control_channels": (8, 16),
            "trains": TRAINED,
        }
        return CpcStage(**{**values, **changes})

    return make


@pytest.fixture
def both(second):
    return Preset(cpgd_model=SMALL_CPGD_CONFIG, cpfp=FIRST, cpc=second(), precision="no")


def train(preset, data_folder, folder, **options):
    options = {"device": "cpu", "num_workers": 0, **options}
    return train_preset(preset, [f"synthetic:{data_folder}"], folder, **options)


def weights_of(path):
    return load_model(path).state_dict()


def assert_same_weights(first, second):
    ours, theirs = weights_of(first), weights_of(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_both_stages_run_and_what_they_export_restores_a_clip(
    tmp_path, data_folder, both, make_frames
):
    path = train(both, data_folder, tmp_path / "run")
    info = read_info(path)
    assert info.config.cpc.divd == SMALL_CONFIG
    assert info.config.cpc.control_channels == (8, 16)
    assert info.config.cpfp == SMALL_CPGD_CONFIG.cpfp
    assert info.provenance["cpc"]["diffusion"] == "small.safetensors"
    model = load_model(path)
    frames = make_frames(10, 36, 44)
    settings = RestorationSettings(borrow=False, window=8, overlap=2, seed=2)
    whole = ClipRestorer(model).restore(frames, settings)
    alone = Cpgd(dataclasses.replace(model.config, cpc=None)).eval().requires_grad_(False)
    alone.cpfp.load_state_dict(model.cpfp.state_dict())
    first = ClipRestorer(alone).restore(frames, settings)
    assert (whole - first).abs().max() > 1e-3, "the second stage does something"
    # What is low in frequency is the first stage's.
    low = match_color(whole * 2 - 1, first * 2 - 1) / 2 + 0.5
    assert (whole - low).abs().mean() < 0.1 * (whole - first).abs().mean()


def test_what_is_not_trained_stays_as_it_was(tmp_path, data_folder, both, checkpoint):
    alone = train(dataclasses.replace(both, cpc=None), data_folder, tmp_path / "alone")
    path = train(both, data_folder, tmp_path / "run")
    ours, divd, first = weights_of(path), weights_of(checkpoint), weights_of(alone)
    for name, value in ours.items():
        if name.startswith("cpfp."):
            assert torch.equal(value, first[name]), name
        elif name.startswith("cpc.divd."):
            before = divd[name.removeprefix("cpc.divd.")].half().float()
            trained = name.startswith(TRAINED)
            assert trained or torch.equal(value, before), name
    changed = "cpc.divd.unet.down_blocks.0.resnets.0.conv1.weight"
    assert not torch.equal(ours[changed], divd[changed.removeprefix("cpc.divd.")])
    for name in ("leave.0.weight", "conv_in.weight"):
        assert ours[f"cpc.control.{name}"].any()


def test_a_second_stage_goes_on_alone_and_so_does_a_first_one(tmp_path, data_folder, both):
    path = train(both, data_folder, tmp_path / "run")
    for name, prefix in (("cpc", TRAINED), ("cpfp", ("cpfp.",))):
        further = train(both.only([name]), data_folder, tmp_path / name, init=path)
        before, after = weights_of(path), weights_of(further)
        assert read_info(further).config == read_info(path).config
        changed = {n for n, value in before.items() if not torch.equal(value, after[n])}
        assert changed
        assert all(n.startswith(prefix) for n in changed), name


def test_a_run_of_the_first_stage_takes_the_second_one_up(tmp_path, data_folder, both):
    whole = train(both, data_folder, tmp_path / "whole")
    train(dataclasses.replace(both, cpc=None), data_folder, tmp_path / "parts")
    assert_same_weights(whole, train(both, data_folder, tmp_path / "parts"))


def test_killed_at_random_moments_and_resumed_equals_never_stopped(
    tmp_path, data_folder, both, second
):
    preset = dataclasses.replace(
        both, cpfp=dataclasses.replace(FIRST, steps=6), cpc=second(steps=8)
    )
    before = time.monotonic()
    whole = train(preset, data_folder, tmp_path / "whole")
    duration_s = time.monotonic() - before
    folder, rng, reached = tmp_path / "killed", random.Random(2), []
    for _ in range(4):
        process = multiprocessing.get_context("fork").Process(
            target=train,
            args=(preset, data_folder, folder),
            kwargs={"save_every_s": 0.0},
        )
        process.start()
        process.join(timeout=rng.uniform(0.2, 0.6) * duration_s)
        process.kill()
        process.join()
        names = [path.stem.split("_") for path in folder.rglob("*.pt") if path.stem[0] != "."]
        reached.append(
            max((6 * (name == "cpc") + int(step) for name, step in names), default=0)
        )
    assert reached == sorted(reached)
    assert any(0 < step < 14 for step in reached)
    assert_same_weights(whole, train(preset, data_folder, folder))


@pytest.fixture
def network(small_model, second):
    """The whole network as stage `cpc` begins with it, with a first stage that restores."""
    first = Cpgd(SMALL_CPGD_CONFIG)
    torch.nn.init.normal_(first.cpfp.decoder.leave.weight, std=0.01)
    return with_second_stage(first, small_model, second(), seed=0)


def batch(network, stage, frames):
    """Clips blurred along their rows, and what is drawn for them, always the same."""
    sharp = frames.movedim(-1, 0)[None] * 2 - 1
    blurry = sum(sharp.roll(i, -1) for i in range(-2, 3)) / 5
    generators = [torch.Generator().manual_seed(7)]
    draws = draw(stage, network.config.cpc.divd, tuple(blurry.shape[2:]), 0.0, generators)
    return blurry, sharp, priors_of_clips(blurry, network.config), draws


def test_one_clip_is_learned(network, second, make_frames):
    # The small model's decoder is random: with what it can show now little could be gained.
    parts = (*TRAINED, "cpc.divd.autoencoder.decoder.")
    stage = second(pixel_floor=(1e-4, 1e-4), latent_floor=(0.02, 0.02), trains=parts)
    module = CpcTraining(network, stage)
    clip = batch(network, stage, make_frames(4, 32, 32))
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    gains = []
    for _ in range(60):
        values = module(*clip)
        gains.append([float(values[name].detach()) for name in ("loss", "gain_db")])
        optimizer.zero_grad()
        values["loss"].mean().backward()
        optimizer.step()
    assert gains[-1][0] < gains[0][0] - 1
    # Beyond what the first stage, which does not move, made of it.
    assert gains[-1][1] > gains[0][1] + 1.5
    assert gains[-1][1] > 1


def test_the_branch_alone_learns_and_the_first_stage_gets_no_gradient(
    network, second, make_frames
):
    stage = second(trains=("cpc.control.",))
    module = CpcTraining(network, stage)
    module(*batch(network, stage, make_frames(4, 32, 32)))["loss"].mean().backward()
    got = {n for n, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    assert got
    assert all(name.startswith("model.cpc.control.leave.") for name in got), "others are zero"
    assert not any(p.requires_grad for n, p in module.named_parameters() if "cpfp" in n)


def test_the_loss_reads_the_first_stages_result_and_the_priors(network, second, make_frames):
    stage = second()
    module = CpcTraining(network, stage)
    torch.nn.init.normal_(network.cpc.control.leave[-1].weight, std=0.5)
    for layer in network.cpc.control.modules():
        if hasattr(layer, "prior") and layer.prior is not None:
            torch.nn.init.normal_(layer.prior.proj.weight, std=1.0)
    blurry, sharp, priors, draws = batch(network, stage, make_frames(4, 32, 32))
    with torch.no_grad():
        whole = module(blurry, sharp, priors, draws)
        other = module(blurry, sharp, priors._replace(attention=1 - priors.attention), draws)
        assert whole["first_gain_db"] != 0
        torch.nn.init.zeros_(network.cpfp.decoder.leave.weight)
        torch.nn.init.zeros_(network.cpfp.decoder.leave.bias)
        as_it_came = module(blurry, sharp, priors, draws)
    assert whole["loss"] != other["loss"]
    assert as_it_came["first_gain_db"] == 0
    assert as_it_came["v_copy"] != whole["v_copy"]


def test_validation_restores_as_the_engine_does(network, make_frames, second):
    frames = make_frames(5, 32, 48)
    clip = frames.movedim(-1, 0) * 2 - 1
    module = CpcTraining(network, second())
    ours = module.restored_clip(clip, index=3)
    cpc, priors = network.cpc, priors_of_clips(clip[None], network.config)
    first = network(clip[None], priors).detach()
    noise = torch.randn(1, 4, 5, 8, 12, generator=torch.Generator().manual_seed(3))
    prior = query_prior(priors)
    settings = RestorationSettings(steps=1)
    arguments = (cpc, clip[None], first, prior, noise, settings, torch.float32)
    expected = refine(*arguments, before=lambda: None)[0].clamp(-1, 1)
    assert torch.equal(ours, expected)
    assert (ours - first[0]).abs().max() > 1e-3


def test_the_licence_is_that_of_all_that_weights_come_from(
    tmp_path, data_folder, both, small_model
):
    restricted = tmp_path / "restricted.safetensors"
    save_checkpoint(
        restricted,
        small_model.state_dict(),
        SMALL_CONFIG,
        provenance={},
        licence="CC-BY-NC-4.0",
    )
    path = train(both, data_folder, tmp_path / "run", diffusion=restricted)
    assert read_info(path).licence == "CC-BY-NC-4.0"
    assert read_info(path).provenance["cpc"]["diffusion"] == "restricted.safetensors"
    with pytest.raises(ValueError, match="was begun with diffusion = "):
        train(both, data_folder, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"diffusion": None}, {}, "cpc begins from a diffusion model; name its checkpoint"),
        ({}, {"diffusion": "gone.safetensors"}, "gone.safetensors: no such checkpoint"),
        ({"control_channels": (8,)}, {}, "control_channels needs one entry per level"),
        ({"control_channels": (8, 12)}, {}, "must divide by head_dim"),
        ({"trains": ("cpc.contro1.",)}, {}, "trains: 'cpc.contro1.' is no part of this model"),
        (
            {"data": dataclasses.replace(DATA, crop=30)},
            {},
            "cpc: crop must be a multiple of 4 for this autoencoder, got 30",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    tmp_path, data_folder, both, second, changes, options, message
):
    preset = dataclasses.replace(both, cpc=second(**changes))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(preset, data_folder, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_diffusion_model_that_nothing_begins_from_is_refused(
    tmp_path, data_folder, both, checkpoint, dblrnet_checkpoint
):
    first = dataclasses.replace(both, cpc=None)
    with pytest.raises(ValueError, match="--diffusion is for the stage cpc, which does not"):
        train(first, data_folder, tmp_path / "run", diffusion=checkpoint)
    with pytest.raises(ValueError, match=r"holds DBLRNet, .* needs a checkpoint of DIVD"):
        train(both, data_folder, tmp_path / "run", diffusion=dblrnet_checkpoint)
    with pytest.raises(ValueError, match="starts from a checkpoint; name one with --init"):
        train(both.only(["cpc"]), data_folder, tmp_path / "run")
    path = train(both, data_folder, tmp_path / "whole")
    with pytest.raises(ValueError, match="--init brings its own second stage: leave out"):
        train(both, data_folder, tmp_path / "run", init=path, diffusion=checkpoint)
    with pytest.raises(ConfigError, match="takes the first stage as it is; leave out cpfp"):
        CpcStage(steps=1, trains=("cpfp.decoder.",))


def test_the_tiny_network_begins_as_the_bundled_one_and_fits_its_size(tmp_path):
    stage, divd = PRESETS["cpgd-tiny"].cpc, load_model("divd-tiny")
    network = with_second_stage(Cpgd(CPGD_TINY), divd, stage, seed=0)
    path = tmp_path / "cpgd-tiny.safetensors"
    save_checkpoint(path, network.state_dict(), network.config, provenance={})
    assert 15e6 < path.stat().st_size < 16e6
    ours, theirs = network.cpc.divd.unet.state_dict(), divd.unet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    frames = torch.rand(1, 3, 3, 16, 16) * 2 - 1
    assert not network.cpc.tokens(frames).any()
    for name in stage.trains:
        assert any(n.startswith(name) for n in network.state_dict())


def test_the_full_size_has_the_branch_of_its_unet():
    paper = PRESETS["cpgd-paper"]
    network = Cpgd(second_stage_config(paper.cpgd_model, FULL, paper.cpc), device="meta")
    control, unet = network.cpc.control, network.cpc.divd.unet
    assert control.skip_widths == unet.skip_widths == [320] * 4 + [640] * 3 + [1280] * 5
    shared = unet.state_dict().keys() & control.state_dict().keys()
    assert {
        n for n in unet.state_dict() if n.startswith(("down_blocks", "mid_block"))
    } <= shared
    assert all(n.startswith("cpc.control.") for n in network.state_dict() if ".prior." in n)
    assert paper.cpc.diffusion is None


def test_muon_takes_the_matrices_inside_unet_and_branch(network):
    names = {n for n, p in network.named_parameters() if is_matrix_of_second_stage(n, p)}
    assert "cpc.control.down_blocks.0.resnets.0.conv1.weight" in names
    assert "cpc.divd.unet.up_blocks.0.resnets.0.conv1.weight" in names
    outside = (
        "conv_in.",
        "conv_out.",
        "time_emb",
        "leave.",
        ".prior.",
        "cpfp.",
        "autoencoder.",
    )
    assert not any(part in name for name in names for part in outside)


def test_a_file_changes_the_second_stage(tmp_path):
    path = tmp_path / "frozen.json"
    path.write_text(json.dumps({"preset": "cpgd-tiny", "cpc": {"trains": ["cpc.control."]}}))
    tiny = PRESETS["cpgd-tiny"]
    changed = dataclasses.replace(tiny.cpc, trains=("cpc.control.",))
    assert load_preset(path) == dataclasses.replace(tiny, cpc=changed)
