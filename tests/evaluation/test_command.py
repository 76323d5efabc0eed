"""`video-deblur evaluate` as a user meets it."""

from __future__ import annotations

import json
import signal

import cv2
import numpy as np
import pytest
import torch
from video_deblur.cli import main
from video_deblur.evaluation.fidelity import psnr
from video_deblur.images.datasets import load_dataset
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import preset_settings


@pytest.fixture
def dataset(tmp_path, make_frames) -> str:
    """Two short sequences of moving pictures, blurred along x."""
    for name in ("river", "street"):
        frames = (make_frames(5, 48, 96).numpy() * 255).round().astype(np.uint8)
        for index, sharp in enumerate(frames):
            for kind, pixels in (("sharp", sharp), ("blur", cv2.blur(sharp, (7, 1)))):
                path = tmp_path / "pairs" / name / kind / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    return f"pairs:{tmp_path / 'pairs'}"


def run(*arguments: object) -> int:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main(["evaluate", *map(str, arguments)])
    finally:
        signal.signal(signal.SIGTERM, handler)


def refused(capsys, *arguments: object) -> str:
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_baseline_is_measured_by_all_that_is_asked_for(dataset, tmp_path, capsys):
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    metrics = "psnr,warping,warping_lai,high_frequency"
    arguments = ["--method", "unsharp", "--metrics", metrics, "--protocol", "vrt"]
    assert run("--dataset", dataset, *arguments, "--json", report, "--page", page) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in shown[2:]] == [
        *("river", "street", "mean over frames", "mean over sequences")
    ]
    values = json.loads(report.read_text())
    assert values["method"] == "unsharp"
    assert values["settings"] == {"sigma": 2.0, "amount": 0.5}
    assert values["protocol"]["average"] == "sequences"
    assert values["metrics"] == metrics.split(",")
    mean = values["mean_of_sequences"]
    assert f"{mean['psnr']:.2f}" in shown[-1]
    assert mean["high_frequency"] > mean["input_high_frequency"]
    assert "Deblurring by unsharp" in page.read_text()


