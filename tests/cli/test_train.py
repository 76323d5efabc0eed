"""`video-deblur train` as a user meets it."""

from __future__ import annotations

import json
import os
import re
import signal

import cv2
import numpy as np
import pytest
import torch
from video_deblur.cli import main
from video_deblur.models.config_fields import config_to_dict
from video_deblur.training import recipe
from video_deblur.training.preflight import run_lock


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    folders = [tmp_path / "data" / "photos"]
    folders += [tmp_path / "pairs" / "one" / kind for kind in ("blur", "sharp")]
    for folder in folders:
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (64, 72, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{index:03d}.png"), pixels)
    return tmp_path


@pytest.fixture
def config(tmp_path, small_config):
    """Write a JSON file of a small preset and return its path."""

    def write(name="small.json", **joint):
        clips = {"num_frames": 3, "crop": 32, "clips_per_batch": 1, "compressed_share": 0.0}
        values = {
            "preset": "tiny",
            "precision": "no",
            "model": config_to_dict(small_config),
            "autoencoder": {"steps": 2, "batch_size": 1, "crop": 32},
            "joint": {"steps": 2, "data": clips, "easy_data": None, **joint},
        }
        path = tmp_path / name
        path.write_text(json.dumps(values))
        return path

    return write


def train(capsys, *arguments):
    """Run `train` in this process; returns the exit code and both outputs."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        code = main(["train", "--device", "cpu", "--workers", "0", *map(str, arguments)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_run_with_its_report_and_export(capsys, data, config):
    run, exported = data / "run", data / "exported.safetensors"
    arguments = [config(), "--data", f"synthetic:{data / 'data'}", "--out", run]
    arguments += ["--validation", f"pairs:{data / 'pairs'}", "--seed", "3"]
    code, out, _ = train(capsys, *arguments, "--report", "--export", exported)
    assert code == 0
    assert "joint 2/2  loss" in out
    assert "images/s" in out
    assert "0:00:00 left" in out
    assert out.splitlines()[-2:] == [
        str(run / "checkpoint.safetensors"),
        str(run / "report.html"),
    ]
    assert exported.read_bytes() == (run / "checkpoint.safetensors").read_bytes()
    stored = json.loads((run / "config.json").read_text())
    assert (stored["preset"], stored["seed"]) == ("tiny", 3)
    code, again, _ = train(capsys, "--out", run, "--report")
    assert (code, again.split()) == (0, [str(run / "report.html")])
    assert main(["info", str(exported)]) == 0
    assert "synthetic:data" in capsys.readouterr().out


def test_a_terminal_shows_a_bar_that_names_loss_speed_and_time_left(
    capsys, data, config, monkeypatch
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["--data", f"synthetic:{data / 'data'}", "--out", data / "run"]
    more = ["--validation", f"pairs:{data / 'pairs'}", "--validate-every", "20"]
    code, out, err = train(capsys, config(), *arguments, *more, "--steps", "22")
    assert code == 0
    drawn = [line[:-3] for line in err.split("\r") if line.startswith("joint")]
    assert [line.split()[1] for line in drawn] == [f"{step}/22" for step in range(1, 22)]
    assert re.fullmatch(
        r"joint 21/22 \[#{7,30} +\]  95 %  loss -?[\d.]+  [\d.]+ images/s  0:00:0\d left",
        drawn[-1],
    )
    assert max(map(len, drawn)) < 80
    assert [line.split()[:2] for line in out.splitlines()[:-1]] == [
        ["autoencoder", "2/2"],
        ["joint", "20/22"],
        ["joint", "22/22"],
    ]


def test_one_stage_alone_from_a_checkpoint(capsys, data, config):
    path = config()
    changes = json.loads(path.read_text())
    stages = {"stage1": {"steps": 1, "data": changes["joint"]["data"]}, "stage2": None}
    two = data / "two.json"
    two.write_text(json.dumps({**changes, **stages}))
    arguments = ["--data", f"synthetic:{data / 'data'}"]
    assert train(capsys, path, *arguments, "--out", data / "start")[0] == 0
    start = data / "start" / "checkpoint.safetensors"
    arguments += ["--init", start, "--stages", "stage1", "--steps", "3"]
    code, out, _ = train(capsys, two, *arguments, "--out", data / "run")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[:-1]] == [["stage1", "3/3"]]


def test_comparing_two_presets(capsys, data, config):
    presets = [config("with.json"), config("without.json", coherence_weight=0.0)]
    arguments = ["--data", f"synthetic:{data / 'data'}", "--out", data / "comparison"]
    arguments += ["--validation", f"pairs:{data / 'pairs'}", "--seeds", "0"]
    code, out, _ = train(capsys, *presets, "--compare", *arguments)
    assert code == 0
    assert "without" in out
    comparison = json.loads((data / "comparison" / "comparison.json").read_text())
    assert "validation PSNR" in json.dumps(comparison)
    assert (data / "comparison" / "with" / "seed0" / "checkpoint.safetensors").is_file()


GOOD = ("GOOD", "--data", "synthetic:DATA")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tinny", "--data", "synthetic:DATA"], "tinny: neither a preset (tiny,"),
        (["tiny", "tiny", "--data", "synthetic:DATA"], "expected one preset, got tiny, tiny"),
        ([], "name a preset or a JSON file to train, or --report"),
        (["--report"], "OUT"),
        (["tiny"], "no training data given: name sources as KIND:PATH"),
        (["tiny", "--data", "DATA"], "KIND:PATH"),
        (["tiny", "--data", "synthetic:missing"], "missing"),
        (["tiny-further", "--data", "synthetic:DATA"], "name one with --init"),
        (["paper", "--steps", "5"], "stages stage1, stage2; choose one with --stages, or set"),
        (
            ["paper", "--stages", "joint"],
            "stage 'joint' is none of this preset's: stage1, stage2",
        ),
        (["tiny", "--stages", "autoencoder", "--steps", "5"], "use --autoencoder-steps"),
        ([*GOOD, "--diffusion", "divd-tiny"], "--diffusion is for the stage cpc, which does"),
        (["cpgd-paper", "--data", "synthetic:DATA"], "name its checkpoint with --diffusion"),
        (["tiny", "--compare", "--data", "synthetic:DATA"], "--validation"),
        (["BAD", "--data", "synthetic:DATA"], "joint: unknown field 'stepz'"),
        ([*GOOD, "--steps", "0"], "steps must be 1 or more, got 0"),
        ([*GOOD, "--seed", "-1"], "seed must be between 0 and"),
        ([*GOOD, "--seeds", "1", "2"], "--seeds is for --compare; add it, or name one --seed"),
        ([*GOOD, "--unequal-budget"], "--unequal-budget is for --compare"),
        ([*GOOD, "--compare", "--seed", "1"], "--seed is of one run, not of a comparison"),
        ([*GOOD, "--compare", "--report"], "--report is of one run, not of a comparison"),
        ([*GOOD, "--compare", "--export", "x"], "--export is of one run, not of a comparison"),
        ([*GOOD, "--workers", "-1"], "workers must be 0 or more, got -1"),
        ([*GOOD, "--validate-every", "-1"], "between validations must be 0 or more, got -1"),
        ([*GOOD, "--save-every", "nan"], "seconds between states must be 0 or more, got nan"),
        ([*GOOD, "--export", "gone/x.safetensors"], "gone does not exist, create it first"),
        ([*GOOD, "--export", "x.ckpt"], "x.ckpt: a checkpoint is a file whose name ends in"),
        ([*GOOD, "--init", "gone.safetensors"], "gone.safetensors: no such checkpoint file"),
        ([*GOOD, "--autoencoder", "divd-tiny"], "its autoencoder has latent_channels 16, the"),
        (
            ["tiny-further", "--data", "synthetic:DATA", "--autoencoder-steps", "5"],
            "--autoencoder-steps: this run has no stage 0",
        ),
        (["ODD", "--data", "synthetic:DATA"], "joint: crop must be a multiple of 4"),
        (["UNTE", "--data", "synthetic:DATA"], "trains: 'unte.' is no part of this model,"),
        (["CLIPS", "--data", "synthetic:DATA"], "data: has no clips/, where photo_share and"),
    ],
)
def test_wrong_usage_is_one_line(capsys, monkeypatch, data, config, arguments, message):
    monkeypatch.chdir(data)
    clips = {"num_frames": 3, "clips_per_batch": 1, "crop": 32}
    places = {
        "synthetic:DATA": f"synthetic:{data / 'data'}",
        "GOOD": config(),
        "BAD": config("bad.json", stepz=3),
        "ODD": config("odd.json", data={**clips, "crop": 30}),
        "UNTE": config("unte.json", trains=["unte."]),
        "CLIPS": config("clips.json", data={**clips, "photo_share": 0}),
    }
    out = data / "run"
    code, _, err = train(capsys, *[places.get(a, a) for a in arguments], "--out", out)
    assert code == 2
    assert message.replace("OUT", str(out)) in err
    assert len([line for line in err.splitlines() if line.startswith("video-deblur:")]) == 1
    assert not out.exists()


def test_a_run_goes_on_with_the_settings_it_was_begun_with_alone(capsys, data, config):
    run, specs = data / "run", f"synthetic:{data / 'data'}"
    arguments = ["--data", specs, "--out", run, "--validation", f"pairs:{data / 'pairs'}"]
    assert train(capsys, config(), *arguments)[0] == 0
    written = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    def refused(message, *changed):
        code, _, err = train(capsys, *changed)
        assert code == 2
        assert f"{run}: was begun with {message}" in err
        assert "; choose another folder or delete this one" in err
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == written

    longer = config("longer.json", steps=3)
    refused("joint.steps = 2, now it is 3", longer, *arguments)
    refused("seed = 0, now it is 1", config(), *arguments, "--seed", "1")
    init = ["--init", run / "checkpoint.safetensors"]
    refused("init = null, now it is", config(), *arguments, *init)
    cv2.imwrite(str(data / "data" / "photos" / "new.png"), np.zeros((64, 72, 3), np.uint8))
    before, now = (f'["synthetic:data ({n} photos, 0 runs of video)"]' for n in (4, 5))
    refused(f"data = {before}, now it is {now}", config(), *arguments)
    (data / "data" / "photos" / "new.png").unlink()
    (data / "below").mkdir()
    (data / "data").rename(data / "below" / "data")
    arguments[1] = f"synthetic:{data / 'below' / 'data'}"
    assert train(capsys, config(), *arguments, "--save-every", "5")[0] == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("2 GB"),
            r"out of memory (2 GB); raise accumulation, take grad",
        ),
        (
            RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."),
            "a process that draws clips has died (DataLoader worker (pid 5) is killed by",
        ),
    ],
)
def test_running_out_of_memory_is_one_line(capsys, monkeypatch, data, config, error, message):
    def run_out(*args, **options):
        raise error

    monkeypatch.setattr(recipe, "train_preset", run_out)
    arguments = [config(), "--data", f"synthetic:{data / 'data'}", "--out", data / "run"]
    code, _, err = train(capsys, *arguments)
    assert code == 2
    assert err.startswith(f"video-deblur: {message}")
    monkeypatch.setattr(error, "args", ("a mistake of ours",))
    if type(error) is RuntimeError:
        with pytest.raises(RuntimeError, match="mistake of ours"):
            train(capsys, *arguments)


def test_a_folder_of_something_else_is_left_alone(capsys, data, config):
    run = data / "run"
    run.mkdir()
    (run / "config.json").write_text('{"name": "a web site"}')
    arguments = [config(), "--data", f"synthetic:{data / 'data'}", "--out", run]
    code, _, err = train(capsys, *arguments)
    assert code == 2
    assert "its config.json is none of this version (config.json: unknown field 'name'" in err
    assert [path.name for path in run.iterdir()] == ["config.json"]
    code, _, err = train(capsys, *arguments[:-1], run / "config.json")
    assert code == 2
    assert "config.json: is a file, expected the folder of a run" in err


def test_more_workers_than_cores_are_one_warning(capsys, caplog, recwarn, data, config):
    arguments = [config(), "--data", f"synthetic:{data / 'data'}", "--out", data / "run"]
    count = os.cpu_count() + 1
    assert train(capsys, *arguments, "--workers", count)[0] == 0
    warning = f"{count} workers are more than the {count - 1} cores"
    told = [r.message for r in caplog.records if r.levelname == "WARNING"]
    # A run of two updates also hears that its warm-up is longer.
    assert [message for message in told if "warm-up" not in message] == [warning]
    assert not [w for w in recwarn if "DataLoader" in str(w.message)]


def test_two_runs_do_not_write_one_folder(capsys, data, config):
    run = data / "runs" / "first"
    arguments = [config(), "--data", f"synthetic:{data / 'data'}", "--out", run]
    with run_lock(run):
        code, _, err = train(capsys, *arguments)
    assert code == 2
    assert f"{run}: another run is writing this output" in err
    assert not run.exists()
    assert train(capsys, *arguments)[0] == 0
    assert [path.name for path in run.parent.iterdir()] == ["first"]
