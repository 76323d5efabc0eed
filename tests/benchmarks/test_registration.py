"""Ways to find motion: each finds a known one."""

from __future__ import annotations

import numpy as np
import pytest
from video_deblur.benchmarks.registration import WAYS

from ..restoration.borrowing.test_passes import texture


@pytest.mark.parametrize("way", WAYS)
def test_motion_leads_from_the_first_picture_to_the_second(way):
    """`second` shows what `first` does, 3 pixels further right and 2 further down."""
    wide = (texture(seed=5, size=(180, 220))[..., 1] * 255).astype(np.uint8)
    first, second = wide[20:148, 20:180], wide[18:146, 17:177]
    flow = WAYS[way](np.ascontiguousarray(first), np.ascontiguousarray(second))
    assert flow.shape == (128, 160, 2)
    assert flow.dtype == np.float32
    inner = flow[24:-24, 24:-24].reshape(-1, 2)
    assert np.abs(np.median(inner, axis=0) - (3, 2)).max() < 0.1
    assert (np.abs(inner - (3, 2)).max(axis=1) < 0.5).mean() > 0.9
