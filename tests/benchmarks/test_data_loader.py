"""The loader's rate and what training waits for, on a few small photos."""

from __future__ import annotations

import json
import time

import cv2
import numpy as np
import pytest
from video_deblur.benchmarks.data_loader import last_stage, loader_rate, main
from video_deblur.models.checkpoint import save_checkpoint
from video_deblur.training.data.loader import TrainingData
from video_deblur.training.presets import load_preset


@pytest.fixture
def specs(tmp_path):
    folder = tmp_path / "data" / "photos"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "photo.png"), pixels)
    return [f"synthetic:{tmp_path / 'data'}"]


@pytest.fixture
def preset(tmp_path):
    path = tmp_path / "preset.json"
    data = {"num_frames": 3, "crop": 32, "clips_per_batch": 2, "compressed_share": 0.0}
    stage = {"data": data, "easy_data": None}
    path.write_text(json.dumps({"preset": "tiny-further", "precision": "no", "joint": stage}))
    return path


def test_the_rate_counts_clips_and_the_time_that_drawing_takes(specs, preset, monkeypatch):
    _, stage = last_stage(load_preset(preset))
    data = TrainingData(specs, num_frames=3, crop=32)
    draw, drawn = TrainingData.draw, []

    def slowly(*args):
        drawn.append(args)
        time.sleep(0.02)
        return draw(*args)

    monkeypatch.setattr(TrainingData, "draw", slowly)
    assert 0 < loader_rate(stage, data, workers=0, updates=5) < 50
    # Four updates of two clips are not counted.
    assert len(drawn) == (4 + 5) * 2


def test_the_table_has_a_line_per_number_of_workers(
    specs, preset, tmp_path, untrained_model, capsys, monkeypatch
):
    checkpoint = tmp_path / "checkpoint.safetensors"
    save_checkpoint(
        checkpoint, untrained_model.state_dict(), untrained_model.config, provenance={}
    )
    arguments = [str(preset), "--data", *specs, "--updates", "4", "--device", "cpu"]
    arguments += ["--workers", "0", "1"]
    monkeypatch.setattr("sys.argv", ["data_loader", *arguments, "--init", str(checkpoint)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clips of 3 frames of 32x32, 2 per update"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:]]
    assert [row[0] for row in rows] == ["0", "1"]
    for _, drawn, trained, waited in rows:
        assert float(drawn) > 0 < float(trained)
        assert 0 <= float(waited.removesuffix(" %")) < 100


def test_stage_0_has_no_clips_to_measure():
    with pytest.raises(ValueError, match="ends with stage autoencoder"):
        last_stage(load_preset("tiny").only(["autoencoder"]))
