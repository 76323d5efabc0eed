from __future__ import annotations

import pytest
import torch
from video_deblur.restoration.coring import LEVEL, cored


def flat(value: float, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.full((height, width, 3), value)


@pytest.mark.parametrize(("levels", "kept"), [(0, 0), (1, 0.5), (3, 0.9), (20, 0.9975)])
def test_a_change_counts_by_its_size(levels, kept):
    changed = cored(flat(0.4 + levels * LEVEL), flat(0.4))
    torch.testing.assert_close(changed, flat(0.4 + kept * levels * LEVEL))


def test_a_large_change_counts_where_it_is():
    frame, restored = flat(0.4), flat(0.4 + 0.5 * LEVEL)
    restored[:, :10] += 30 * LEVEL
    change = (cored(restored, frame) - frame) / LEVEL
    assert change[:, :5].min() > 30
    assert change[:, 16:].max() < 0.15


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 40)])
def test_frames_may_be_smaller_than_the_square(size):
    changed = cored(flat(0.6, *size), flat(0.4, *size))
    assert changed.shape == (*size, 3)
    assert changed.isfinite().all()
    assert changed.min() > 0.59
