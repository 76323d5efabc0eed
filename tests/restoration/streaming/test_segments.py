from __future__ import annotations

from itertools import pairwise

import pytest
from video_deblur.restoration.borrowing.passes import REACH
from video_deblur.restoration.denoising.windows import shots, split
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import segments
from video_deblur.restoration.streaming.segments import plan_segments, segment_grid


@pytest.fixture(autouse=True)
def _short_segments(monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("cuts", [(), (1,), (30, 31, 77), (5, 40, 199)])
@pytest.mark.parametrize("num_frames", [1, 7, 33, 200])
@pytest.mark.parametrize(("window", "overlap"), [(8, 4), (7, 3), (5, 0)])
def test_a_plan_covers_the_clip_and_stays_inside_shots(
    steps, cuts, num_frames, window, overlap
):
    settings = RestorationSettings(window=window, overlap=overlap, steps=steps)
    plan = plan_segments(num_frames, segment_grid(settings, 16, 24), cuts)
    assert plan[0].start == 0
    assert plan[-1].stop == num_frames
    assert all(one.stop == two.start for one, two in pairwise(plan))
    for segment in plan:
        assert segment.context_start <= segment.start < segment.stop <= segment.context_stop
        (shot,) = [s for s in shots(num_frames, cuts) if s[0] <= segment.start < s[1]]
        assert shot[0] <= segment.context_start
        assert segment.context_stop <= shot[1]


@pytest.mark.parametrize("borrow", [False, True])
@pytest.mark.parametrize(("window", "overlap"), [(8, 4), (7, 2), (2, 1)])
def test_with_one_step_the_windows_of_restored_frames_are_those_of_the_shot(
    window, overlap, borrow
):
    settings = RestorationSettings(window=window, overlap=overlap, steps=1, borrow=borrow)
    reach = REACH if borrow else 0
    for num_frames in range(1, 90):
        whole = split(num_frames, window, overlap)
        grid = segment_grid(settings, 16, 24)
        for segment in plan_segments(num_frames, grid):
            first = segment.context_start
            length = segment.context_stop - first
            own = {(first + a, first + b) for a, b in split(length, window, overlap)}
            start = max(0, segment.start - reach)
            stop = min(num_frames, segment.stop + reach)
            assert grid.restored(segment) == (start, stop)
            needed = {w for w in whole if w[0] < stop and w[1] > start}
            assert needed <= own


def test_segments_of_large_frames_are_short_and_of_small_frames_bounded(monkeypatch):
    monkeypatch.undo()
    settings = RestorationSettings()
    lengths = [
        segment_grid(settings, *size).length for size in ((2160, 3840), (1080, 1920), (64, 96))
    ]
    assert lengths == [48, 48, 64]
    assert segment_grid(RestorationSettings(steps=50), 64, 96).length == 192


def test_a_clip_of_no_frames_has_no_segments():
    assert plan_segments(0, segment_grid(RestorationSettings(), 16, 24)) == []
