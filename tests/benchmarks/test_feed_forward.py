from __future__ import annotations

import json
import shutil

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


def test_it_trains_restores_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feed_forward, "_CONFIG", SMALL)
    for folder in ("photos", "pairs/a/blur", "pairs/a/sharp"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(3):
            pixels = np.random.default_rng(index).integers(0, 256, (104, 112, 3), np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{index}.png"), pixels)
    arguments = ["--data", f"synthetic:{tmp_path}", "--test", f"pairs:{tmp_path / 'pairs'}"]
    arguments += ["--steps", "2", "--device", "cpu", "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["feed_forward", *arguments])
    feed_forward.main()
    assert "2/2" in capsys.readouterr().out
    folder = tmp_path / "run/restored/a"
    restored = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(restored) == ["0.png", "1.png", "2.png"]
    assert cv2.imread(str(folder / "0.png")).shape == (104, 112, 3)
    shutil.rmtree(folder)
    feed_forward.main()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == restored
    line = json.loads((tmp_path / "run/dblrnet.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(line["loss"])
    info = read_info(tmp_path / "run/checkpoint.safetensors")
    assert info.config == SMALL
    assert info.provenance["steps"] == 2


class Neighbours:
    """Shows which frames it was given: the sum of their first values."""

    num_frames = 5

    def restore_frame(self, around):
        return around.sum(0)


def test_frames_at_the_ends_are_repeated():
    frames = torch.tensor([0.0, 0.01, 0.02, 0.03])[:, None, None, None].expand(4, 2, 2, 3)
    restored = feed_forward.restore_clip(Neighbours(), frames)
    assert restored.shape == frames.shape
    expected = torch.tensor([0.03, 0.06, 0.09, 0.12])
    torch.testing.assert_close(restored[:, 0, 0, 0], expected)