def test_sharp_input_is_measured_against_itself(dataset, tmp_path, make_checkpoint, capsys):
    report = tmp_path / "report.json"
    arguments = ["--sharp-input", "--metrics", "psnr", "--json", report]
    arguments += ["--checkpoint", make_checkpoint()]
    assert run("--dataset", dataset, *arguments, "--strength", 0) == 0
    assert json.loads(report.read_text())["mean"]["psnr"] == float("inf")
    assert run("--dataset", dataset, *arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("mean over sequences")
    values = json.loads(report.read_text())
    assert values["sharp_input"] is True
    assert values["mean"]["psnr_worst"] <= values["mean"]["psnr"] < 60


def test_results_keep_their_fractions_where_the_protocol_does(
    dataset, tmp_path, make_checkpoint
):
    checkpoint, report = make_checkpoint(), tmp_path / "report.json"
    arguments = ["--checkpoint", checkpoint, "--metrics", "psnr", "--json", report]
    assert run("--dataset", dataset, *arguments, "--protocol", "shift_net") == 0
    (row,) = json.loads(report.read_text())["sequences"]["river"]["frames"]

    (river, _) = load_dataset(dataset)
    blurry = np.stack([cv2.imread(str(path))[..., ::-1] for path in river.blurry]) / 255
    deblurrer = load_deblurrer(str(checkpoint), "cpu")
    settings = preset_settings(deblurrer.model.config, "fast")
    restored = deblurrer.restore(torch.from_numpy(blurry).float(), settings).numpy()[2]
    sharp = cv2.imread(str(river.sharp[2]))[..., ::-1] / 255
    assert row["frame"] == "2"
    assert row["psnr"] == pytest.approx(psnr(restored, sharp, data_range=1), abs=1e-6)
    rounded = psnr(np.rint(restored * 255), sharp * 255, data_range=255)
    assert row["psnr"] != pytest.approx(rounded, abs=1e-5)


def test_feed_forward_networks_are_measured_but_not_decoded_plainly(
    dataset, dblrnet_checkpoint, tmp_path, capsys
):
    report, checkpoint = tmp_path / "report.json", ["--checkpoint", dblrnet_checkpoint]
    chosen = ["--metrics", "psnr", "--no-borrow", "--json", report]
    assert run("--dataset", dataset, *checkpoint, *chosen) == 0
    frames = json.loads(report.read_text())["sequences"]["river"]["frames"]
    assert all(np.isfinite(row["psnr"]) for row in frames)
    line = refused(capsys, "--dataset", dataset, *checkpoint, "--plain-decode")
    assert line.endswith("is no diffusion model, plain decoding is for those")


def test_lpips_takes_its_weights_from_a_file(dataset, tmp_path, capsys):
    models = pytest.importorskip("torchvision").models
    network = models.squeezenet1_1(weights=None)
    weights = tmp_path / "squeezenet.pth"
    torch.save(network.state_dict(), weights)
    arguments = ["--method", "unsharp", "--metrics", "lpips_squeeze"]
    assert run("--dataset", dataset, *arguments, "--lpips-weights", weights) == 0
    assert "LPIPS squeezenet1_1" in capsys.readouterr().out
    line = refused(capsys, "--dataset", dataset, *arguments)
    assert line == (
        "video-deblur: lpips_squeeze needs the weights of torchvision's squeezenet1_1: "
        "give the file with --lpips-weights FILE"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "method must be one of checkpoint, unsharp, "),
        (["--metrics", "psnr,fid"], "metrics must be some of psnr, ssim, "),
        (["--protocol", "mine"], "protocol must be one of rgb8, vrt, "),
        (
            ["--method", "unsharp", "--protocol", "pvdnet_unaligned", "--metrics", "niqe"],
            "river: NIQE",
        ),
        (["--method", "unsharp", "--metrics", "niqe"], "river: NIQE needs two blocks of 96x96"),
        (["--pred", "results", "--method", "wiener"], "leave out --method"),
        (["--pred", "results", "--sharp-input"], "leave out --method, --sharp-input"),
        (["--method", "wiener", "--page", "no/where.html"], "no/where.html: there is no such"),
        (["--metrics", "lpips_vgg", "--lpips-weights", "no.pth"], "no.pth: no such file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(dataset, capsys, arguments, message):
    line = refused(capsys, "--dataset", dataset, *arguments)
    assert line.startswith("video-deblur: ")
    assert message in line


def test_saved_results_measure_as_they_did(dataset, tmp_path, capsys):
    results = tmp_path / "results"
    arguments = ["--dataset", dataset, "--metrics", "psnr"]
    assert run(*arguments, "--method", "unsharp", "--save", results) == 0
    figures = capsys.readouterr().out.splitlines()[2:]
    assert run(*arguments, "--pred", results) == 0
    assert capsys.readouterr().out.splitlines()[2:] == figures
    assert run(*arguments, "--pred", f"mine={results}") == 0
    assert capsys.readouterr().out.splitlines()[2:] == figures
    line = refused(capsys, *arguments, "--pred", f"mine={tmp_path / 'none'}")
    assert line.endswith("none: no such folder of results")


def test_a_place_for_results_is_looked_at_before_anything_is_restored(
    dataset, tmp_path, capsys, monkeypatch
):
    # The second of the sequences.
    (tmp_path / "results" / "street").mkdir(parents=True)
    (tmp_path / "results" / "street" / "0.png").touch()

    def never(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr("video_deblur.evaluation.report.evaluate_sequences", never)
    arguments = ["--dataset", dataset, "--method", "unsharp", "--save"]
    assert "street: is not empty" in refused(capsys, *arguments, tmp_path / "results")
    (tmp_path / "file").touch()
    assert "is a file" in refused(capsys, *arguments, tmp_path / "file")
