"""Times of frames out are the times of frames in, whatever the containers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

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
