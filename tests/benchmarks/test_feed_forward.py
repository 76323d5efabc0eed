from __future__ import annotations

import json

import cv2
import numpy as np
import torch
from video_deblur.benchmarks import feed_forward
from video_deblur.models.checkpoint import read_info
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.training.presets import PRESETS

SMALL = DblrNetConfig(channels=8, num_units=2, head_channels=16, input_skip=True)


def training():
    torch.manual_seed(0)
    network = DblrNet(SMALL)
    stage = PRESETS["tiny-further"].joint
    return feed_forward.FeedForwardTraining(network, stage)


def test_a_network_that_copies_gains_nothing():
    blurry, sharp = torch.rand(2, 2, 5, 16, 16), torch.rand(2, 2, 16, 16)
    values = training()(blurry, sharp, 0.5)
    assert values["loss"].shape == (2,)
    torch.testing.assert_close(values["gain_db"], torch.zeros(2), atol=1e-4, rtol=0)


def test_a_network_that_restores_gains_decibels():
    blurry = torch.rand(1, 2, 5, 16, 16)
    sharp = blurry[:, :, 2] + 0.1
    module = training()
    torch.nn.init.constant_(module.network.head3.bias, 0.09)
    # The error falls to a tenth: 20 dB, less what the floor of the loss hides.
    assert 15 < float(module(blurry, sharp, 1.0)["gain_db"]) < 20


def test_windows_hold_neighbouring_frames_and_their_middle():
    frames = torch.arange(8.0)[None, :, None, None].expand(3, 8, 2, 2)
    blurry, sharp = feed_forward._windows(frames, frames + 100, step=4)
    assert blurry.shape == (3, 2, 5, 2, 2)
    first = blurry[:, :, :1]
    assert torch.equal(blurry, first + torch.arange(5.0)[:, None, None])
    assert torch.equal(sharp, blurry[:, :, 2] + 100)
    again = feed_forward._windows(frames, frames + 100, step=4)
    assert torch.equal(blurry, again[0])


def test_it_trains_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feed_forward, "_CONFIG", SMALL)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (104, 112, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), pixels)
    arguments = ["--data", f"synthetic:{tmp_path}", "--steps", "2", "--device", "cpu"]
    arguments += ["--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["feed_forward", *arguments])
    feed_forward.main()
    assert "2/2" in capsys.readouterr().out
    checkpoint = tmp_path / "run/checkpoint.safetensors"
    trained = checkpoint.read_bytes()
    checkpoint.unlink()
    feed_forward.main()
    assert checkpoint.read_bytes() == trained
    line = json.loads((tmp_path / "run/dblrnet.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(line["loss"])
    info = read_info(checkpoint)
    assert info.config == SMALL
    assert info.provenance["steps"] == 2
