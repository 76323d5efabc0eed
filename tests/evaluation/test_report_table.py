"""`video-deblur evaluate --report-table` as a user meets it."""

from __future__ import annotations

import base64
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from video_deblur.cli import main
from video_deblur.evaluation.fidelity import psnr
from video_deblur.evaluation.report_table import named_folder


@pytest.fixture
def pairs(tmp_path):
    """Two sequences of three frames, and results of two methods."""
    rng = np.random.default_rng(0)
    for sequence in ("one", "two"):
        for index in range(3):
            sharp = rng.integers(40, 200, (24, 32, 3), dtype=np.uint8)
            frames = {
                f"pairs/{sequence}/sharp": sharp,
                f"pairs/{sequence}/blur": sharp + np.uint8(20),
                f"good/{sequence}": sharp + np.uint8(2),
                f"bad/{sequence}": sharp + np.uint8(30),
            }
            for folder, pixels in frames.items():
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / folder / f"{index}.png"), pixels[..., ::-1])
    return tmp_path


def run(*arguments):
    return main(["evaluate", *map(str, arguments)])


def refused(capsys, *arguments):
    assert run(*arguments) != 0
    return capsys.readouterr().err.splitlines()[-1]


def test_published_rows_alone_need_no_data(capsys):
    assert run("--report-table", "dvd") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        'DVD, as Wang & Long, "Deblurring via Video Diffusion Models", table 2 prints it'
    )
    assert lines[1].split() == ["PSNR", "SSIM", "LPIPS"]
    assert lines[2].split() == ["STFAN", "31.24", "0.92", "0.11"]
    assert lines[4].split() == ["EDVR", "31.82", "0.92", "0.09a"]
    assert "a EDVR: printed as 0.9, a misprint" in lines
    assert not any("measured here" in line for line in lines)


def test_results_stand_below_the_published_rows(pairs, capsys):
    arguments = ["--report-table", "gopro", "--dataset", f"pairs:{pairs / 'pairs'}"]
    arguments += ["--pred", f"ours={pairs / 'good'}", "--pred", pairs / "bad"]
    page, report = pairs / "page.html", pairs / "report.json"
    assert run(*arguments, "--protocol", "vrt", "--page", page, "--json", report) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split()[0] for line in lines if line]
    assert titles.index("Wang") < titles.index("measured") < titles.index("ours")
    assert (
        f"measured here on pairs:{pairs / 'pairs'}, protocol vrt, mean over sequences" in lines
    )
    cells = {line.split()[0]: line.split()[1:] for line in lines if line[:3] in ("our", "bad")}
    black = np.zeros((2, 2, 3), np.uint8)
    for name, error in (("ours", 2), ("bad", 30)):
        expected = psnr(black + np.uint8(error), black, data_range=255)
        assert float(cells[name][0]) == pytest.approx(expected, abs=0.006)
        assert cells[name][2] == "-", "LPIPS was not asked for"
    stored = json.loads(report.read_text())
    assert set(stored["results"]) == {"ours", "bad"}
    assert stored["published"]["rows"][0]["method"] == "STFAN"
    assert stored["results"]["ours"]["protocol"]["name"] == "vrt"


def test_the_sharp_frames_themselves_are_without_an_error(pairs, capsys):
    for sequence in (pairs / "pairs").iterdir():
        (pairs / "perfect").mkdir(exist_ok=True)
        (sequence / "sharp").rename(pairs / "perfect" / sequence.name)
        shutil.copytree(pairs / "perfect" / sequence.name, sequence / "sharp")
    arguments = ["--dataset", f"pairs:{pairs / 'pairs'}", "--pred", pairs / "perfect"]
    assert run("--report-table", "gopro", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    (cells,) = [line.split() for line in lines if line.startswith("perfect")]
    assert cells == ["perfect", "inf", "1.0000", "-"]


def test_the_page_shows_crops_and_error_maps_of_every_result(pairs):
    page = pairs / "page.html"
    arguments = ["--dataset", f"pairs:{pairs / 'pairs'}", "--page", page]
    arguments += ["--pred", f"ours={pairs / 'good'}", "--pred", f"a&b={pairs / 'bad'}"]
    assert run("--report-table", "gopro", *arguments) == 0
    text = page.read_text()
    names = re.findall(r'alt="([^"]*)"', text)
    # Of each sequence: crops with the sharp one, error maps without.
    once = ["input", "ours", "a&amp;b", "sharp", "input", "ours", "a&amp;b"]
    assert names == ["scale", *once, *once]
    assert "http" not in text
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', text)[1:]
    pictures = [
        cv2.imdecode(np.frombuffer(base64.b64decode(s), np.uint8), cv2.IMREAD_COLOR)
        for s in sources
    ]
    brightness = [float(picture.mean()) for picture in pictures[4:7]]
    assert brightness[1] < brightness[0] < brightness[2], "the worse the result, the brighter"
    assert pictures[0].shape == (24, 24, 3)
    assert pictures[4].shape == (24, 32, 3)
    assert "Deblur-NeRF: a per-scene optimisation" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report-table", "reds"], "report table must be one of gopro, dvd, got 'reds'"),
        (["--report-table", "dvd", "--method", "wiener"], "leave out --method, --sharp-input"),
        (
            ["--report-table", "dvd", "--checkpoint", "dblrnet"],
            "name the folder by --pred NAME",
        ),
        (["--report-table", "dvd", "--steps", "4"], "--checkpoint and its options"),
        (["--report-table", "dvd", "--no-borrow"], "--checkpoint and its options"),
        (["--report-table", "dvd", "--dataset", "dvd:x"], "--dataset: with --report-table"),
        (
            ["--report-table", "dvd", "--pred", "."],
            "--dataset names what the results of --pred",
        ),
        (
            ["--report-table", "dvd", "--page", "no/where.html"],
            "no/where.html: there is no such",
        ),
        ([], "--dataset names what to measure on; give one"),
    ],
)
def test_what_cannot_be_shown_is_refused(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_results_need_names_of_their_own(pairs, capsys):
    arguments = ["--report-table", "gopro", "--dataset", f"pairs:{pairs / 'pairs'}"]
    twice = ["--pred", f"x={pairs / 'good'}", "--pred", f"x={pairs / 'bad'}"]
    assert "two results are called 'x'" in refused(capsys, *arguments, *twice)
    missing = ["--pred", f"x={pairs / 'nowhere'}"]
    assert "nowhere: no such folder of results" in refused(capsys, *arguments, *missing)
    several = ["--dataset", f"pairs:{pairs / 'pairs'}", "--pred", "a", "--pred", "b"]
    assert "several folders are for --report-table" in refused(capsys, *several)


def test_folders_with_an_equals_sign_are_taken_as_they_are(tmp_path):
    (tmp_path / "a=b").mkdir()
    assert named_folder(str(tmp_path / "a=b")) == ("a=b", tmp_path / "a=b")
    (tmp_path / "c").mkdir()
    assert named_folder(f"name={tmp_path / 'c'}") == ("name", tmp_path / "c")
    assert named_folder(str(tmp_path / "c")) == ("c", tmp_path / "c")
