from __future__ import annotations

import torch
from video_deblur.benchmarks import feed_forward_speed
from video_deblur.models.dblrnet import DblrNetConfig

SMALL = DblrNetConfig(channels=8, num_units=1, head_channels=8)


def test_both_ways_are_timed_and_give_the_same():
    engine = feed_forward_speed.make_engine(SMALL)
    frames = torch.rand(4, 24, 32, 3)
    (alone, together), difference = feed_forward_speed.compare(engine, frames, 1)
    assert alone > 0
    assert together > 0
    assert difference < 1e-5
    shares = feed_forward_speed.time_parts(engine, frames)
    assert list(shares) == ["first convolutions", "residual units", "last convolutions"]
    assert all(value > 0 for value in shares.values())


def test_the_command_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr(feed_forward_speed, "DblrNetConfig", lambda: SMALL)
    arguments = ["--sizes", "32x24", "--frames", "3", "--runs", "1", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["feed_forward_speed", *arguments])
    feed_forward_speed.main()
    out = capsys.readouterr().out
    assert "| 32x24 | 16 |" in out
    assert "| residual units |" in out
