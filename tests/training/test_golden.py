"""The first losses of the tiny preset: they change only when the recipe is meant to."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import cv2
import pytest
from video_deblur.training.presets import PRESETS
from video_deblur.training.recipe import train_preset
from video_deblur.video.reader import VideoReader

GOLDEN = Path(__file__).parent / "golden_losses.json"
DEMO = Path(__file__).parents[2] / "evaluation" / "demo_clips" / "street" / "sharp.mp4"


@pytest.fixture
def photos_folder(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    with VideoReader(DEMO) as reader:
        for index, frame in enumerate(reader):
            if index % 6 == 0:
                path = tmp_path / "data" / "photos" / f"{index:02d}.png"
                cv2.imwrite(str(path), cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR))
    return tmp_path / "data"


def test_the_first_losses_of_the_tiny_preset(tmp_path, photos_folder):
    tiny = PRESETS["tiny"]
    assert tiny.autoencoder is not None
    assert tiny.joint is not None
    # A quarter of the clips of an update: what is tested is the recipe.
    easy, data = (
        dataclasses.replace(c, clips_per_batch=1)
        for c in (tiny.joint.easy_data, tiny.joint.data)
    )
    preset = dataclasses.replace(
        tiny,
        autoencoder=dataclasses.replace(tiny.autoencoder, steps=20),
        joint=dataclasses.replace(tiny.joint, steps=20, easy_data=easy, data=data),
        precision="no",
    )
    specs = [f"synthetic:{photos_folder}"]
    options = {"device": "cpu", "num_workers": 0, "log_every": 1}
    train_preset(preset, specs, tmp_path / "run", **options)
    losses = {}
    for stage in ("autoencoder", "joint"):
        lines = (tmp_path / "run" / f"{stage}.jsonl").read_text().splitlines()
        losses[stage] = [json.loads(line)["loss"] for line in lines]
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert losses["autoencoder"] == pytest.approx(golden["autoencoder"], rel=1e-3)
    assert losses["joint"] == pytest.approx(golden["joint"], rel=1e-3)
