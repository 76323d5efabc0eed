"""`video-deblur train` as a user meets it."""

from __future__ import annotations

import json
import re
import signal

import cv2
import numpy as np
import pytest
from video_deblur.cli import main
from video_deblur.models.config import config_to_dict


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
        (["tiny", "--compare", "--data", "synthetic:DATA"], "--validation"),
        (["BAD", "--data", "synthetic:DATA"], "joint: unknown field 'stepz'"),
    ],
)
def test_wrong_usage_is_one_line(capsys, data, config, arguments, message):
    places = {"synthetic:DATA": f"synthetic:{data / 'data'}", "BAD": config(stepz=3)}
    out = data / "run"
    code, _, err = train(capsys, *[places.get(a, a) for a in arguments], "--out", out)
    assert code == 2
    assert message.replace("OUT", str(out)) in err
    assert len([line for line in err.splitlines() if line.startswith("video-deblur:")]) == 1
    assert not out.exists()
