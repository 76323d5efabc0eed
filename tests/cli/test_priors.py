"""The `priors` command: what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from .command import refused, run, write_clip


def moving_folder(folder: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir()
    noise = np.random.default_rng(0).normal(size=(120, 160, 3)).astype(np.float32)
    canvas = np.clip(cv2.GaussianBlur(noise, (0, 0), 2) * 300 + 128, 0, 255).astype(np.uint8)
    for index, name in enumerate(names):
        part = canvas[10 : 10 + 64, 3 * index : 3 * index + 96]
        cv2.imwrite(str(folder / name), np.ascontiguousarray(part))
    return folder


def names_of(*stems: str) -> set[str]:
    return {f"{s}{end}" for s in stems for end in ("_flow.png", "_residual.png", ".npz")}


def test_a_folder_becomes_pictures_and_arrays_of_the_same_names(tmp_path, capsys):
    names = ("a.1.png", "a.2.png", "b.png")
    source = moving_folder(tmp_path / "frames", names)
    output, report = tmp_path / "deep" / "out", tmp_path / "report.json"
    assert run(capsys, "priors", source, "-o", output, "--json", report)[0] == 0
    assert {path.name for path in output.iterdir()} == names_of("a.1", "a.2", "b")
    with np.load(output / "a.2.npz") as arrays:
        assert arrays["motion"].shape == (2, 64, 96)
        assert arrays["residual"].shape == arrays["valid"].shape == (1, 64, 96)
        assert arrays["motion"].dtype == np.float32
        assert np.median(arrays["motion"], axis=(1, 2)).tolist() == [3, 0]
    flow = cv2.imread(str(output / "a.2_flow.png"))
    # To the right by more than a fortieth of 96 pixels: the wheel's red, darkened.
    assert np.abs(np.median(flow, axis=(0, 1)) - (0, 8, 191)).max() <= 12
    assert not cv2.imread(str(output / "a.1_flow.png")).any()
    assert (cv2.imread(str(output / "a.1_residual.png")) == 128).all()
    said = json.loads(report.read_text())
    assert said["source"] == "encoded"
    assert said["scale"] == pytest.approx(96 / 40)
    assert [frame["valid"] > 0.5 for frame in said["frames"]] == [False, True, True]
    assert said["frames"][1]["mean_motion"] == pytest.approx(3, abs=0.5)


def test_a_video_brings_its_motion_along_unless_told_otherwise(tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", 4, 128, 96)
    for options, source in ((["--source", "encoded"], "encoded"), ([], "stream")):
        output, report = tmp_path / source, tmp_path / f"{source}.json"
        arguments = ["priors", clip, "-o", output, "--json", report, *options]
        assert run(capsys, *arguments)[0] == 0
        assert json.loads(report.read_text())["source"] == source
        stems = [f"frame_{index:06d}" for index in range(1, 5)]
        assert {path.name for path in output.iterdir()} == names_of(*stems)
        with np.load(output / "frame_000003.npz") as arrays:
            # What a pixel shows was 3 to the right of it: crests move to the left.
            assert np.median(arrays["motion"][0][arrays["valid"][0]]) == 3


def test_a_photo_has_no_motion(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.full((20, 30, 3), 90, np.uint8))
    assert run(capsys, "priors", photo, "-o", tmp_path / "out")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == names_of("photo")


def test_bad_use_is_refused_in_one_line_and_leaves_nothing(tmp_path, capsys):
    source = moving_folder(tmp_path / "frames", ("a.png", "b.png"))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    output = tmp_path / "out"
    for arguments, words in (
        (["priors", tmp_path / "none.mp4", "-o", output], "none.mp4: no such file"),
        (["priors", source, "-o", full], "full: is not empty"),
        (["priors", source, "-o", output, "--source", "stream"], "brings no motion along"),
        (["priors", source, "-o", output, "--scale", "0"], "scale must be above 0 pixels"),
    ):
        assert words in refused(capsys, *arguments)
    (source / "b.png").write_bytes(b"no picture")
    assert "b.png" in refused(capsys, "priors", source, "-o", output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "full"]
