"""Which stream is restored, how it is turned, and at what rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from video_deblur.video.probe import picture_rate
from video_deblur.video.reader import VideoReader
from video_deblur.video.source import VideoError


def read(source):
    with VideoReader(source) as reader:
        return reader.info, list(reader)


def frame_of(size, shade, pix_fmt="yuv420p"):
    pixels = np.full((size[1], size[0], 3), shade, np.uint8)
    return av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pix_fmt)


def write_streams(path: Path, streams: list[tuple[str, tuple[int, int], int, int]]) -> Path:
    """Write video streams: codec, size, number of frames, disposition."""
    with av.open(str(path), "w") as container:
        added = []
        for codec, size, _, disposition in streams:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            added.append(stream)
        for stream, (_, size, num_frames, _) in zip(added, streams, strict=True):
            for index in range(num_frames):
                frame = frame_of(size, 40 + index, stream.pix_fmt)
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


DEFAULT = Disposition.default.value
STREAMS = {
    "a thumbnail first": [("mjpeg", (128, 96), 1, 0), ("libx264", (64, 48), 9, DEFAULT)],
    "a thumbnail that claims to be the default": [
        ("mjpeg", (128, 96), 1, DEFAULT),
        ("libx264", (64, 48), 9, DEFAULT),
    ],
    "the default second": [("libx264", (128, 96), 9, 0), ("libx264", (64, 48), 9, DEFAULT)],
    "no default, the larger": [("libx264", (32, 32), 9, 0), ("libx264", (64, 48), 9, 0)],
    "two alike, the first": [("libx264", (64, 48), 9, 0), ("libx264", (64, 48), 5, 0)],
}


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("streams", STREAMS.values(), ids=STREAMS.keys())
def test_the_stream_that_a_player_shows_is_read(tmp_path, streams, suffix):
    if suffix == "mp4" and not streams[0][3] & DEFAULT and streams[0][0] != "mjpeg":
        pytest.skip("libav's mp4 makes the first track the default where none is")
    info, frames = read(write_streams(tmp_path / f"clip.{suffix}", streams))
    assert (info.codec, info.width, info.height) == ("h264", 64, 48)
    assert len(frames) == 9


def test_a_film_of_photos_is_read_where_there_is_nothing_else(tmp_path):
    info, frames = read(write_streams(tmp_path / "clip.mkv", [("mjpeg", (64, 48), 7, DEFAULT)]))
    assert (info.codec, len(frames)) == ("mjpeg", 7)


def jpeg_with_orientation(pixels: np.ndarray, orientation: int) -> bytes:
    _, data = cv2.imencode(".jpg", pixels)
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00" + bytes([orientation]) + b"\x00\x00"
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    marker = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    return data[:2].tobytes() + marker + data[2:].tobytes()


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: np.rot90(p, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (8, lambda p: np.rot90(p, 1)),
    ],
)
@pytest.mark.parametrize("suffix", ["mov", "avi"])
def test_mjpeg_with_exif_is_turned_as_libav_does(tmp_path, orientation, turn, suffix):
    if av.library_versions["libavcodec"][0] < 62:
        pytest.skip("the libav of this PyAV takes no notice of EXIF")
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[24:, 32:] = 255, 128
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.start_encoding()
        for index in range(3):
            packet = av.Packet(jpeg_with_orientation(pixels, orientation))
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            container.mux(packet)
    _, frames = read(path)
    assert len(frames) == 3
    expected = turn(pixels)
    assert frames[2].pixels.shape == expected.shape
    assert np.abs(frames[2].pixels.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("rate", [Fraction(50), Fraction(30000, 1001), Fraction(12)])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_bare_streams_have_the_rate_of_their_pictures(tmp_path, rate, codec):
    path = tmp_path / f"clip.{codec}"
    encoder = {"h264": "libx264", "hevc": "libx265"}[codec]
    with av.open(str(path), "w", format=codec) as container:
        stream = container.add_stream(encoder, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if codec == "hevc":
            stream.options = {"x265-params": "log-level=none"}
        for index in range(12):
            frame = frame_of((64, 48), 10 * index)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info, frames = read(path)
    assert info.average_rate == rate
    times = [float(f.pts * info.time_base * rate) for f in frames]
    assert times == pytest.approx(range(12), abs=0.01)
    shades = [f.pixels.mean() for f in frames]
    assert shades == sorted(shades)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_b_frames_in_avi_are_shown_in_order_and_on_time(make_clip, codec):
    options = {"bf": "2", "g": "9", "qmax": "3"}
    path = make_clip("clip.avi", codec=codec, num_frames=24, options=options)
    still = make_clip("plain.mkv", codec="ffv1", num_frames=24)
    info, frames = read(path)
    _, expected = read(still)
    times = [f.pts * info.time_base for f in frames]
    assert times == pytest.approx([Fraction(1001 * i, 30000) for i in range(24)], abs=0.002)
    for index, frame in enumerate(frames):
        errors = [np.abs(frame.pixels.astype(int) - e.pixels).mean() for e in expected]
        assert np.argmin(errors) == index


def test_a_change_of_range_within_a_clip_is_followed(tmp_path):
    path = tmp_path / "clip.mkv"
    shade = np.full((48, 64, 3), 100, np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.start_encoding()
        for index, sampling in enumerate([0x411111, 0x221111, 0x211111]):
            _, data = cv2.imencode(".jpg", shade, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling])
            packet = av.Packet(data.tobytes())
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            container.mux(packet)
    _, frames = read(path)
    assert len(frames) == 3
    for frame in frames:
        assert np.abs(frame.pixels.astype(int) - 100).max() <= 3


@pytest.mark.parametrize("claimed", [1000, 90000])
def test_a_clock_rate_is_not_taken_for_the_frame_rate(make_clip, claimed):
    stamps = [40 * index + index % 3 for index in range(24)]
    path = make_clip(
        "clip.mkv",
        pts=stamps,
        rate=Fraction(claimed),
        time_base=Fraction(1, 1000),
        options={"bf": "0"},
    )
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate > 900
    info, frames = read(path)
    assert float(info.average_rate) == pytest.approx(25, rel=0.01)
    assert [frame.pts for frame in frames] == stamps


def test_a_camera_of_many_frames_keeps_its_rate(make_clip):
    info, frames = read(
        make_clip(rate=Fraction(960), time_base=Fraction(1, 960), num_frames=30)
    )
    assert (info.average_rate, len(frames)) == (960, 30)


def test_one_packet_for_each_field_does_not_double_the_rate(make_clip):
    stream = SimpleNamespace(
        average_rate=Fraction(50),
        guessed_rate=Fraction(50),
        codec_context=SimpleNamespace(framerate=Fraction(25)),
    )
    path = make_clip(num_frames=1)
    for interlaced, expected in ((True, 25), (False, 50)):
        first = SimpleNamespace(pts=0, interlaced_frame=interlaced)
        assert picture_rate(path, cast(Any, stream), cast(Any, first)) == expected


def test_a_codec_that_is_not_known_is_refused_as_such(make_clip):
    path = make_clip()
    path.write_bytes(path.read_bytes().replace(b"avc1\0\0\0\0", b"zzzz\0\0\0\0"))
    with pytest.raises(
        VideoError, match=r"clip\.mp4: its video is in a codec that is not known"
    ):
        VideoReader(path)
