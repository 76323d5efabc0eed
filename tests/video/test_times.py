"""Times of frames out are the times of frames in, whatever the containers."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

from .footage import MKV_PRIMING_S, write_film

MICROSECOND = Fraction(1, 1_000_000)


def read(source):
    with VideoReader(source) as reader:
        return reader.info, list(reader)


def copy(source, target, **changes):
    reader = VideoReader(source)
    with reader, VideoWriter.like(target, reader.info, audio_from=source, **changes) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.pts, frame.duration)


def times(source):
    info, frames = read(source)
    return [frame.pts * info.time_base for frame in frames]


BURSTS = [0, 200, 80_000, 120_000, 160_000, 160_200, 160_300, 160_400, 200_000, 240_001]
"""Microseconds."""


@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_frames_closer_than_a_millisecond_keep_their_order_in_mkv(
    make_clip, tmp_path, caplog, codec
):
    source = make_clip(pts=BURSTS, time_base=MICROSECOND, options={"bf": "0"})
    copy(source, tmp_path / "out.mkv", codec=codec)
    expected = [0, 1, 80, 120, 160, 161, 162, 163, 200, 240]
    assert times(tmp_path / "out.mkv") == [Fraction(t, 1000) for t in expected]
    (message,) = caplog.messages
    assert "out.mkv: 4 frames lie closer than the milliseconds" in message
    assert "up to 2.6 ms late" in message


def test_mp4_keeps_microseconds(make_clip, tmp_path, caplog):
    source = make_clip(pts=BURSTS, time_base=MICROSECOND, options={"bf": "0"})
    copy(source, tmp_path / "out.mp4")
    assert times(tmp_path / "out.mp4") == [t * MICROSECOND for t in BURSTS]
    assert caplog.messages == []


def test_the_rate_of_a_variable_clip_is_its_average(make_clip, tmp_path):
    source = make_clip(pts=BURSTS, time_base=MICROSECOND, options={"bf": "0"})
    for name in ("out.mp4", "out.mkv"):
        copy(source, tmp_path / name)
        info, frames = read(tmp_path / name)
        assert len(frames) == len(BURSTS)
        assert 25 < info.average_rate < 60


def remux(source, target, *, shift=Fraction(0), options=None):
    """Copy the packets of all streams, moved by seconds, into another container."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        copies = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            ticks = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = copies[packet.stream.index]
            new.mux(packet)
    return target


def last_sound(path):
    """Return the seconds at which the last packet of sound begins."""
    with av.open(str(path)) as container:
        return max(p.pts * p.time_base for p in container.demux(audio=0) if p.size)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.skipif(
    int(av.__version__.split(".")[0]) < 15, reason="this PyAV copies H.264 without its headers"
)
def test_what_an_edit_list_cuts_away_stays_away(tmp_path, suffix):
    whole = write_film(tmp_path / "whole.mp4", num_frames=40)
    source = remux(whole, tmp_path / "cut.mp4", shift=Fraction(-12, 25))
    before, frames = read(source)
    _, uncut = read(whole)
    assert len(frames) == before.num_frames == 28
    np.testing.assert_array_equal(frames[0].pixels, uncut[-len(frames)].pixels)
    assert frames[0].pts == 0
    target = tmp_path / f"out.{suffix}"
    copy(source, target, crf=0)
    info, copied = read(target)
    start = copied[0].pts * info.time_base
    # The packet of sound that reaches across the cut.
    assert start == 0 if suffix == "mp4" else 0 <= start < 0.025
    in_times = [f.pts * before.time_base for f in frames]
    assert times(target) == pytest.approx([t + start for t in in_times], abs=0.00051)
    assert last_sound(target) - start == pytest.approx(float(last_sound(source)), abs=0.002)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("offset", ["0", "3600", "95443.2", "95430"])
def test_a_transport_stream_may_count_from_any_time(tmp_path, suffix, offset):
    """Its clock of 33 bits starts anew after 95443.7 s; libav counts back from there."""
    plain = write_film(tmp_path / "plain.mp4", num_frames=40)
    source = remux(plain, tmp_path / "clip.ts", options={"output_ts_offset": offset})
    with av.open(str(source)) as container:
        assert (container.start_time < 0) == offset.startswith("954")
    copy(source, tmp_path / f"out.{suffix}")
    expected = times(plain)
    for path in (source, tmp_path / f"out.{suffix}"):
        found = times(path)
        assert 0 <= found[0] < 0.05
        assert found == pytest.approx([t + found[0] - expected[0] for t in expected], abs=6e-4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_time_goes_on_where_transport_streams_are_joined(make_clip, tmp_path, suffix):
    one = make_clip("one.ts", num_frames=20, options={"bf": "2"})
    path = tmp_path / "two.ts"
    path.write_bytes(one.read_bytes() * 2)
    copy(path, tmp_path / f"out.{suffix}")
    expected = [Fraction(1001 * i, 30000) for i in range(40)]
    assert times(path) == pytest.approx(expected, abs=0.0001)
    assert times(tmp_path / f"out.{suffix}") == pytest.approx(expected, abs=0.0006)


def test_stamps_that_do_not_go_forward_follow_at_the_average_rate(make_clip, tmp_path):
    one = make_clip("one.ts", num_frames=10, options={"bf": "0"})
    # Back by less than what counts as a new clock.
    other = make_clip(
        "other.ts",
        num_frames=10,
        options={"bf": "0"},
        container_options={"output_ts_offset": "0.27"},
    )
    path = tmp_path / "both.ts"
    path.write_bytes(one.read_bytes() + other.read_bytes())
    expected = [Fraction(1001 * i, 30000) for i in range(20)]
    assert times(path) == pytest.approx(expected, abs=0.0001)


def test_sound_that_primes_its_codec_stays_in_time_in_mkv(tmp_path):
    source = write_film(tmp_path / "clip.mp4")
    copy(source, tmp_path / "out.mkv")
    late = times(tmp_path / "out.mkv")[0]
    assert late == pytest.approx(MKV_PRIMING_S, abs=0.001)
    assert times(tmp_path / "out.mkv") == [t + late for t in times(source)]
    assert last_sound(tmp_path / "out.mkv") - late == pytest.approx(
        float(last_sound(source)), abs=0.002
    )
