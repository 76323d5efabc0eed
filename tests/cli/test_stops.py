"""Runs that a kill or a full disk ends: nothing half-written, and going on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from video_deblur.jobs import parts
from video_deblur.restoration.streaming import segments

from .command import command, decoded, run, write_clip


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
    assert process.returncode == 130
    assert "run the same command again to go on" in said
