"""`run --adapt`: the network learns from the clip first, and what it learned can be kept."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_deblur.cli import main
from video_deblur.cli.main import build_parser
from video_deblur.images.folders import FrameFolderWriter
from video_deblur.jobs import adaptation, parts
from video_deblur.jobs.part_store import PartStore
from video_deblur.models.bundled import BUNDLED
from video_deblur.models.checkpoint import read_info, save_checkpoint
from video_deblur.models.tensor_file import read_header
from video_deblur.restoration.adaptation import settings as adaptation_settings
from video_deblur.restoration.adaptation import stretches, tuning
from video_deblur.restoration.adaptation.settings import AdaptationSettings
from video_deblur.restoration.streaming import segments
from video_deblur.video.writer import VideoWriter

from ..restoration.adaptation.test_material import one_sharp_frame
from ..restoration.adaptation.test_tuning import SHORT, spoilt_engine
from .command import decoded, refused, run, stop_after_a_part


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Two updates; whatever they do is taken."""
    short = dataclasses.replace(SHORT, updates=2, least_gain_db=-100)
    monkeypatch.setattr(adaptation_settings, "AdaptationSettings", lambda: short)


@pytest.fixture
def cpgd(tmp_path) -> Path:
    path = tmp_path / "cpgd.safetensors"
    engine = spoilt_engine()
    save_checkpoint(
        path, engine.model.state_dict(), engine.config, provenance={"steps": 7}, licence="MIT"
    )
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "frames"
    frames, _ = one_sharp_frame()
    with FrameFolderWriter(path) as writer:
        for index, pixels in enumerate((frames * 255).round().byte().numpy()):
            writer.write(pixels, f"{index}.png")
    return path


@pytest.fixture
def learned(monkeypatch) -> list[tuple[object, ...]]:
    """Something is learned at once; how often, and from what."""
    weights = spoilt_engine(0.1).model.state_dict()
    halves = {name: value.half() for name, value in weights.items()}
    calls: list[tuple[object, ...]] = []

    def learn(*arguments):
        calls.append(arguments)
        return tuning.Adapted(weights=halves, gain_db=1.0)

    monkeypatch.setattr(adaptation, "learn_from_stretches", learn)
    return calls


IN_PARTS = ("--resume", "--codec", "ffv1", "--no-borrow")


def hidden_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def options(folder: Path, output: Path, cpgd: Path) -> tuple[object, ...]:
    return ("run", folder, "-o", output, "--checkpoint", cpgd, "--window", 8, "--adapt")


def pixels_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_the_clip_is_restored_by_what_was_learned(folder, cpgd, tmp_path, capsys):
    saved, report = tmp_path / "tuned.safetensors", tmp_path / "report.json"
    first, second, plain = (tmp_path / name for name in ("first", "second", "plain"))
    arguments = options(folder, first, cpgd)
    code, _ = run(capsys, *arguments, "--save-adapted", saved, "--json", report)
    assert code == 0
    assert json.loads(report.read_text())["adaptation"]["used"] is True
    info = read_info(saved)
    assert info.licence == "MIT"
    assert info.provenance["steps"] == 7
    assert info.provenance["adaptation"]["clip"] == "frames"
    # The file holds exactly what restored, and the checkpoint's own weights do something else.
    restore = ("run", folder, "--window", 8, "-o")
    assert run(capsys, *restore, second, "--checkpoint", saved)[0] == 0
    assert run(capsys, *restore, plain, "--checkpoint", cpgd)[0] == 0
    assert pixels_of(first) == pixels_of(second)
    assert pixels_of(first) != pixels_of(plain)


def test_what_does_not_help_is_said_and_not_used(folder, cpgd, tmp_path, capsys, monkeypatch):
    dropped = tuning.Adapted(weights=None, gain_db=-0.4)
    monkeypatch.setattr(stretches, "adapt", lambda *_: dropped)
    output, saved = tmp_path / "out", tmp_path / "tuned.safetensors"
    assert run(capsys, *options(folder, output, cpgd)[:-1])[0] == 0
    plain = pixels_of(output)
    output = tmp_path / "again"
    arguments = [*options(folder, output, cpgd), "--save-adapted", saved]
    assert main([str(each) for each in arguments]) == 0
    said = capsys.readouterr().out
    assert "learned nothing that helps (-0.40 dB in the part held out)" in said
    assert f"{saved}: not written" in said
    assert not saved.exists()
    assert pixels_of(output) == plain


