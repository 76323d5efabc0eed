from __future__ import annotations

import numpy as np
import pytest
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import footage
from video_deblur.restoration.streaming.footage import FRAMES_BACK, survey, survey_clip

SHARP, BLURRY = 0.1, 0.9


@pytest.fixture
def frames(monkeypatch):
    """Make frames whose blur and cuts are known: `x` blurry, `.` sharp, `|` a cut."""

    def make(pattern: str) -> np.ndarray:
        shades, shade = [], 0.0
        for mark in pattern:
            if mark == "|":
                shade = 1.0 - shade
            else:
                shades.append(shade + (0.02 if mark == "x" else 0.0) * (1 - 2 * shade))
        levels = np.array(shades, np.float32)[:, None, None, None]
        return np.broadcast_to(levels, (len(shades), 40, 40, 3)).copy()

    def blur(frame):
        return BLURRY if 0.01 < frame[0, 0, 0] < 0.99 else SHARP

    monkeypatch.setattr(footage, "measure_blur", blur)
    return make


SKIP = RestorationSettings(skip_sharp=True)


def shares(pattern, settings=SKIP):
    return survey_clip(pattern, settings)[1]


def test_sharp_frames_get_nothing_and_the_way_there_is_smooth(frames):
    assert shares(frames("......x.....")) == [
        0,
        0,
        0,
        0.25,
        0.5,
        0.75,
        1,
        0.75,
        0.5,
        0.25,
        0,
        0,
    ]
    assert shares(frames("xxx")) == [1, 1, 1]
    assert shares(frames("....")) == [0, 0, 0, 0]


def test_a_fade_ends_at_a_cut(frames):
    assert shares(frames("..x|....")) == [0.5, 0.75, 1, 0, 0, 0, 0]
    assert shares(frames("....|x..")) == [0, 0, 0, 0, 1, 0.75, 0.5]


def test_without_the_option_every_frame_is_restored(frames):
    assert shares(frames("..x.."), RestorationSettings()) == [1] * 5


def test_cuts_are_found_unless_switched_off(frames):
    assert survey_clip(frames("xx|xxx"), RestorationSettings())[0] == (2,)
    assert survey_clip(frames("xx|xxx"), RestorationSettings(scene_cuts=False))[0] == ()


def test_blur_is_measured_when_asked_for(frames):
    clip = frames("x.")
    assert [f.blur for f in survey(clip, RestorationSettings(), measure=True)] == [
        BLURRY,
        SHARP,
    ]
    assert [f.blur for f in survey(clip, RestorationSettings())] == [None, None]
    assert [f.blur for f in survey(clip, SKIP)] == [BLURRY, SHARP]


def test_answers_do_not_depend_on_where_reading_began(frames):
    clip = frames("..x....|.x...xx|.|x....|....x..")
    whole = list(survey(clip, SKIP))
    for start in range(len(clip) - FRAMES_BACK):
        later = list(survey(clip[start:], SKIP))[FRAMES_BACK:]
        expected = whole[start + FRAMES_BACK :]
        assert [(f.starts_shot, f.share) for f in later] == [
            (f.starts_shot, f.share) for f in expected
        ]


def test_frames_come_out_in_order_and_not_late(frames):
    clip = frames("x" * 12)
    read = 0

    def source():
        nonlocal read
        for frame in clip:
            read += 1
            yield frame

    for index, frame in enumerate(survey(source(), SKIP)):
        assert np.shares_memory(frame.pixels, clip[index])
        assert read <= index + 5
