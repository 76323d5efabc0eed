from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest
from video_deblur.video.timestamps import JoinedClock, SteadyStamps

TRANSPORT, OTHER = 0x200, 0


def packet(dts, *, pts=None, duration=10, index=0, kind="audio", time_base=Fraction(1, 100)):
    return SimpleNamespace(
        dts=dts,
        pts=dts if pts is None else pts,
        duration=duration,
        time_base=time_base,
        stream=SimpleNamespace(index=index, type=kind),
    )


def clock(flags=TRANSPORT, start=0, starts=(), name="mpegts"):
    streams = [SimpleNamespace(start_time=t, time_base=Fraction(1, 100)) for t in starts]
    return JoinedClock(
        SimpleNamespace(
            format=SimpleNamespace(flags=flags, name=name),
            start_time=10_000 * start,
            streams=SimpleNamespace(video=streams),
        )
    )


def corrected(packets, flags=TRANSPORT, start=0, starts=(), name="mpegts"):
    time = clock(flags, start, starts, name)
    for each in packets:
        time.correct(each)
    return [each.dts for each in packets]


def steady(stamps, **options):
    stamps_of = SteadyStamps(Fraction(1, 100), options.pop("tick", Fraction(1, 100)), **options)
    ready = []
    for stamp in stamps:
        ready += stamps_of.push(stamp if isinstance(stamp, SimpleNamespace) else packet(stamp))
    ready += stamps_of.flush()
    return [each.dts for each in ready], stamps_of.num_repaired


def test_what_follows_a_jump_back_begins_where_the_rest_ends():
    assert corrected([packet(t) for t in (140, 150, 160, 140, 150)]) == [
        *(140, 150, 160),
        *(170, 180),
    ]


def test_gaps_and_other_formats_keep_their_stamps():
    assert corrected([packet(t) for t in (0, 10, 5000)]) == [0, 10, 5000]
    stamps = [140, 150, 40]
    assert corrected([packet(t) for t in stamps], OTHER, name="mov,mp4") == stamps


@pytest.mark.parametrize("name", ["flv", "matroska,webm", "asf"])
def test_where_clocks_should_go_on_only_a_jump_far_back_is_a_new_one(name):
    film = {"flags": OTHER, "name": name}
    assert corrected([packet(t) for t in (140, 150, 160, 40, 50)], **film) == [
        *(140, 150, 160),
        *(170, 180),
    ]
    for stamps in ([140, 150, 70, 80], [0, 10, 50000, 50010], [3600, 10, 20, 30]):
        assert corrected([packet(t) for t in stamps], **film) == stamps
    # Of one picture a second, in the order of decoding, the first without its time.
    pictures = [packet(None, pts=t, kind="video") for t in (0, 800, 400, 200)]
    pictures += [packet(0, pts=100, kind="video"), packet(100, pts=300, kind="video")]
    assert corrected(pictures, **film) == [None, None, None, None, 0, 100]
    assert [each.pts for each in pictures] == [0, 800, 400, 200, 100, 300]


def test_a_transport_stream_begins_with_its_earliest_stream():
    film = {"start": 140, "starts": [142]}
    assert corrected([packet(t) for t in (140, 150)], **film) == [0, 10]
    assert corrected([packet(t) for t in (142, 152)], **film) == [2, 12]
    assert corrected([packet(t) for t in (142, 152)], OTHER, **film) == [142, 152]


@pytest.mark.parametrize("flags", [TRANSPORT, OTHER])
def test_pictures_before_zero_begin_at_zero(flags):
    assert corrected([packet(t) for t in (-50, -40)], flags, start=-53, starts=[-50]) == [0, 10]


def test_sound_may_begin_before_zero_where_pictures_do_not():
    assert corrected([packet(t) for t in (-2, 8)], OTHER, start=-2, starts=[0]) == [-2, 8]


def test_a_clock_far_ahead_goes_on_where_the_rest_ends():
    stamps = [*(140, 150), *(954_310_000, 954_310_010)]
    assert corrected([packet(t) for t in stamps]) == [140, 150, 160, 170]
    sound = {"index": 1}
    film = [packet(0), packet(10), packet(7000, **sound), packet(7010, **sound), packet(7010)]
    assert corrected(film) == [0, 10, 7000, 7010, 7010]


def test_stamps_that_libav_could_not_add_to_are_dropped():
    film = [packet(2**62), packet(10)]
    assert corrected(film) == [None, 10]


def test_all_streams_move_by_the_same_time_from_their_own_jump_on():
    video = {"kind": "video", "duration": 40}
    sound = {"index": 1, "duration": 20}
    packets = [
        *(packet(100, **video), packet(140, **video), packet(100, **sound)),
        # The next part of the pictures comes before the last sound of the first part.
        *(packet(100, **video), packet(120, **sound), packet(140, **sound)),
        *(packet(98, **sound), packet(140, **video), packet(118, **sound)),
    ]
    assert corrected(packets) == [100, 140, 100, 180, 120, 140, 178, 220, 198]


@pytest.mark.parametrize("stray", [90000, -90000])
def test_a_single_wrong_stamp_moves_nothing_else(stray):
    stamps = corrected([packet(t) for t in (200, 210, stray, 230, 240)])
    assert stamps[:2] + stamps[3:] == [200, 210, 230, 240]


def test_stamps_go_forward_by_the_smallest_step():
    assert steady([0, 10, 10, 30]) == ([0, 10, 11, 30], 1)
    assert steady([0, 10, 20, 5, 15, 40]) == ([0, 10, 20, 21, 22, 40], 2)
    assert steady([0, 10, 20, 30]) == ([0, 10, 20, 30], 0)


def test_one_stamp_far_ahead_takes_nothing_with_it():
    assert steady([0, 10, 9000, 30, 40]) == ([0, 10, 20, 30, 40], 1)


def test_what_takes_a_stamp_twice_keeps_it():
    assert steady([0, 0, 10], tick=None, sparse=True) == ([0, 0, 10], 0)


def test_stamps_of_decoding_are_counted_back_from_the_first():
    film = [packet(None, pts=0), packet(None, pts=40), packet(0, pts=20), packet(10, pts=10)]
    assert steady(film, reordered=True) == ([-20, -10, 0, 10], 0)
    assert [each.pts for each in film] == [0, 40, 20, 10]
