from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from video_deblur.models.checkpoint import load_model, save_checkpoint
from video_deblur.models.divd import Divd
from video_deblur.training.config import DataConfig
from video_deblur.training.fsdp import choose_units
from video_deblur.training.presets import PRESETS, load_preset
from video_deblur.training.recipe import train_preset

SCRIPT = Path(__file__).with_name("split_over_two.py")
STAGES = {"stage1": 1, "stage2": 3}


def write_images(folder, count, size, seed):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index:03d}.png"), pixels)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of a run by one process, `one`, and of what `split_over_two.py` writes."""
    from ..conftest import SMALL_CONFIG

    folder = tmp_path_factory.mktemp("fsdp")
    write_images(folder / "data" / "photos", 2, (64, 72), 0)
    for seed, kind in enumerate(("blur", "sharp")):
        write_images(folder / "pairs" / "first" / kind, 3, (40, 48), seed)
    torch.manual_seed(0)
    model = Divd(SMALL_CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    init = folder / "init.safetensors"
    save_checkpoint(init, model.state_dict(), model.config, provenance={})
    changes = {
        "data": dataclasses.asdict(
            DataConfig(num_frames=2, crop=32, clips_per_batch=4, compressed_share=0.0)
        ),
        "accumulation": 2,
        "warmup_steps": 1,
        "learning_rate": 1e-3,
    }
    stages = {name: {**changes, "steps": steps} for name, steps in STAGES.items()}
    config = folder / "config.json"
    config.write_text(json.dumps({"preset": "paper", "precision": "no", **stages}))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", str(SCRIPT), str(config), str(folder / "data")]
    launch += [str(folder / "pairs"), str(init), str(folder)]
    # As accelerate's launcher sets them.
    environment = {
        "OMP_NUM_THREADS": "1",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    }
    done = subprocess.run(
        launch, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    train_preset(
        load_preset(config),
        [f"synthetic:{folder / 'data'}"],
        folder / "one",
        device="cpu",
        init=init,
        validation=f"pairs:{folder / 'pairs'}",
        validate_every=2,
        log_every=1,
        num_workers=0,
    )
    return folder


def values_of(folder, stage, name):
    lines = (folder / f"{stage}.jsonl").read_text().splitlines()
    return {line["step"]: line[name] for line in map(json.loads, lines) if name in line}


@pytest.mark.parametrize("stage", STAGES)
def test_split_weights_train_as_one_process_does(runs, stage):
    for name in ("loss", "gradient_norm", "validation_gain_db"):
        split, one = (values_of(runs / run, stage, name) for run in ("whole", "one"))
        assert max(split) == STAGES[stage]
        assert split == pytest.approx(one, rel=1e-4), name


def test_the_checkpoint_is_the_one_of_one_process(runs):
    start = load_model(runs / "init.safetensors").state_dict()
    split, one = (
        load_model(runs / run / "checkpoint.safetensors").state_dict()
        for run in ("whole", "one")
    )
    for name, value in one.items():
        torch.testing.assert_close(split[name], value, rtol=1e-2, atol=1e-3)
        moved = not torch.equal(split[name], start[name])
        assert moved <= name.startswith(PRESETS["paper"].stage2.trains), name
    for prefix in PRESETS["paper"].stage2.trains:
        names = [name for name in one if name.startswith(prefix)]
        assert any(not torch.equal(split[name], start[name]) for name in names), prefix
    assert load_model(runs / "whole" / "best.safetensors").state_dict().keys() == one.keys()


def test_split_weights_resume_as_if_never_stopped(runs):
    path = f"states/stage2_{STAGES['stage2']:07d}.pt"
    whole, resumed = (
        torch.load(runs / run / path, weights_only=True) for run in ("whole", "resumed")
    )
    assert values_of(runs / "resumed", "stage2", "loss").keys() == {2, 3}
    for part in ("weights", "average"):
        assert whole[part].keys() == resumed[part].keys() != set()
        for name, value in whole[part].items():
            assert torch.equal(resumed[part][name], value), name
    moments = [state["optimizers"][0]["state"] for state in (whole, resumed)]
    assert moments[0].keys() == whole["weights"].keys()
    for name, values in moments[0].items():
        for kind, value in values.items():
            assert torch.equal(moments[1][name][kind], value), (name, kind)


def test_each_process_holds_half(runs):
    held = [json.loads((runs / f"held_{rank}.json").read_text()) for rank in (0, 1)]
    for stage in STAGES:
        for kind in ("weights", "average"):
            (first, total), (second, _) = (process[stage][kind] for process in held)
            assert first + second == total
            assert abs(first - second) < 0.01 * total
        units = {"DiffusionTraining", "ResnetBlock", "Transformer", "WindowAttention"}
        assert units < set(held[0][stage]["units"])


def test_averaged_weights_are_not_trained_on_after_a_validation(runs):
    assert all(
        json.loads((runs / f"held_{rank}.json").read_text())["survived"] for rank in (0, 1)
    )


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ({"fsdp_version": 1}, "add --fsdp_version 2"),
        ({"fsdp_version": 2, "activation_checkpointing": True}, '"gradient_checkpointing" in'),
    ],
)
def test_what_fsdp_cannot_do_is_refused(plugin, message):
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(**plugin))
    with pytest.raises(ValueError, match=message):
        choose_units(SimpleNamespace(state=state), nn.Linear(1, 1))
