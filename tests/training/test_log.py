from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from video_deblur.training import log
from video_deblur.training.log import _Stopwatch


def test_on_a_cpu_the_time_of_blocks_adds_up(clock, monkeypatch):
    monkeypatch.setattr(log, "time", clock)
    watch = _Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.running():
            clock.sleep(0.05)
    clock.sleep(0.05)
    assert watch.read() == pytest.approx(0.1)
    assert watch.read() == 0


def test_cuda_is_asked_for_its_own_times_and_only_when_they_are_read(monkeypatch):
    """The device is busy until second 10; then each block takes it 2 s."""
    work = SimpleNamespace(done_at=10.0, waits=0)

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = work.done_at

        def synchronize(self):
            work.waits += 1

        def elapsed_time(self, end):
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(log.torch.cuda, "Event", Event)
    watch = _Stopwatch(torch.device("cuda"))
    for _ in range(3):
        with watch.running():
            work.done_at += 2
        work.done_at += 5
    assert work.waits == 0
    assert watch.read() == 6
    assert work.waits == 3
    assert watch.read() == 0


def test_other_devices_are_waited_for(monkeypatch):
    waits = []
    monkeypatch.setattr(log.torch.mps, "synchronize", lambda: waits.append(1))
    with _Stopwatch(torch.device("mps")).running():
        assert waits == [1]
    assert waits == [1, 1]
