"""The shape of pixels: kept in every container, turned with the picture."""

from __future__ import annotations

import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.video.codec_limits import not_kept
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

PIXELS = np.full((48, 64, 3), 90, np.uint8)


def write(path, aspect, codec):
    with VideoWriter(
        path,
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        codec=codec,
        sample_aspect_ratio=aspect,
    ) as writer:
        for index in range(3):
            writer.write(PIXELS, index)
    return path


def read(path):
    with VideoReader(path) as reader:
        return reader.info, list(reader)


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("h264", "mp4"),
        ("h264", "mov"),
        ("h264", "mkv"),
        ("h265", "mp4"),
        ("h265", "mkv"),
        ("ffv1", "mkv"),
        ("prores", "mov"),
        ("prores", "mkv"),
    ],
)
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9), Fraction(64, 45)])
def test_every_container_keeps_the_shape_of_pixels(tmp_path, codec, suffix, aspect):
    path = write(tmp_path / f"out.{suffix}", aspect, codec)
    info, frames = read(path)
    assert info.sample_aspect_ratio == aspect
    assert len(frames) == 3
    with av.open(str(path)) as container:
        # The container says it itself: players know it before they decode.
        assert container.streams.video[0].sample_aspect_ratio == aspect
        assert "title" not in container.streams.video[0].metadata


def test_the_header_of_matroska_stays_whole(tmp_path):
    path = tmp_path / "out.mkv"
    with VideoWriter(
        path,
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        codec="ffv1",
        sample_aspect_ratio=Fraction(16, 15),
    ) as writer:
        for index in range(50):
            writer.write(PIXELS, index)
    with av.open(str(path)) as container:
        container.seek(1_600_000)
        # The key frame before: the index leads to the right places.
        assert next(container.decode(video=0)).time == 1.44
    data = path.read_bytes()
    start = data.rindex(b"\x16\x54\xae\x6b") + 6
    end = start + (int.from_bytes(data[start - 2 : start], "big") & 0x3FFF)
    assert data[start : start + 2] == b"\xbf\x84"
    checked = zlib.crc32(data[start + 6 : end]).to_bytes(4, "little")
    assert data[start + 2 : start + 6] == checked


def test_the_shape_of_the_container_wins(tmp_path):
    path = write(tmp_path / "out.mp4", Fraction(16, 9), "h264")
    data = bytearray(path.read_bytes())
    # The H.264 stream says 16:9 still, as after ffmpeg's `-aspect` with `-c copy`.
    start = data.index(b"pasp") + 4
    data[start : start + 8] = (3).to_bytes(4, "big") + (2).to_bytes(4, "big")
    path.write_bytes(data)
    assert read(path)[0].sample_aspect_ratio == Fraction(3, 2)


def test_a_shape_that_only_the_stream_names_is_kept(tmp_path):
    frame = av.VideoFrame.from_ndarray(PIXELS, "rgb24").reformat(format="yuv420p")
    path = tmp_path / "dvd.vob"
    with av.open(str(path), "w", format="vob") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for index in range(5):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info, _ = read(path)
    assert info.sample_aspect_ratio == Fraction(4, 3)
    with VideoReader(path) as reader:
        frames = list(reader)
        out = VideoWriter.like(tmp_path / "out.mkv", reader.info, codec="ffv1")
        with out as writer:
            for each in frames:
                writer.write(each.pixels, each.pts, each.duration)
    assert read(tmp_path / "out.mkv")[0].sample_aspect_ratio == Fraction(4, 3)


def test_the_shape_is_turned_with_the_picture(tmp_path):
    path = write(tmp_path / "out.mp4", Fraction(4, 3), "h264")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    for place, value in zip((0, 1, 3, 4), (0, 1, -1, 0), strict=True):
        entry = (value << 16).to_bytes(4, "big", signed=True)
        data[start + 4 * place : start + 4 * place + 4] = entry
    path.write_bytes(data)
    info, _ = read(path)
    assert (info.width, info.height) == (48, 64)
    assert info.sample_aspect_ratio == Fraction(3, 4)


def add_to_track(path, box):
    """Add a box to the only track of an mp4 whose index is at its end."""
    data = bytearray(path.read_bytes())
    for kind in (b"moov", b"trak"):
        start = data.rindex(kind) - 4
        size = int.from_bytes(data[start : start + 4], "big")
        data[start : start + 4] = (size + len(box)).to_bytes(4, "big")
    data[start + size : start + size] = box
    path.write_bytes(data)


def uuid_box(identity, content):
    data = bytes.fromhex(identity) + content
    return (len(data) + 8).to_bytes(4, "big") + b"uuid" + data


def test_that_a_video_shows_all_around_is_said_to_be_lost(make_clip):
    path = make_clip()
    before = not_kept(read(path)[0], "h264")
    # Spherical Video V1, as cameras write it.
    says = (
        b"<rdf:SphericalVideo><GSpherical:Spherical>true</GSpherical:Spherical>"
        b"<GSpherical:Stitched>true</GSpherical:Stitched>"
        b"<GSpherical:StitchingSoftware>x</GSpherical:StitchingSoftware>"
        b"<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType>"
        b"</rdf:SphericalVideo>"
    )
    add_to_track(path, uuid_box("ffcc8263f8554a938814587a02521fdd", says))
    *others, line = not_kept(read(path)[0], "h264")
    assert others == before
    assert line.startswith("that it is a 360° video is not kept")
