"""Which crops are picked, and the one scale of the error maps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from video_deblur.evaluation.crops import crop_size, error_legend, error_map, telling_crops


def test_crops_are_where_the_errors_are():
    sharp = np.full((3, 200, 260, 3), 100, np.uint8)
    blurry, restored = sharp.copy(), sharp.copy()
    blurry[1, 50:140, 130:220] += 40
    restored[1, 50:140, 130:220] += 10
    restored[2, 150:190, 10:50] += 20
    most_to_win, got_worst = telling_crops(blurry, restored, sharp)
    assert most_to_win.frame == 1
    assert most_to_win.size == 96
    assert most_to_win.top <= 50 <= 140 <= most_to_win.top + 96
    assert most_to_win.left <= 130 <= 220 <= most_to_win.left + 96
    share = 90 * 90 / 96**2
    assert most_to_win.before == pytest.approx(share * 40**2)
    assert most_to_win.after == pytest.approx(share * 10**2)
    assert got_worst.frame == 2
    assert got_worst.before == 0
    assert got_worst.after == pytest.approx(40 * 40 / 96**2 * 20**2)
    assert (got_worst.of(restored) != 100).any(axis=-1).sum() == 40 * 40


def test_where_nothing_got_worse_the_smallest_gain_is_picked():
    sharp = np.full((2, 100, 200, 3), 100, np.uint8)
    blurry, restored = sharp + np.uint8(20), sharp.copy()
    restored[1, :, 60:160] += 15
    _, worst = telling_crops(blurry, restored, sharp)
    assert worst.frame == 1
    assert worst.after == pytest.approx(15**2)
    assert worst.before == pytest.approx(20**2)


def test_crops_fit_into_small_frames_and_grow_with_large_ones():
    assert crop_size(64, 300) == 64
    assert crop_size(256, 384) == 96
    assert crop_size(720, 1280) == 160
    tiny = np.zeros((1, 20, 30, 3), np.uint8)
    crop, _ = telling_crops(tiny, tiny, tiny)
    assert crop.of(tiny).shape == (20, 20, 3)


def test_error_maps_share_one_scale():
    target = np.zeros((4, 6, 3), np.uint8)
    pred = target.copy()
    pred[0, 0] = 32
    pred[0, 1] = (96, 0, 0)
    pred[0, 2] = 64
    pred[0, 3] = 255
    colors = error_map(pred, target)
    inferno = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)
    inferno = inferno[0, :, ::-1]
    assert (colors[1:] == inferno[0]).all()
    assert (colors[0, 0] == colors[0, 1]).all()
    assert (colors[0, 0] == inferno[128]).all()
    assert (colors[0, 2] == inferno[255]).all()
    assert (colors[0, 3] == inferno[255]).all()
    legend = error_legend(width=256, height=2)
    assert (legend == inferno).all()
