"""Time by stage: each its own alone, also where one asks another for its input."""

from __future__ import annotations

import pytest
import torch
from video_deblur.benchmarks import stage_clock
from video_deblur.benchmarks.stage_clock import StageClock


@pytest.fixture(autouse=True)
def time(clock, monkeypatch):
    monkeypatch.setattr(stage_clock, "time", clock)
    return clock


def test_a_stage_that_waits_for_another_does_not_count_its_time(time):
    clock = StageClock(torch.device("cpu"))

    def decode(count):
        for index in range(count):
            time.sleep(0.03)
            yield index

    def fuse(items):
        for item in items:
            time.sleep(0.01)
            yield 10 * item

    decoded = clock.of_items("decoding", decode)
    fused = clock.of_items("borrowing", fuse)
    assert list(fused(decoded(4))) == [0, 10, 20, 30]
    assert clock.seconds["decoding"] == pytest.approx(0.12)
    assert clock.seconds["borrowing"] == pytest.approx(0.04)


def test_what_a_call_raises_passes_and_its_time_counts(time):
    clock = StageClock(torch.device("cpu"))

    def fail():
        time.sleep(0.02)
        raise OSError("full")

    with clock.running("outer"):
        time.sleep(0.01)
        with pytest.raises(OSError, match="full"):
            clock.of_calls("inner", fail)()
    assert clock.seconds["inner"] == pytest.approx(0.02)
    assert clock.seconds["outer"] == pytest.approx(0.01)
