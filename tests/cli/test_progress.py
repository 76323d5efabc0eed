"""Progress in a terminal, and in a log where there is none."""

from __future__ import annotations

import io
import sys

import pytest
from video_deblur.cli import progress
from video_deblur.cli.progress import ProgressBar
from video_deblur.jobs import parts
from video_deblur.restoration.streaming import segments

from .command import run, write_clip


@pytest.fixture
def clock(clock, monkeypatch):
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_every_half_minute_with_what_is_left(clock, capsys):
    show = ProgressBar("clip.mp4", "frames")
    for second in range(0, 100):
        clock.now = 100 + second
        show(second * 2.5, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "clip.mp4: 75 of 1000 frames, 0:06:10 left",
        "clip.mp4: 150 of 1000 frames, 0:05:40 left",
        "clip.mp4: 225 of 1000 frames, 0:05:10 left",
    ]


def test_what_was_done_before_says_nothing_about_the_speed(clock, capsys):
    show = ProgressBar("clip.mp4", "frames")
    show(600, 1000)
    clock.now += 40
    show(610.5, 1000)
    assert capsys.readouterr().err == "clip.mp4: 610 of 1000 frames, 0:24:44 left\n"


def test_of_unknown_length_what_is_done_is_shown(clock, capsys):
    show = ProgressBar("clip.h264", "frames")
    clock.now += 90
    show(45, None)
    assert capsys.readouterr().err == "clip.h264: 45 frames in 0:01:30\n"


def test_commands_that_count_nothing_stay_silent(clock, capsys):
    show = ProgressBar("converting")
    clock.now += 90
    show(45, 100)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_no_lines(clock, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    show = ProgressBar("clip.mp4", "frames")
    show(0, 1000)
    clock.now += 100
    show(500, 1000)
    shown = terminal.getvalue()
    assert shown.startswith("\rclip.mp4 [###")
    assert "50 %    100 s left" in shown
    assert "\n" not in shown


@pytest.mark.parametrize("options", [[], ["--resume"]], ids=["straight", "resume"])
def test_a_run_in_a_log_says_how_far_it_is(options, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    clip = write_clip(tmp_path / "clip.mp4", 30, 32, 24)
    arguments = ["--checkpoint", checkpoint, "--window", 4, "--no-borrow", *options]
    code, said = run(capsys, "run", clip, "-o", tmp_path / "out.mp4", *arguments)
    assert code == 0
    lines = said.splitlines()
    counts = [int(line.split()[1]) for line in lines]
    assert all(line.startswith("clip.mp4: ") and " of 30 frames" in line for line in lines)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 30)
    assert len(set(counts)) > 5
    assert lines[-1].endswith(", 0:00:00 left")
