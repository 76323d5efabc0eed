"""An engine that takes no time, and parts of few frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from video_deblur.jobs import parts
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.streaming import segments

from .footage import pictures, write_clip


@pytest.fixture
def deblurrer(small_model, monkeypatch) -> Deblurrer:
    """An engine whose network takes no time: a little of the noise stays."""
    engine = Deblurrer(small_model)
    monkeypatch.setattr(engine, "predict", lambda x, condition, *_: condition + 0.1 * x)
    return engine


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    monkeypatch.setattr(parts, "PART_FRAMES", 8)


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", pictures())
