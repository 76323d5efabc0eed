from __future__ import annotations

import sys

import pytest
from video_deblur.benchmarks import deformable_convolution


def test_both_ways_are_timed_on_the_same_work(monkeypatch, capsys):
    pytest.importorskip("torchvision")
    arguments = [
        "benchmark",
        "--channels",
        "8",
        "--groups",
        "2",
        "--size",
        "8",
        "--maps",
        "1",
        "--runs",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    deformable_convolution.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["ours", "torchvision"]
