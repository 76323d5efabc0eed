"""Files of which some packets are damaged: what else is in them must not be lost."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from video_deblur.video.reader import VideoReader
from video_deblur.video.source import VideoError


def read(source):
    with VideoReader(source) as reader:
        return list(reader)


def damage(path: Path, indices: list[int]) -> Path:
    """Overwrite the data of video packets, in the order of the file."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data, end = bytearray(path.read_bytes()), 0
    for index, packet in enumerate(packets):
        start = data.index(packet, end)
        end = start + len(packet)
        if index in indices:
            data[start:end] = b"\xff" * len(packet)
    damaged = path.with_name(f"damaged{path.suffix}")
    damaged.write_bytes(data)
    return damaged


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("lost", [13, 29])
def test_a_bad_packet_costs_one_frame(make_clip, caplog, suffix, lost):
    clean = make_clip(f"clip.{suffix}", num_frames=30, options={"bf": "0", "g": "10"})
    whole = read(clean)
    assert caplog.messages == []
    frames = read(damage(clean, [lost]))
    assert [f.pts for f in frames] == [f.pts for f in whole]
    assert [f.duration for f in frames] == [f.duration for f in whole]
    assert [i for i, f in enumerate(frames) if f.is_repeat] == [lost]
    np.testing.assert_array_equal(frames[lost].pixels, frames[lost - 1].pixels)
    for index in [*range(lost), *range(20, lost)]:
        np.testing.assert_array_equal(frames[index].pixels, whole[index].pixels)
    (message,) = caplog.messages
    assert f"damaged.{suffix}: 1 of 30 frames cannot be decoded" in message


def test_a_missing_first_frame_is_replaced_by_the_next(make_clip):
    clean = make_clip("clip.mkv", codec="mjpeg", pix_fmt="yuvj420p")
    whole = read(clean)
    frames = read(damage(clean, [0]))
    assert [f.pts for f in frames] == [f.pts for f in whole]
    assert [f.is_repeat for f in frames] == [True] + [False] * 11
    np.testing.assert_array_equal(frames[0].pixels, whole[1].pixels)
    np.testing.assert_array_equal(frames[1].pixels, whole[1].pixels)


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
@pytest.mark.parametrize("lost", range(1, 24))
def test_with_b_frames_every_other_time_stays(make_clip, suffix, lost):
    clean = make_clip(f"clip.{suffix}", num_frames=24, options={"bf": "2", "g": "8"})
    whole = read(clean)
    frames = read(damage(clean, [lost]))
    assert [f.pts for f in frames] == [f.pts for f in whole]
    if lost % 8:
        assert sum(f.is_repeat for f in frames) == 1
    else:
        # Without the key frame the decoder gives up some of those that follow.
        assert 1 <= sum(f.is_repeat for f in frames) < 8


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 12])
def test_skipping_counts_the_repeats(make_clip, count):
    path = damage(make_clip(num_frames=12, options={"bf": "0"}), [5])
    whole = read(path)
    with VideoReader(path) as reader:
        reader.skip(count)
        rest = list(reader)
    assert [(f.pts, f.is_repeat) for f in rest] == [(f.pts, f.is_repeat) for f in whole[count:]]
    for frame, expected in zip(rest, whole[count:], strict=True):
        np.testing.assert_array_equal(frame.pixels, expected.pixels)


def test_an_end_of_which_nothing_can_be_decoded_is_a_missing_end(make_clip):
    path = make_clip(num_frames=60, options={"bf": "0"})
    frames = []
    damaged = damage(path, list(range(25, 60)))
    with VideoReader(damaged) as reader, pytest.raises(VideoError, match="frame 25 of 60"):
        frames.extend(reader)
    assert len(frames) == 25
    assert not any(f.is_repeat for f in frames)


def test_a_file_without_one_good_picture_is_refused(make_clip):
    path = damage(make_clip(num_frames=5, options={"bf": "0"}), list(range(5)))
    with pytest.raises(VideoError, match="no video frame that can be decoded"):
        VideoReader(path)


def test_what_the_decoder_can_hide_stays_as_decoded(make_clip):
    path = make_clip("clip.avi", codec="mpeg4", options={"g": "12", "bf": "0"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    start = data.index(packets[6]) + len(packets[6]) // 2
    data[start : start + 8] = b"\xff" * 8
    damaged = path.with_name("damaged.avi")
    damaged.write_bytes(data)
    whole, frames = read(path), read(damaged)
    assert [f.pts for f in frames] == [f.pts for f in whole]
    assert not any(f.is_repeat for f in frames)
    assert not np.array_equal(frames[6].pixels, whole[6].pixels)


def test_reading_goes_on_behind_what_the_container_cannot_make_sense_of(make_clip):
    path = make_clip("clip.mkv", num_frames=90, codec="mjpeg", pix_fmt="yuvj420p")
    whole = read(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle - 3000 : middle + 3000] = b"\xff" * 6000
    damaged = path.with_name("damaged.mkv")
    damaged.write_bytes(data)
    frames = read(damaged)
    assert 45 < len(frames) <= 90
    assert frames[-1].pts == whole[-1].pts
    np.testing.assert_array_equal(frames[-1].pixels, whole[-1].pixels)


@pytest.mark.parametrize("place", range(20, 40))
def test_lost_packets_of_a_transport_stream_cost_no_time(make_clip, place):
    clean = make_clip("clip.ts", num_frames=40, options={"g": "10", "bf": "0", "crf": "3"})
    whole = read(clean)
    data = clean.read_bytes()
    start = 188 * (len(data) * place // (188 * 60))
    damaged = clean.with_name("damaged.ts")
    damaged.write_bytes(data[:start] + data[start + 3 * 188 :])
    assert [f.pts for f in read(damaged)] == [f.pts for f in whole]
