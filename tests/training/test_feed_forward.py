"""Presets of feed-forward networks from start to end."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from video_deblur.models.checkpoint import load_model, read_info
from video_deblur.models.config_fields import ConfigError
from video_deblur.models.dblrgan import DiscriminatorConfig
from video_deblur.models.dblrnet import DblrNetConfig
from video_deblur.training.config import Preset
from video_deblur.training.data_config import DataConfig
from video_deblur.training.feed_forward import is_inner_matrix
from video_deblur.training.feed_forward_config import AdversarialStage, ContentStage
from video_deblur.training.presets import PRESETS, load_preset
from video_deblur.training.recipe import train_preset

SMALL = DblrNetConfig(
    channels=4, num_units=1, head_channels=8, input_skip=True, batch_norm=False
)
DATA = DataConfig(num_frames=5, crop=32, clips_per_batch=2, compressed_share=0.0)
CONTENT = ContentStage(steps=4, data=DATA, warmup_steps=1)
ADVERSARIAL = AdversarialStage(
    steps=4,
    data=DATA,
    warmup_steps=1,
    r1_weight=1.0,
    r1_every=2,
    discriminator=DiscriminatorConfig(channels=(4, 8), num_convs=(1, 2), hidden=(6,)),
)
GAN = Preset(generator=SMALL, content=CONTENT, adversarial=ADVERSARIAL, precision="no")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "photos" / f"{seed}.png"), pixels)
    return f"synthetic:{tmp_path / 'data'}"


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("blur", "sharp"):
        (tmp_path / "pairs" / "one" / kind).mkdir(parents=True)
        for index in range(5):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "pairs" / "one" / kind / f"{index}.png"), pixels)
    return f"pairs:{tmp_path / 'pairs'}"


def train(preset, data, folder, **options):
    return train_preset(
        preset, [data], folder, **{"device": "cpu", "num_workers": 0, **options}
    )


def lines_of(folder, stage):
    return [json.loads(x) for x in (folder / f"{stage}.jsonl").read_text().splitlines()]


def test_both_stages_run_and_export_a_checkpoint_that_loads(tmp_path, data, pairs):
    exported = tmp_path / "exported.safetensors"
    options = {"validation": pairs, "validate_every": 2, "log_every": 2, "export": exported}
    path = train(GAN, data, tmp_path / "run", **options)
    info = read_info(path)
    assert info.architecture.title == "DBLRNet"
    assert info.config == SMALL
    assert info.dtype == torch.float16
    assert info.provenance["data"] == ["synthetic:data"]
    assert info.provenance["adversarial"]["steps"] == 4
    assert exported.read_bytes() == path.read_bytes()
    assert load_model(tmp_path / "run" / "best.safetensors").config == SMALL
    content, adversarial = (lines_of(tmp_path / "run", n) for n in ("content", "adversarial"))
    assert [line["step"] for line in content] == [2, 4]
    assert np.isfinite([line["validation_psnr"] for line in (*content, *adversarial)]).all()
    names = {
        "discriminator_loss",
        "adversarial_loss",
        "accuracy_pairs",
        "opponent_gradient_norm",
    }
    assert names <= set(adversarial[0])
    assert not names & set(content[0])
    assert (tmp_path / "run" / "pictures" / "adversarial_000004.png").exists()


def test_a_stage_against_a_discriminator_calls_no_weights_the_best(tmp_path, data, pairs):
    # What the discriminator asks for costs PSNR.
    options = {"validation": pairs, "validate_every": 2, "log_every": 2}
    first = train(GAN.only(["content"]), data, tmp_path / "content", **options)
    assert (tmp_path / "content" / "best.safetensors").exists()
    train(GAN.only(["adversarial"]), data, tmp_path / "run", init=first, **options)
    assert "validation_psnr" in lines_of(tmp_path / "run", "adversarial")[0]
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, data):
    whole = train(GAN, data, tmp_path / "whole")
    script = (
        "import sys, time\n"
        "from video_deblur.training import loop\n"
        "from video_deblur.training.recipe import train_preset\n"
        "from video_deblur.training.presets import load_preset\n"
        "def slow(stage, step, steps, values):\n"
        "    if (stage, step) == ('adversarial', 3):\n"
        "        print('there', flush=True); time.sleep(600)\n"
        "train_preset(load_preset(sys.argv[1]), [sys.argv[2]], sys.argv[3], device='cpu',\n"
        "             num_workers=0, save_every_s=0, progress=slow)\n"
    )
    preset = tmp_path / "preset.json"
    values = json.loads((tmp_path / "whole" / "config.json").read_text())
    preset.write_text(json.dumps({**values, "preset": "dblrgan"}))
    command = [sys.executable, "-c", script, str(preset), data, str(tmp_path / "parts")]
    # As many threads as this process: sums of others differ in their last bits.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, **threads}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        # The state of an update is written in a thread of its own.
        states = tmp_path / "parts" / "states"
        deadline = time.monotonic() + 60
        while not list(states.glob("adversarial_*.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()
    begun = []
    resumed = train(
        load_preset(preset),
        data,
        tmp_path / "parts",
        save_every_s=0,
        progress=lambda stage, step, steps, values: begun.append((stage, step)),
    )
    assert begun[0][0] == "adversarial"
    assert begun[0][1] > 1, "begins where it was"
    ours, theirs = (load_model(path).state_dict() for path in (whole, resumed))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    # Both optimizers and the discriminator, too.
    last = [
        torch.load(tmp_path / run / "states" / "adversarial_0000004.pt", weights_only=True)
        for run in ("whole", "parts")
    ]
    assert len(last[0]["optimizers"]) == 3, "AdamW, Muon, and the discriminator's AdamW"
    assert any(name.startswith("discriminator.") for name in last[0]["weights"])
    assert_equal(last[0]["weights"], last[1]["weights"])
    assert_equal(last[0]["optimizers"], last[1]["optimizers"])


def assert_equal(ours, theirs):
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            assert_equal(value, theirs[name])
    elif isinstance(ours, list | tuple):
        for mine, other in zip(ours, theirs, strict=True):
            assert_equal(mine, other)
    else:
        assert ours == theirs


def test_the_adversarial_stage_alone_starts_from_a_checkpoint(tmp_path, data):
    content = dataclasses.replace(GAN, adversarial=None)
    start = train(content, data, tmp_path / "content")
    alone = GAN.only(["adversarial"])
    assert alone.generator is None
    with pytest.raises(ValueError, match="starts from a checkpoint; name one with --init"):
        train(alone, data, tmp_path / "run")
    path = train(alone, data, tmp_path / "run", init=start)
    assert read_info(path).provenance["init"] == start.name
    assert not (tmp_path / "run" / "content.jsonl").exists()


def test_checkpoints_of_other_networks_are_refused(tmp_path, data, checkpoint):
    with pytest.raises(ValueError, match=r"holds DIVD, .* needs a checkpoint of DBLRNet"):
        train(GAN, data, tmp_path / "run", init=checkpoint)
    with pytest.raises(ValueError, match="has none: leave out --autoencoder"):
        train(GAN, data, tmp_path / "run", autoencoder=checkpoint)


def test_averaged_weights_and_batch_normalisation_exclude_each_other(tmp_path, data):
    normed = dataclasses.replace(SMALL, batch_norm=True)
    preset = dataclasses.replace(GAN, generator=normed, adversarial=None)
    with pytest.raises(ValueError, match="content: batch_norm keeps statistics"):
        train(preset, data, tmp_path / "run")
    stage = dataclasses.replace(CONTENT, ema_decay=0.0)
    path = train(dataclasses.replace(preset, content=stage), data, tmp_path / "run")
    assert read_info(path).dtype == torch.float32


def test_clips_hold_a_window(tmp_path, data):
    short = dataclasses.replace(DATA, num_frames=4)
    stage = dataclasses.replace(CONTENT, straight_data=short)
    with pytest.raises(ValueError, match="content: num_frames must be 5 or more for DBLRNet"):
        train(dataclasses.replace(GAN, content=stage), data, tmp_path / "run")


def test_blur_grows_harder_over_the_presets_run():
    stage = PRESETS["dblrnet"].content
    assert [start for start, _ in stage.phases] == [0, 1650]
    assert [clips.shake.jerk_rate for _, clips in stage.phases] == [0.0, 0.05]
    assert PRESETS["dblrgan"].content == stage
    assert not PRESETS["dblrgan"].generator.batch_norm


def test_phases_without_updates_are_left_out():
    assert ContentStage(steps=3, data=DATA).phases == [(0, DATA)]
    other = dataclasses.replace(DATA, crop=64)
    stage = ContentStage(steps=4, data=DATA, easy_data=other, easy_until=1.0)
    assert stage.phases == [(0, other)]
    stage = ContentStage(steps=3, data=DATA, straight_data=other, straight_until=0.1)
    assert stage.phases == [(0, DATA)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generator": SMALL, "adversarial": ADVERSARIAL}, "generator, a new network, needs"),
        (
            {"content": CONTENT, "joint": PRESETS["tiny-further"].joint},
            "content trains another network than joint",
        ),
    ],
)
def test_stages_of_a_preset_fit_together(values, message):
    with pytest.raises(ConfigError, match=message):
        Preset(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more"),
        ({"steps": 1, "accumulation": 3, "data": DATA}, "must be a multiple of accumulation"),
        ({"steps": 1, "pixel_floor": (0.0, 1.0)}, "pixel_floor must be above 0"),
        (
            {"steps": 1, "straight_data": DATA, "easy_data": DATA, "easy_until": 0.1},
            "straight_until must be between 0 and 0.1",
        ),
    ],
)
def test_a_content_stage_is_checked_when_made(values, message):
    with pytest.raises(ConfigError, match=message):
        ContentStage(**values)


def test_r1_needs_a_discriminator_without_batch_normalisation():
    with pytest.raises(ConfigError, match="R1 is of single frames, which batch_norm mixes"):
        AdversarialStage(
            steps=1, r1_weight=1.0, discriminator=DiscriminatorConfig(batch_norm=True)
        )


def test_muon_updates_the_convolutions_between_the_first_and_the_last():
    from video_deblur.models.dblrnet import DblrNet

    names = [
        f"model.{n}"
        for n, p in DblrNet(SMALL).named_parameters()
        if is_inner_matrix(f"model.{n}", p)
    ]
    assert names == [
        "model.conv2.weight",
        "model.units.0.conv1.weight",
        "model.units.0.conv2.weight",
        "model.head1.weight",
        "model.head2.weight",
    ]


def test_lpips_is_a_loss_where_its_weights_are_given(tmp_path, data):
    models = pytest.importorskip("torchvision").models
    from video_deblur.evaluation.lpips import Lpips

    weights = models.squeezenet1_1(weights=None).state_dict()
    lpips = Lpips("squeeze", weights)
    stage = dataclasses.replace(CONTENT, steps=2, lpips_weight=0.5)
    preset = dataclasses.replace(GAN, content=stage, adversarial=None)
    with pytest.raises(ValueError, match="content: lpips_weight needs the weights of an LPIPS"):
        train(preset, data, tmp_path / "run")
    plain = dataclasses.replace(GAN, adversarial=None)
    with pytest.raises(ValueError, match="no stage gives LPIPS a weight: set lpips_weight"):
        train(plain, data, tmp_path / "run", lpips=lpips)
    path = train(preset, data, tmp_path / "run", lpips=lpips, save_every_s=0)
    assert not any("features" in name for name in load_model(path).state_dict())
    (state, *_) = (tmp_path / "run" / "states").glob("content_*.pt")
    stored = torch.load(state, weights_only=True)
    assert not any(name.startswith("lpips.") for name in stored["weights"])
    other = Lpips("squeeze", {name: value + 0.01 for name, value in weights.items()})
    with pytest.raises(ValueError, match="was begun with lpips ="):
        train(preset, data, tmp_path / "run", lpips=other)
