"""Pictures of two clips against each other."""

from __future__ import annotations

import numpy as np
import pytest
from video_deblur.evaluation.comparison import VIEWS, View, largest_changes

PLAIN = View(labels=False)


@pytest.fixture
def frames():
    random = np.random.default_rng(0)
    return random.random((2, 96, 150, 3), np.float32)


def test_split_holds_both_frames_unchanged(frames):
    before, after = frames
    picture = VIEWS["split"](before, after, PLAIN)
    assert np.array_equal(picture[:, :150], before)
    assert np.array_equal(picture[:, -150:], after)
    assert (picture[:, 150:-150] == 1).all()
    assert picture.shape[1] > 300


@pytest.mark.parametrize("position", [0.0, 0.3, 1.0])
def test_wipe_changes_at_its_position(frames, position):
    before, after = frames
    picture = VIEWS["wipe"](before, after, View(position=position, labels=False))
    edge = round(150 * position)
    assert picture.shape == before.shape
    assert np.array_equal(picture[:, : max(edge - 1, 0)], before[:, : max(edge - 1, 0)])
    assert np.array_equal(picture[:, edge + 1 :], after[:, edge + 1 :])
    line = (picture == 1).all(axis=(0, 2))
    assert line.any() == (0 < position < 1)


def test_difference_is_eight_times_what_changed(frames):
    before = 0.5 * frames[0]
    after = before.copy()
    after[10, 20, 1] += 0.05
    after[30, 40, 2] += 0.4
    picture = VIEWS["difference"](before, after, PLAIN)
    assert picture[10, 20, 1] == pytest.approx(0.4, abs=1e-5)
    assert picture[30, 40, 2] == 1
    assert np.count_nonzero(picture) == 2


def test_crops_show_where_most_has_changed():
    before = np.zeros((240, 480, 3), np.float32)
    after = before.copy()
    after[200:210, 30:40] = 0.9
    after[20:24, 400:404] = 0.5
    places = largest_changes(np.square(after - before).sum(-1))
    assert len(places) == 3
    (top, left), (second_top, second_left), _ = places
    assert top <= 200 < 210 <= top + 96
    assert left <= 30 < 40 <= left + 96
    assert second_top <= 20 < 24 <= second_top + 96
    assert second_left <= 400 < 404 <= second_left + 96
    picture = VIEWS["crops"](before, after, View(labels=False, places=places))
    assert picture.dtype == np.float32
    upper, lower = picture[: 2 * 96], picture[-2 * 96 :]
    assert upper[:, : 2 * 96].max() == 0
    assert (lower[:, : 2 * 96, 0] > 0.8).sum() == 4 * 100


def test_small_frames_have_one_crop():
    assert largest_changes(np.ones((20, 30))) == ((0, 0),)


@pytest.mark.parametrize("view", list(VIEWS))
def test_labels_stand_in_a_bar_above(frames, view):
    places = largest_changes(np.square(frames[1] - frames[0]).sum(-1))
    plain = VIEWS[view](*frames, View(labels=False, places=places))
    labelled = VIEWS[view](*frames, View(places=places))
    assert labelled.shape[0] > plain.shape[0]
    assert labelled.shape[1:] == plain.shape[1:]
    bar = labelled[:20]
    assert bar.min() == 0
    assert bar.max() == 1
    if view != "crops":
        assert np.array_equal(labelled[20:], plain)


def test_labels_that_do_not_fit_are_left_out():
    tiny = np.zeros((16, 16, 3), np.float32)
    assert VIEWS["difference"](tiny, tiny, View()).max() == 0


@pytest.mark.parametrize("view", list(VIEWS))
def test_even_frames_give_even_pictures(view):
    frame = np.zeros((540, 962, 3), np.float32)
    picture = VIEWS[view](frame, frame, View(places=((0, 0), (0, 200))))
    assert [side % 2 for side in picture.shape[:2]] == [0, 0]
