"""Reports and pages: what they must not replace, and that this is found before the work."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_deblur.cli.side_files import write_json

from .command import refused, run, write_clip


@pytest.fixture
def frames(tmp_path) -> Path:
    """A folder of two pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / "frames").mkdir()
    for index in range(2):
        pixels = rng.integers(0, 255, (32, 48, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), pixels)
    return tmp_path / "frames"


@pytest.fixture
def pairs(frames, tmp_path) -> Path:
    for kind in ("blur", "sharp"):
        (tmp_path / "pairs" / "street" / kind).mkdir(parents=True)
        for frame in frames.iterdir():
            copy = tmp_path / "pairs" / "street" / kind / frame.name
            copy.write_bytes(frame.read_bytes())
    return tmp_path / "pairs"


@pytest.fixture
def never(monkeypatch):
    """Fail where work begins."""

    def fail(*_, **__):
        raise AssertionError("work has begun")

    for name in (
        "jobs.files.restore_ends",
        "jobs.priors.write_priors",
        "evaluation.report.evaluate_sequences",
        "evaluation.report_table.measure_results",
    ):
        monkeypatch.setattr(f"video_deblur.{name}", fail)


@pytest.mark.usefixtures("never")
def test_the_report_of_a_run_replaces_nothing_that_it_reads_or_writes(
    frames, checkpoint, tmp_path, capsys
):
    clip, output = write_clip(tmp_path / "clip.mp4", 3, 64, 48), tmp_path / "out.mp4"
    link = tmp_path / "link.json"
    os.link(clip, link)
    files = {path: path.read_bytes() for path in (clip, Path(checkpoint))}
    for report in (clip, link, output, checkpoint):
        options = ["-o", output, "--checkpoint", checkpoint, "--json", report]
        assert "--json would replace the " in refused(capsys, "run", clip, *options)
    options = ["-o", tmp_path / "out", "--checkpoint", checkpoint, "--json", frames / "0.png"]
    assert "would replace the input" in refused(capsys, "run", frames, *options)
    assert all(path.read_bytes() == data for path, data in files.items())


@pytest.mark.usefixtures("never")
def test_the_report_of_priors_replaces_nothing_that_it_reads_or_writes(
    frames, tmp_path, capsys
):
    for report in (frames / "0.png", tmp_path / "out"):
        line = refused(capsys, "priors", frames, "-o", tmp_path / "out", "--json", report)
        assert "--json would replace the " in line


@pytest.mark.usefixtures("never")
def test_reports_of_evaluate_replace_nothing_that_it_reads_or_writes(pairs, tmp_path, capsys):
    options = ["evaluate", "--dataset", f"pairs:{pairs}", "--method", "unsharp"]
    frame, same = pairs / "street" / "sharp" / "0.png", tmp_path / "same"
    for option in ("--json", "--page"):
        line = refused(capsys, *options, option, frame)
        assert f"{option} would replace the data set" in line
    line = refused(capsys, *options, "--json", same, "--page", same)
    assert f"--json would replace the page {same}" in line
    options = ["evaluate", "--dataset", f"pairs:{pairs}", "--pred", f"mine={pairs}"]
    line = refused(capsys, *options, "--report-table", "gopro", "--json", frame)
    assert "--json would replace the " in line


@pytest.mark.usefixtures("never")
def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    frames, pairs, checkpoint, tmp_path, capsys
):
    places = [(tmp_path, "is a folder"), (Path(checkpoint) / "a.json", "is a file")]
    if Path("/proc/self").exists():
        places.append((Path("/proc/report.json"), "cannot be written to"))
    commands = [
        ["run", frames, "-o", tmp_path / "out", "--checkpoint", checkpoint],
        ["priors", frames, "-o", tmp_path / "out"],
        ["evaluate", "--dataset", f"pairs:{pairs}", "--method", "unsharp"],
    ]
    for place, text in places:
        for command in commands:
            assert text in refused(capsys, *command, "--json", place)


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    write_json(str(report), {"frames": 1})

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_json(str(report), {"frames": 2})
    assert report.read_text() == '{\n  "frames": 1\n}\n'


def test_a_report_may_go_into_a_device(frames, checkpoint, tmp_path, capsys):
    options = ["-o", tmp_path / "out", "--checkpoint", checkpoint, "--strength", 0]
    assert run(capsys, "run", frames, *options, "--json", os.devnull)[0] == 0
    assert Path(os.devnull).is_char_device()