@pytest.mark.parametrize("used", [True, False])
def test_a_stopped_run_goes_on_with_what_it_learned(
    used, folder, cpgd, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    monkeypatch.setattr(parts, "PART_FRAMES", 1)
    if not used:
        dropped = tuning.Adapted(weights=None, gain_db=-0.4)
        monkeypatch.setattr(stretches, "adapt", lambda *_: dropped)
    whole, output = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    arguments = (*IN_PARTS, "--overlap", 0, "--window", 2)
    assert run(capsys, *options(folder, whole, cpgd), *arguments)[0] == 0
    stop_after_a_part(monkeypatch, capsys, *options(folder, output, cpgd), *arguments)
    kept = tmp_path / ".out.mkv.adapted.safetensors"
    assert hidden_files(tmp_path) == {".out.mkv.resume", kept.name}
    assert (len(read_header(kept)) > 1) == used, "no weights but those that are used"

    def learned_again(*_):
        raise AssertionError("what was learned is kept")

    monkeypatch.setattr(stretches, "adapt", learned_again)
    assert run(capsys, *options(folder, output, cpgd), *arguments)[0] == 0
    assert np.array_equal(decoded(whole), decoded(output))
    assert not hidden_files(tmp_path)


def test_what_was_learned_is_kept_in_a_new_folder(
    folder, cpgd, learned, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "new" / "deep" / "out.mkv"
    arguments = (*options(folder, output, cpgd), *IN_PARTS)
    stop_after_a_part(monkeypatch, capsys, *arguments)
    assert run(capsys, *arguments)[0] == 0
    assert len(learned) == 1
    assert [path.name for path in output.parent.iterdir()] == ["out.mkv"]


def test_a_run_that_finishes_without_it_removes_what_was_learned(
    folder, cpgd, learned, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "out.mkv"
    arguments = (*options(folder, output, cpgd), *IN_PARTS)
    stop_after_a_part(monkeypatch, capsys, *arguments)
    assert ".out.mkv.adapted.safetensors" in hidden_files(tmp_path)
    assert run(capsys, *(each for each in arguments if each != "--adapt"))[0] == 0
    assert not hidden_files(tmp_path)


def test_a_video_that_ends_early_leaves_nothing_of_what_was_learned(
    cpgd, learned, tmp_path, capsys
):
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mkv"
    rate, noise = Fraction(25), np.random.default_rng(0)
    with VideoWriter(
        clip, width=96, height=96, time_base=1 / rate, average_rate=rate, codec="ffv1"
    ) as writer:
        for index in range(8):
            writer.write(noise.integers(0, 256, (96, 96, 3), np.uint8), index)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 3 // 4])
    said = refused(capsys, *options(clip, output, cpgd), *IN_PARTS)
    assert f"frames before that are restored in {output}" in said
    assert output.exists()
    assert not hidden_files(tmp_path)


def test_without_strength_nothing_is_learned(folder, cpgd, learned, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    saved, report = tmp_path / "tuned.safetensors", tmp_path / "report.json"
    arguments = [*options(folder, first, cpgd), "--strength", 0, "--json", report]
    assert main([str(each) for each in arguments]) == 0
    assert "frames: nothing is learned, as --strength 0" in capsys.readouterr().out
    assert not learned
    assert json.loads(report.read_text())["adaptation"]["used"] is False
    arguments = (*options(folder, second, cpgd), "--strength", 0, "--save-adapted", saved)
    assert run(capsys, *arguments)[0] == 0
    assert len(learned) == 1
    assert read_info(saved).provenance["adaptation"]["gain_db"] == 1.0
    assert pixels_of(first) == pixels_of(second)


def test_other_settings_learn_again(folder, cpgd, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out.mkv"

    def stop(*_):
        raise KeyboardInterrupt

    calls = []
    adapt = stretches.adapt

    def counted(*arguments):
        calls.append(arguments)
        return adapt(*arguments)

    monkeypatch.setattr(PartStore, "add", stop)
    monkeypatch.setattr(stretches, "adapt", counted)
    for seed in (1, 1, 2):
        arguments = (*options(folder, output, cpgd), "--resume", "--seed", seed)
        assert run(capsys, *arguments)[0] == 130
    assert len(calls) == 2


def test_wrong_options_are_refused_in_one_line(folder, cpgd, tmp_path, capsys, checkpoint):
    output, saved = tmp_path / "out", tmp_path / "tuned.safetensors"
    adapt = options(folder, output, cpgd)
    said = refused(capsys, *adapt[:-1], "--save-adapted", saved)
    assert "goes with --adapt" in said
    assert "name a .safetensors file" in refused(capsys, *adapt, "--save-adapted", "a.pth")
    said = refused(capsys, *adapt, "--checkpoint", checkpoint, "--steps", 4)
    assert "adaptation tunes what one step without guidance gives" in said
    said = refused(capsys, *options(folder / "0.png", tmp_path / "out.png", cpgd))
    assert "is a single picture" in said
    output.mkdir()
    (output / "other.txt").write_text("kept")
    assert "is not empty" in refused(capsys, *adapt), "before anything is learned"


@pytest.mark.parametrize(
    "role", ["checkpoint", "first stage", "input", "output", "report", "bundled checkpoint"]
)
def test_tuned_weights_replace_nothing_that_the_run_needs(
    role, folder, cpgd, learned, tmp_path, capsys, monkeypatch
):
    clip, output = tmp_path / "clip.safetensors", tmp_path / "out.safetensors"
    first, report = tmp_path / "first.safetensors", tmp_path / "report.safetensors"
    bundled = tmp_path / "bundled.safetensors"
    for path in (clip, first, bundled):
        shutil.copy(cpgd, path)
    monkeypatch.setitem(BUNDLED, "cpgd-tiny", bundled)
    files = [cpgd, first, clip, output, report, bundled]
    roles = ["checkpoint", "first stage", "input", "output", "report", "bundled checkpoint"]
    taken = dict(zip(roles, files, strict=True))[role]
    monkeypatch.chdir(tmp_path)
    source = clip if role == "input" else folder
    arguments = (*options(source, output, cpgd), "--first-stage", first, "--json", report)
    said = refused(capsys, *arguments, "--save-adapted", taken.name)
    assert f"{taken.name}: --save-adapted would replace the {role} {taken}" in said
    link = tmp_path / "link.safetensors"
    if taken.exists():
        os.link(taken, link)
        said = refused(capsys, *arguments, "--save-adapted", link)
        assert f"{link}: --save-adapted would replace the {role} {taken}" in said
    assert not learned
    assert not output.exists()


def test_where_tuned_weights_cannot_be_written_nothing_is_learned(
    folder, cpgd, learned, tmp_path, capsys, monkeypatch
):
    output, occupied = tmp_path / "out", tmp_path / "folder.safetensors"
    occupied.mkdir()
    adapt = (*options(folder, output, cpgd), "--save-adapted")
    assert "is a folder" in refused(capsys, *adapt, occupied)
    assert "is a file" in refused(capsys, *adapt, cpgd / "tuned.safetensors")
    said = refused(capsys, *adapt, output / "tuned.safetensors")
    assert f"lies in the output {output}" in said, "which would no longer be empty"
    # What the system says of such a folder, whoever runs the tests.
    new, access = tmp_path / "new", os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != new and access(path, mode))
    said = refused(capsys, *adapt, new / "tuned.safetensors")
    assert f"the folder {new} cannot be written to" in said
    assert not learned
    assert not new.exists()


def test_tuned_weights_may_lie_in_a_new_folder(folder, cpgd, learned, tmp_path, capsys):
    saved = tmp_path / "new" / "deep" / "tuned.safetensors"
    adapt = (*options(folder, tmp_path / "out", cpgd), "--no-borrow")
    assert run(capsys, *adapt, "--save-adapted", saved)[0] == 0
    assert read_info(saved).provenance["steps"] == 7


def test_an_interrupted_run_names_the_weights_that_were_written(
    folder, cpgd, learned, tmp_path, capsys, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("video_deblur.jobs.files.restore_ends", stop)
    saved = tmp_path / "tuned.safetensors"
    adapt = (*options(folder, tmp_path / "out", cpgd), "--save-adapted", saved)
    code, said = run(capsys, *adapt)
    assert (code, saved.exists()) == (130, True)
    assert said.endswith(f"interrupted, nothing but the tuned weights {saved} was written\n")
    code, said = run(capsys, *adapt, "--resume")
    assert said.endswith("finished parts are kept, run the same command again to go on\n")


def test_the_clip_is_restored_though_tuned_weights_cannot_be_written(
    folder, cpgd, learned, tmp_path, capsys, monkeypatch
):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    first, second, report = (tmp_path / name for name in ("first", "second", "report.json"))
    saved = tmp_path / "tuned.safetensors"
    assert run(capsys, *options(folder, first, cpgd), "--no-borrow")[0] == 0
    monkeypatch.setattr(adaptation, "save_checkpoint", fail)
    arguments = (*options(folder, second, cpgd), "--no-borrow", "--json", report)
    said = refused(capsys, *arguments, "--save-adapted", saved)
    assert f"{saved}: the tuned weights could not be written (No space left" in said
    assert pixels_of(first) == pixels_of(second)
    assert json.loads(report.read_text())["adaptation"]["used"] is True


def test_the_help_names_the_gain_below_which_it_is_dropped(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["run", "--help"])
    least = f"dropped where it gains less than {AdaptationSettings().least_gain_db:g} dB"
    assert least in " ".join(capsys.readouterr().out.split())
