from __future__ import annotations

from video_deblur.benchmarks.cpgd_updates import update_times
from video_deblur.training.config import DataConfig


def test_every_stage_is_timed():
    clips = DataConfig(num_frames=2, crop=32, clips_per_batch=1)
    times = update_times(1, clips)
    assert list(times) == ["priors", "cpfp", "cpc", "cpc, branch alone"]
    assert min(times.values()) > 0
