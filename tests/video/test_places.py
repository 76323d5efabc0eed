from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import pytest
from video_deblur.video.places import Places

TICK = Fraction(1, 100)


def packet(pts, *, key=False, corrupt=False, duration=0):
    return SimpleNamespace(
        pts=pts,
        dts=pts,
        duration=duration,
        is_keyframe=key,
        is_discard=False,
        is_corrupt=corrupt,
    )


def frame(pts):
    picture = av.VideoFrame(16, 16, "gray")
    picture.pts, picture.time_base = pts, TICK
    return picture


def shown(events: list[tuple[str, Any]], *, from_dts=False, may_reorder=True):
    """Play packets ("+"), errors ("!") and decoded pictures ("=") to `Places`."""
    places = Places(TICK, Fraction(25), from_dts=from_dts, may_reorder=may_reorder)
    pictures = []
    packets = {}
    for kind, pts in events:
        if kind in "+k":
            packets[pts] = packet(pts, key=kind == "k")
            places.expect(packets[pts])
        elif kind == "!":
            places.lose(packets[pts])
        else:
            pictures += places.place(frame(pts))
    pictures += places.flush()
    pictures += places.repeats_at_end()
    return [(p.pts, p.frame.pts, p.is_repeat) for p in pictures]


def test_after_a_lost_key_frame_everything_is_put_in_order():
    events = [("k", 0), ("=", 0), ("+", 1), ("=", 1), ("k", 2), ("!", 2)]
    events += [("+", 5), ("+", 3), ("+", 4), ("=", 5), ("=", 3), ("k", 6), ("=", 6)]
    assert shown(events) == [
        *((0, 0, False), (1, 1, False), (2, 1, True), (3, 3, False)),
        # The decoder gave up 4 without an error.
        *((4, 3, True), (5, 5, False), (6, 6, False)),
    ]


def test_packets_without_a_picture_of_their_own_are_not_lost():
    fields = [("k", 0), ("+", 1), ("=", 0), ("+", 2), ("+", 3), ("=", 2), ("+", 4), ("!", 4)]
    fields += [("+", 5), ("+", 6), ("+", 7), ("=", 6)]
    assert shown(fields) == [(0, 0, False), (2, 2, False), (4, 2, True), (6, 6, False)]


def test_nothing_is_missing_before_the_first_key_frame():
    events = [("+", 0), ("!", 0), ("+", 1), ("!", 1), ("k", 4), ("+", 2), ("!", 2), ("=", 4)]
    assert shown(events) == [(4, 4, False)]


@pytest.mark.parametrize("from_dts", [False, True])
def test_the_last_picture_stands_for_those_after_it(from_dts):
    events = [("k", 0), ("=", 0), ("+", 1), ("!", 1), ("+", 2), ("!", 2)]
    assert shown(events, from_dts=from_dts) == [(0, 0, False), (1, 0, True), (2, 0, True)]


def test_the_order_of_decoding_gives_its_times_to_the_order_of_display():
    events = [("k", 0), ("+", 1), ("+", 2), ("=", 0), ("+", 3), ("=", 2), ("+", 4), ("=", 1)]
    events += [("=", 4), ("=", 3)]
    assert shown(events, from_dts=True, may_reorder=False) == [
        (pts, tag, False) for pts, tag in enumerate([0, 2, 1, 4, 3])
    ]


def test_pictures_without_a_stamp_keep_their_number():
    places = Places(TICK, Fraction(25), from_dts=False, may_reorder=True)
    places.expect(packet(None, key=True))
    pictures = list(places.place(frame(None)))
    places.expect(packet(None))
    places.lose(packet(None))
    places.expect(packet(None))
    pictures += places.place(frame(None))
    assert [(p.pts, p.is_repeat) for p in pictures] == [
        (None, False),
        (None, True),
        (None, False),
    ]


@pytest.mark.parametrize(
    ("corrupt", "stamps", "expected"),
    [
        (True, [0, 4, 16, 20], [0, 4, 8, 12, 16, 20]),
        (False, [0, 4, 16, 20], [0, 4, 16, 20]),
        (True, [0, 4, 14, 18], [0, 4, 14, 18]),
    ],
)
def test_a_gap_of_whole_frames_beside_damage_is_filled(corrupt, stamps, expected):
    places = Places(TICK, Fraction(25), from_dts=False, may_reorder=True)
    pictures = []
    for pts in stamps:
        places.expect(packet(pts, key=pts == 0, corrupt=corrupt and pts == 4, duration=4))
        pictures += places.place(frame(pts))
    assert [p.pts for p in [*pictures, *places.flush()]] == expected
    assert [p.pts for p in pictures if p.is_repeat] == [t for t in expected if t not in stamps]
