"""Runs that a kill or a full disk ends: nothing half-written, and going on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from video_deblur.cli import main
from video_deblur.cli import run as run_module
from video_deblur.images.folders import encode_png
from video_deblur.jobs import parts
from video_deblur.restoration.streaming import segments

from .command import command, decoded, run, stop_after_a_part, write_clip


def test_a_reader_that_leaves_early_ends_the_command_quietly():
    with subprocess.Popen(
        command("info", "divd-tiny"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_full_disk_is_one_line_and_leaves_nothing(checkpoint, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 10, 64, 48)
    output = tmp_path / "out" / "result.mkv"
    output.parent.mkdir()
    # A limit on the size of files stands for a full disk: writing fails the same way.
    script = (
        "import resource, signal, sys; from video_deblur.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["run", clip, "-o", output, "--codec", "ffv1", "--checkpoint", checkpoint]
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"video-deblur: {output}: could not be written")
    assert len(result.stderr.splitlines()) == 1
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_under_the_final_name(kill, checkpoint, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 60, 160, 120)
    output = tmp_path / "out.mp4"
    arguments = ["run", clip, "-o", output, "--steps", 200, "--checkpoint", checkpoint]
    process = subprocess.Popen(
        [sys.executable, "-m", "video_deblur.cli", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob(".out*")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    assert list(tmp_path.glob(".out*")), "the run never got to writing"
    process.send_signal(kill)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not output.exists()
    if kill == signal.SIGTERM:
        assert not list(tmp_path.glob(".out*"))


SHORT_PARTS = (
    "from video_deblur.jobs import parts\n"
    "from video_deblur.restoration.streaming import segments\n"
    "parts.PART_FRAMES, segments._SEGMENT_PIXELS = 8, 1\n"
)
"""So that few frames make many parts."""


@pytest.fixture
def _short_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)


@pytest.mark.usefixtures("_short_parts")
def test_a_killed_run_goes_on_and_gives_the_same_frames(checkpoint, tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 60, 32, 24)
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    options = ["--resume", "--checkpoint", checkpoint, "--window", 4, "--overlap", 0]
    assert run(capsys, "run", clip, "-o", whole, *options)[0] == 0
    script = f"{SHORT_PARTS}import sys; from video_deblur.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "run", *map(str, (clip, "-o", output, *options))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    folder = tmp_path / ".out.mp4.resume"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (folder / "000000.json").exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    assert not output.exists()
    report = tmp_path / "report.json"
    code, _ = run(capsys, "run", clip, "-o", output, *options, "--json", report)
    assert code == 0
    assert np.array_equal(decoded(output), decoded(whole))
    assert json.loads(report.read_text())["frames"] == 60
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("_short_parts")
def test_a_full_disk_keeps_finished_parts_and_says_how_to_go_on(checkpoint, tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 30, 32, 24)
    output = tmp_path / "out" / "result.mkv"
    output.parent.mkdir()
    options = ["--resume", "--codec", "ffv1", "--checkpoint", checkpoint, "--window", 4]
    whole = tmp_path / "whole.mkv"
    assert run(capsys, "run", clip, "-o", whole, *options)[0] == 0
    # Parts fit under the limit on a file's size, all of them in one file do not.
    limit = whole.stat().st_size * 7 // 10
    script = (
        f"{SHORT_PARTS}import resource, signal, sys; from video_deblur.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["run", clip, "-o", output, *options]
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    # A slow machine prints how far it is before.
    line = result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert "result.mkv" in line
    assert "30 finished frames are kept, run the same command again to go on" in line
    assert not output.exists()
    assert run(capsys, *arguments)[0] == 0
    assert np.array_equal(decoded(output), decoded(whole))
    assert [path.name for path in output.parent.iterdir()] == ["result.mkv"]


def test_an_interrupted_run_says_how_to_go_on(checkpoint, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 60, 160, 120)
    arguments = ["run", clip, "-o", tmp_path / "out.mp4", "--steps", 200, "--resume"]
    process = subprocess.Popen(
        command(*arguments, "--checkpoint", checkpoint),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob(".out*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again to go on" in said


def test_what_is_written_piece_by_piece_is_said_to_be_kept(
    checkpoint, tmp_path, capsys, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    for name in (
        "evaluation.report.evaluate_sequences",
        "evaluation.demo.run_demo",
        "synthesis.pairs.synthesize_pairs",
        "jobs.priors.write_priors",
    ):
        monkeypatch.setattr(f"video_deblur.{name}", stop)
    for kind in ("blur", "sharp"):
        (tmp_path / "pairs" / "a" / kind).mkdir(parents=True)
        write_png(tmp_path / "pairs" / "a" / kind / "0.png")
    evaluate = ["evaluate", "--dataset", f"pairs:{tmp_path / 'pairs'}", "--method", "unsharp"]
    frame, save = tmp_path / "pairs" / "a" / "blur" / "0.png", tmp_path / "saved"
    for arguments, said in (
        (evaluate, "nothing was written"),
        ([*evaluate, "--save", save], f"the sequences that were finished are kept in {save}"),
        (["demo", "--checkpoint", checkpoint], "the files that were finished are kept"),
        (["synthesize", frame, "-o", save], "the sequences that were finished are kept"),
        (["priors", frame, "-o", save], "nothing was written"),
    ):
        assert run(capsys, *arguments) == (130, f"video-deblur: interrupted, {said}\n")


def write_png(path) -> None:
    path.write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))


@pytest.mark.usefixtures("_short_parts")
def test_frames_that_were_kept_cost_no_time_and_have_no_blur(
    checkpoint, tmp_path, capsys, caplog, monkeypatch
):
    clip = write_clip(tmp_path / "clip.mp4", 24, 32, 24)
    output, report = tmp_path / "out.mp4", tmp_path / "report.json"
    options = ["--checkpoint", checkpoint, "--window", 4, "--overlap", 0, "--no-borrow"]
    arguments = ["run", clip, "-o", output, *options, "--resume"]
    stop_after_a_part(monkeypatch, capsys, *arguments)
    clock = iter([0.0, 8.0])
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert main(list(map(str, [*arguments, "--json", report]))) == 0
    blur = json.loads(report.read_text())["blur"]
    kept = blur.count(None)
    assert 0 < kept < 24
    seconds = 8 / (24 - kept)
    said = f"24 frames in 8.0 s, {kept} of them finished before ({seconds:.2f} s per frame)"
    assert said in capsys.readouterr().out
    (warning,) = caplog.messages
    assert warning == (
        f"{report}: the blur of {kept} frames is null, as they were finished by a run without "
        "--json"
    )
