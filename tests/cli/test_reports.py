"""Commands that say or show something: info, evaluate, demo."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from video_deblur.cli import main
from video_deblur.evaluation.demo import before_after
from video_deblur.video.reader import VideoReader

from .command import refused, run


def test_info_shows_config_and_provenance(checkpoint, capsys):
    assert main(["info", checkpoint]) == 0
    shown = capsys.readouterr().out
    assert "architecture  divd" in shown
    assert '"latent_channels": 4' in shown


def test_evaluate_measures_pairs_and_results(checkpoint, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for kind in ("blur", "sharp"):
        folder = tmp_path / "pairs" / "street" / kind
        folder.mkdir(parents=True)
        for index in range(2):
            picture = rng.integers(0, 255, (24, 32, 3), np.uint8)
            cv2.imwrite(str(folder / f"{index:03d}.png"), picture)
    report = tmp_path / "report.json"
    dataset = f"pairs:{tmp_path / 'pairs'}"
    arguments = ["--checkpoint", checkpoint, "--strength", 0, "--json", report]
    assert run(capsys, "evaluate", "--dataset", dataset, *arguments)[0] == 0
    mean = json.loads(report.read_text())["sequences"]["street"]["mean"]
    assert mean["psnr"] == mean["input_psnr"]

    arguments += ["--plain-decode"]
    assert run(capsys, "evaluate", "--dataset", dataset, *arguments, "--strength", 1)[0] == 0
    assert json.loads(report.read_text())["sequences"]["street"]["mean"] != mean

    results = tmp_path / "results" / "street"
    results.parent.mkdir()
    (tmp_path / "pairs" / "street" / "sharp").rename(results)
    shutil.copytree(results, tmp_path / "pairs" / "street" / "sharp")
    arguments = ["--pred", results.parent, "--json", report]
    assert run(capsys, "evaluate", "--dataset", dataset, *arguments)[0] == 0
    mean = json.loads(report.read_text())["mean"]
    assert mean["psnr"] == float("inf")
    assert mean["ssim"] == pytest.approx(1)


def test_evaluate_names_frames_without_a_partner(checkpoint, tmp_path, capsys):
    for kind, name in (("blur", "000"), ("sharp", "001")):
        folder = tmp_path / "pairs" / "street" / kind
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((16, 16, 3), np.uint8))
    dataset = f"pairs:{tmp_path / 'pairs'}"
    line = refused(capsys, "evaluate", "--dataset", dataset, "--checkpoint", checkpoint)
    assert "street: frame 000 is in only one of blur/ and sharp/" in line


def test_demo_writes_videos_pictures_and_scores(checkpoint, tmp_path, capsys):
    assert main(["demo", "--checkpoint", checkpoint, "--out", str(tmp_path / "demo")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].startswith("shake       17  27.3")
    assert shown[2].startswith("street      24  20.5")
    kinds = ("restored.mp4", "side_by_side.mp4", "before_after.png")
    names = {f"{clip}_{kind}" for clip in ("shake", "street") for kind in kinds}
    assert {path.name for path in (tmp_path / "demo").iterdir()} == names
    for clip, size, num_frames in (("shake", (512, 256), 17), ("street", (768, 256), 24)):
        with VideoReader(tmp_path / "demo" / f"{clip}_side_by_side.mp4") as reader:
            assert (reader.info.width, reader.info.height) == size
            assert len(list(reader)) == num_frames
        picture = cv2.imread(str(tmp_path / "demo" / f"{clip}_before_after.png"))
        # A frame and two crops of its size, three times.
        assert picture.shape == (3 * size[1], 3 * size[0] // 2, 3)


def test_the_picture_leaves_its_frames_as_they_are():
    frames = [np.full((64, 96, 3), value, np.uint8) for value in (0, 128, 255)]
    picture = before_after(frames, [(0, 0)])
    assert picture.shape == (128, 288, 3)
    assert [np.unique(frame).tolist() for frame in frames] == [[0], [128], [255]]
    # Crops show the frame, not its label.
    assert [np.unique(picture[64:, i * 96 : i * 96 + 96]).tolist() for i in range(3)] == [
        [0],
        [128],
        [255],
    ]
