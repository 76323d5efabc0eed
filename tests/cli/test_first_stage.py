"""A first stage from the command line."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from video_deblur.restoration.first_stage import stage
from video_deblur.restoration.streaming import stream

from .command import decoded, refused, run, write_clip


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 10, 64, 48)


@pytest.mark.usefixtures("any_first_stage")
def test_run_hands_what_another_checkpoint_made_to_fusion(
    clip, checkpoint, dblrnet_checkpoint, tmp_path, capsys, monkeypatch
):
    seen, fuse = [], stream.fuse

    def watched(panels, *args, **options):
        panels = list(panels)
        seen.extend(panels)
        return fuse(panels, *args, **options)

    monkeypatch.setattr(stream, "fuse", watched)
    output, report = tmp_path / "out.mp4", tmp_path / "report.json"
    options = ("--checkpoint", checkpoint, "--first-stage", dblrnet_checkpoint)
    code, said = run(capsys, "run", clip, "-o", output, "--json", report, *options)
    assert code == 0, said
    assert len(seen) == len(decoded(output)) == 10
    assert all((panel.first - panel.blurry).abs().max() > 0.01 for panel in seen)
    assert json.loads(report.read_text())["first_stage"] == str(dblrnet_checkpoint)


@pytest.mark.usefixtures("any_first_stage")
def test_the_network_may_see_what_the_first_stage_made(
    clip, checkpoint, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("spandrel")
    # What a network of random weights makes is never trusted.
    monkeypatch.setattr(stage, "followed", lambda panel: panel.first)
    from spandrel.architectures.NAFNet import NAFNet

    network = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    torch.nn.init.normal_(network.ending.weight, std=0.3)
    path = tmp_path / "nafnet.pth"
    torch.save(network.state_dict(), path)
    outputs = [tmp_path / "blurry.mkv", tmp_path / "first.mkv"]
    for output, network_input in zip(outputs, ("blurry", "first_stage"), strict=True):
        code, said = run(
            capsys,
            *("run", clip, "-o", output, "--codec", "ffv1", "--checkpoint", checkpoint),
            *("--first-stage", path, "--network-input", network_input),
        )
        assert code == 0, said
    difference = decoded(outputs[0]).astype(int) - decoded(outputs[1])
    assert np.abs(difference).mean() > 1


def test_what_cannot_be_a_first_stage_is_refused(clip, tmp_path, capsys):
    base = ("run", clip, "-o", tmp_path / "out.mp4")
    said = refused(capsys, *base, "--first-stage", tmp_path / "none.pth")
    assert "none.pth: no such checkpoint file" in said
    (tmp_path / "net.ckpt").write_bytes(b"weights")
    said = refused(capsys, *base, "--first-stage", tmp_path / "net.ckpt")
    assert "must be a file of .pth or .safetensors" in said
    said = refused(capsys, *base, "--network-input", "first_stage")
    assert "there is none: name its file (--first-stage)" in said
    said = refused(capsys, *base, "--network-input", "sharp")
    assert "must be one of blurry, first_stage" in said
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.usefixtures("any_first_stage")
def test_evaluate_says_what_ran_first(
    checkpoint, dblrnet_checkpoint, tmp_path, capsys, monkeypatch
):
    for kind in ("blur", "sharp"):
        folder = tmp_path / "pairs" / "street" / kind
        folder.mkdir(parents=True)
        for index in range(2):
            picture = np.random.default_rng(index).integers(0, 255, (24, 32, 3), np.uint8)
            cv2.imwrite(str(folder / f"{index:03d}.png"), picture)
    seen, fuse = [], stream.fuse

    def watched(panels, *args, **options):
        panels = list(panels)
        seen.extend(panels)
        return fuse(panels, *args, **options)

    monkeypatch.setattr(stream, "fuse", watched)
    report = tmp_path / "report.json"
    code, said = run(
        capsys,
        *("evaluate", "--dataset", f"pairs:{tmp_path / 'pairs'}", "--json", report),
        *("--checkpoint", checkpoint, "--first-stage", dblrnet_checkpoint),
    )
    assert code == 0, said
    assert json.loads(report.read_text())["first_stage"] == "dblrnet.safetensors"
    assert [panel.first is not None for panel in seen] == [True, True]


def test_a_batch_refuses_it_before_anything_starts(clip, tmp_path, capsys):
    (tmp_path / "net.ckpt").write_bytes(b"weights")
    said = refused(
        capsys, "batch", clip, "-o", tmp_path / "out", "--first-stage", tmp_path / "net.ckpt"
    )
    assert "must be a file of .pth or .safetensors" in said
    said = refused(
        capsys, "batch", clip, "-o", tmp_path / "out", "--network-input", "first_stage"
    )
    assert "there is none" in said


def test_one_that_is_not_trusted_is_named_in_the_report(
    clip, checkpoint, dblrnet_checkpoint, tmp_path, capsys, caplog
):
    output, report = tmp_path / "out.mp4", tmp_path / "report.json"
    options = ("--checkpoint", checkpoint, "--first-stage", dblrnet_checkpoint)
    code, said = run(capsys, "run", clip, "-o", output, "--json", report, *options)
    assert code == 0, said
    reason = json.loads(report.read_text())["first_stage_not_trusted"]
    assert "test picture" in reason
    assert f"dblrnet.safetensors was not trusted: {reason}" in caplog.text


def test_a_batch_says_so_before_it_starts(
    clip, checkpoint, dblrnet_checkpoint, tmp_path, capsys, caplog, monkeypatch
):
    @contextmanager
    def no_cluster(address):
        yield
        raise ValueError("no cluster")

    def started(*arguments):
        raise ValueError("the pool begins")

    monkeypatch.setattr("video_deblur.jobs.ray_pool.connected", no_cluster)
    monkeypatch.setattr("video_deblur.jobs.ray_pool.RayPool", started)
    options = ("--checkpoint", checkpoint, "--first-stage", dblrnet_checkpoint)
    said = refused(capsys, "batch", clip, "-o", tmp_path / "out", *options)
    assert "the pool begins" in said
    assert "dblrnet.safetensors was not trusted" in caplog.text
