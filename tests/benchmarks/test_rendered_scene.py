"""The rendered clip smears where and when it should, and the figures know where that is."""

from __future__ import annotations

import numpy as np
import pytest
from video_deblur.benchmarks.rendered_scene import KINDS, measure, smeared_clip
from video_deblur.evaluation.fidelity import psnr

SIZE = (64, 96)


@pytest.fixture(scope="module")
def clips():
    return {kind: smeared_clip(kind, 9, SIZE, seed=1) for kind in KINDS}


def distances(clip):
    return np.array([psnr(*pair, data_range=255) for pair in zip(*clip, strict=True)])


def test_a_clip_is_that_of_its_seed(clips):
    again = smeared_clip("gesture", 9, SIZE, seed=1)
    np.testing.assert_array_equal(again, clips["gesture"])
    assert (smeared_clip("gesture", 9, SIZE, seed=2)[1] != clips["gesture"][1]).any()


def test_a_gesture_smears_only_while_it_moves(clips):
    far = distances(clips["gesture"])
    assert (far[1:5] > 45).all()
    assert (far[6:9] < 34).all()


def test_steady_movement_smears_every_frame(clips):
    assert (distances(clips["steady"]) < 33).all()


def test_ghosts_are_the_mean_of_sharp_frames_without_its_own(clips):
    blurry, sharp = clips["ghosts"]
    np.testing.assert_array_equal(blurry[2], sharp[2])
    assert distances((blurry, sharp))[7] < 34


def test_the_figures_know_what_smeared_and_what_was_sharp(clips):
    blurry, sharp = clips["gesture"]
    seen = np.clip(blurry.astype(int) + 1, 0, 255).astype(np.uint8)
    figures = measure(blurry, seen, sharp, sharp)
    assert figures["sharp frames"] == (distances((blurry, sharp)) > 45).sum()
    assert figures["PSNR after"] == 99
    assert figures["PSNR before, smeared pixels"] < 25
    kept = measure(blurry, seen, blurry, sharp)["kept"]
    assert kept == pytest.approx(20 * np.log10(255))
    steady = clips["steady"][0]
    assert np.isnan(measure(steady, steady, steady, clips["steady"][1])["kept"])
