"""The report on a GPU, at toy size on a CPU: the same parts, the same code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from video_deblur.benchmarks import gpu_report, gpu_training
from video_deblur.benchmarks.gpu_measurements import product_rate
from video_deblur.benchmarks.gpu_training import sized
from video_deblur.models.checkpoint import read_info
from video_deblur.training.presets import PRESETS


@pytest.fixture
def call(tmp_path, make_checkpoint, monkeypatch):
    """Return what runs the command and returns the report."""
    rng = np.random.default_rng(0)
    for folder, size, count in (
        ("data/photos", (40, 40), 1),
        ("pairs/scene/blur", (32, 40), 3),
        ("pairs/scene/sharp", (32, 40), 3),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{index}.png"), pixels)
    data = {"num_frames": 3, "crop": 16, "clips_per_batch": 2, "compressed_share": 0.0}
    preset = tmp_path / "preset.json"
    stage = {"data": data, "easy_data": None}
    preset.write_text(json.dumps({"preset": "tiny-further", "precision": "no", "joint": stage}))
    init = make_checkpoint(dtype=torch.float16)

    def call(*more):
        arguments = ["--data", f"synthetic:{tmp_path / 'data'}", "--out", str(tmp_path / "out")]
        arguments += ["--work", str(tmp_path / "work"), "--preset", str(preset)]
        arguments += ["--init", str(init), "--device", "cpu", "--clips", "2", "--workers", "0"]
        arguments += ["--product-size", "32", "--unet-channels", "64", "64", "64", "64"]
        arguments += ["--unet-frames", "2", "--unet-size", "4", "--run-frames", "3"]
        arguments += ["--precision-size", "32"]
        monkeypatch.setattr("sys.argv", ["gpu_report", *arguments, *map(str, more)])
        gpu_report.main()
        written = (tmp_path / "out" / "report.json").read_text()
        return json.loads(written)

    return call


def test_every_part_is_done_or_named_and_a_run_that_ended_early_goes_on(
    call, tmp_path, monkeypatch
):
    found = gpu_report.find_spec
    monkeypatch.setattr(
        gpu_report, "find_spec", lambda name: None if name == "diffusers" else found(name)
    )
    # A run is at least as long as its pilot: longer than the time that is left for it.
    monkeypatch.setattr(gpu_training, "_PILOT_UPDATES", 400)
    pairs = ["--validation", f"pairs:{tmp_path / 'pairs'}"]
    report = call(*pairs, "--train-minutes", 0.02, "--sizes", "48x32", "0x0")
    training = report["training"]
    assert 0 < training["updates"] < training["of"]
    assert training["images_per_s"] > 0 <= training["data_wait"] < 1
    assert training["tflops"] == pytest.approx(
        training["images_per_s"] * training["tflop_per_image"]
    )
    assert report["unet_beside_diffusers"] == {"left_out": "needs the package diffusers"}
    assert "failed" in report["run_0x0"]
    rates = report["matrix_products"]["tflops"]
    assert rates["float32"] > 0
    compared = report["matrix_products"]["training_compared_with"]
    assert report["matrix_products"]["training_share"] == pytest.approx(
        training["tflops"] / rates[compared]
    )
    for row in report["memory"]["passes"]:
        assert row["peak_of_asked"] == pytest.approx(row["peak_bytes"] / row["asked_bytes"])
        assert row["peak_bytes"] > 0
    assert report["precision"]["against_float32"]["bfloat16"]["network_relative_rms"] > 1e-4
    assert set(report["validation"]["mean_gain_db"]["default"]) == {"before", "after"}
    run = report["run_48x32"]
    assert run["frames_per_s"] == pytest.approx(1 / run["seconds_per_frame"])
    stages = {"reading", "encoding", "denoising", "decoding", "borrowing", "writing"}
    assert stages <= set(run["stages_s_per_frame"])

    weights = tmp_path / "out" / "weights.safetensors"
    assert report["weights"]["files"] == [weights.name]
    assert report["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    assert read_info(weights).provenance["joint"]["steps"] == training["of"]

    before = {name: report[name] for name in ("memory", "run_48x32")}
    report = call(*pairs, "--train-minutes", 0.02, "--sizes", "48x32")
    assert training["updates"] < report["training"]["updates"] < training["of"]
    assert report["weights"]["after_updates"] == report["training"]["updates"]
    assert {name: report[name] for name in before} == before
    assert len(report["calls"]) == 2


def test_nothing_is_begun_when_the_time_is_up_and_what_was_trained_stays(call, tmp_path):
    report = call("--minutes", 0, "--sizes")
    assert {report[name]["left_out"] for name in ("training", "memory", "weights")} == {
        "no time was left"
    }
    trained = {"training": {"updates": 3, "of": 8}}
    (tmp_path / "work" / "report.json").write_text(json.dumps(trained))
    again = call("--minutes", 0, "--sizes")["training"]
    assert again == {**trained["training"], "last_call": {"left_out": "no time was left"}}


def end(args, done):
    os._exit(3)


def sleep(args, done):
    time.sleep(60)


def add_up(args, done):
    return {"sum": args + done["before"]}


def divide(args, done):
    return {"ratio": 1 / 0}


@pytest.mark.parametrize(
    ("function", "limit_s", "expected"),
    [
        (end, 30, {"failed": "its process ended with exit code 3"}),
        (sleep, 0.2, {"failed": "was not done after 0 s"}),
        (divide, 30, {"failed": "ZeroDivisionError: division by zero"}),
        (add_up, 30, {"sum": 5}),
    ],
)
def test_what_goes_wrong_in_a_part_stays_there(function, limit_s, expected):
    started = time.monotonic()
    values = gpu_report.run_part(function, 2, {"before": 3}, limit_s)
    assert values.pop("seconds") < 30
    assert values == expected
    assert time.monotonic() - started < 30


def test_a_preset_is_sized_to_the_device():
    preset = PRESETS["tiny-further"]
    old = preset.joint
    assert old is not None
    new = sized(preset, 16, 128, 2000, compressed=False).joint
    assert new is not None
    assert new.easy_data is not None
    for data in (new.data, new.easy_data):
        assert (data.clips_per_batch, data.crop, data.compressed_share) == (16, 128, 0.0)
    assert new.learning_rate == pytest.approx(2 * old.learning_rate)
    # Averaged over a sixth of the updates, as before.
    assert (1 - new.ema_decay) * 2000 == pytest.approx((1 - old.ema_decay) * old.steps)
    assert new.warmup_steps == 100
    largest = sized(preset, 256, 128, 2000).joint
    assert largest is not None
    assert largest.learning_rate == pytest.approx(4 * old.learning_rate)
    assert largest.data.compressed_share == old.data.compressed_share
    same = sized(preset, 4, 96, old.steps).joint
    assert dataclasses.replace(old, warmup_steps=same.warmup_steps) == same


def test_clips_are_doubled_as_long_as_time_and_memory_allow(monkeypatch, make_checkpoint):
    stage = PRESETS["tiny-further"].joint
    monkeypatch.setattr(gpu_training, "_memory_bytes", lambda device: 100)
    tried = {}

    def trial(module, stage, clips, crop, device):
        result = tried[clips]
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(gpu_training, "trial_update", trial)
    args = gpu_report.argparse.Namespace(init=make_checkpoint(), train_minutes=10)

    def chosen():
        return gpu_training._clips_that_fit(args, stage, 96, torch.device("cpu"))

    # 0.3 s each leave 2,000 updates of ten minutes.
    tried.update({8: (0.1, 10), 16: (0.2, 20), 32: (0.4, 40)})
    assert chosen() == 16
    tried.update({16: (0.1, 80)})
    assert chosen() == 8
    tried.update({8: torch.OutOfMemoryError("out of memory")})
    assert chosen() == 4


def test_rates_of_products_are_of_the_dtype_asked_for():
    assert product_rate("float32", 64, torch.device("cpu")) > 0
    with pytest.raises(ValueError, match="TF32 is of GPUs alone"):
        product_rate("tf32", 64, torch.device("cpu"))


def test_the_command_itself_imports_no_pytorch():
    code = "import sys, video_deblur.benchmarks.gpu_report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
