"""Interlaced clips: found, kept as they are, or made progressive field by field."""

from __future__ import annotations

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from av.codec.context import Flags
from video_deblur.video.codec_limits import not_kept
from video_deblur.video.color_tags import ColorTags
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

SOURCES = [
    ("libx264", "in.mp4", "yuv420p"),
    ("libx264", "in.ts", "yuv420p"),
    ("mpeg2video", "in.mpg", "yuv420p"),
    ("ffv1", "in.mkv", "yuv422p"),
    ("prores_ks", "in.mov", "yuv422p10le"),
    ("mpeg2video", "in.mxf", "yuv420p"),
]
OUTPUTS = [("h264", "mp4"), ("h264", "mkv"), ("ffv1", "mkv"), ("prores", "mov")]
KNOWS_ORDER = hasattr(av.CodecContext.create("mpeg2video", "w"), "field_order")


def moment(time: int, width: int, height: int) -> np.ndarray:
    """Grey stripes, `[H, W]`, that move with each field."""
    x = np.arange(width)
    row = 128 + 80 * np.sin((x - 6 * time) / 9)
    return np.repeat(row.round().astype(np.uint8)[None], height, 0)


def flagged(frame: av.VideoFrame, mode: str) -> av.VideoFrame:
    graph = av.filter.Graph()
    source = graph.add_buffer(template=frame, time_base=Fraction(1, 25))
    nodes = [source, graph.add("setfield", f"mode={mode}"), graph.add("buffersink")]
    for before, after in itertools.pairwise(nodes):
        before.link_to(after)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def write(path, codec, pix_fmt, frames, mode, options=None):
    with av.open(str(path), "w") as container:
        level = {"level": "3"} if codec == "ffv1" else {}
        stream = container.add_stream(codec, rate=25, options=level | (options or {}))
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.time_base, context.gop_size = Fraction(1, 25), 6
        if codec != "ffv1" and mode != "prog":
            context.flags |= Flags.interlaced_dct
        for index, frame in enumerate(frames):
            frame = flagged(frame, mode)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def woven(first: str, count: int, size: tuple[int, int], pix_fmt: str) -> list[av.VideoFrame]:
    """Return frames of two moments each, the first of them in the lines of one field."""
    frames, start = [], 0 if first == "top" else 1
    for index in range(count):
        lines = np.empty(size[::-1], np.uint8)
        lines[start::2] = moment(2 * index, *size)[start::2]
        lines[1 - start :: 2] = moment(2 * index + 1, *size)[1 - start :: 2]
        rgb = av.VideoFrame.from_ndarray(np.stack([lines] * 3, -1), "rgb24")
        frames.append(rgb.reformat(format=pix_fmt))
    return frames


def interlaced(path, codec, pix_fmt, first="top", count=8, size=(128, 96)):
    options = {"crf": "4", "bf": "0"} if codec == "libx264" else {}
    options |= {"qmin": "1", "qmax": "2"} if codec == "mpeg2video" else {}
    frames = woven(first, count, size, pix_fmt)
    return write(path, codec, pix_fmt, frames, {"top": "tff", "bottom": "bff"}[first], options)


def read(path, deinterlace="off"):
    with VideoReader(path, deinterlace) as reader:
        return reader.info, list(reader)


def copy(source, target, codec):
    reader = VideoReader(source)
    with reader, VideoWriter.like(target, reader.info, codec=codec) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.pts, frame.duration)
    return target


def error(pixels, expected) -> float:
    scale = 257 if pixels.dtype == np.uint16 else 1
    return float(np.abs(pixels[8:-8, :, 1] / scale - expected[8:-8]).mean())


@pytest.mark.parametrize(("codec", "name", "pix_fmt"), SOURCES)
@pytest.mark.parametrize("first", ["top", "bottom"])
def test_every_field_becomes_a_frame_at_its_time(tmp_path, codec, name, pix_fmt, first):
    path = interlaced(tmp_path / name, codec, pix_fmt, first)
    info, whole = read(path)
    assert info.fields == first
    single, frames = read(path, "field")
    assert single.fields is None
    assert single.average_rate == 2 * info.average_rate == 50
    assert len(frames) == 2 * len(whole) == 16
    for time, frame in enumerate(frames):
        # The ends have one neighbour in time.
        assert error(frame.pixels, moment(time, 128, 96)) < 4
    start = whole[0].pts * info.time_base
    times = [frame.pts * single.time_base - start for frame in frames]
    assert np.allclose([float(t) for t in times], np.arange(16) / 50, rtol=0, atol=1e-3)
    assert {float(f.duration * single.time_base) for f in frames} == {0.02}


def test_a_frame_can_be_made_of_each_frame(tmp_path):
    path = interlaced(tmp_path / "in.mp4", "libx264", "yuv420p")
    info, frames = read(path, "frame")
    assert (info.fields, info.average_rate, len(frames)) == (None, 25, 8)
    for index, frame in enumerate(frames):
        assert error(frame.pixels, moment(2 * index, 128, 96)) < 4
    assert [frame.pts for frame in frames] == [frame.pts for frame in read(path)[1]]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("choice", ["frame", "field"])
def test_the_shortest_clips_lose_nothing(tmp_path, count, choice):
    path = interlaced(tmp_path / "in.mkv", "ffv1", "yuv422p", count=count)
    assert len(read(path, choice)[1]) == count * (2 if choice == "field" else 1)


@pytest.mark.parametrize("skipped", [1, 5, 6])
def test_skipping_leads_to_the_same_fields(tmp_path, skipped):
    path = interlaced(tmp_path / "in.mp4", "libx264", "yuv420p")
    _, whole = read(path, "field")
    with VideoReader(path, "field") as reader:
        reader.skip(skipped)
        rest = list(reader)
    assert [frame.pts for frame in rest] == [frame.pts for frame in whole[skipped:]]
    assert np.array_equal(rest[0].pixels, whole[skipped].pixels)


@pytest.mark.parametrize("choice", ["frame", "field"])
def test_progressive_clips_stay_as_they_are(make_clip, choice):
    path = make_clip()
    info, frames = read(path, choice)
    plain, expected = read(path)
    assert info == plain
    assert info.fields is None
    for frame, other in zip(frames, expected, strict=True):
        assert np.array_equal(frame.pixels, other.pixels)


def test_progressive_frames_among_fields_stay_single(tmp_path):
    frames = woven("top", 6, (128, 96), "yuv422p")
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, options={"level": "3"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv422p"
        for index, frame in enumerate(frames):
            frame = flagged(frame, "prog" if index in (2, 3) else "tff")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info, shown = read(path, "field")
    times = [float(f.pts * info.time_base) for f in shown]
    assert np.allclose(times, [0, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.18, 0.2, 0.22])
    durations = [float(f.duration * info.time_base) for f in shown]
    assert durations == [0.02, 0.02, 0.02, 0.02, 0.04, 0.04, 0.02, 0.02, 0.02, 0.02]


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
@pytest.mark.parametrize("first", ["top", "bottom"])
def test_what_is_restored_whole_keeps_its_field_flags(tmp_path, codec, suffix, first):
    source = interlaced(tmp_path / "in.mpg", "mpeg2video", "yuv420p", first)
    target = copy(source, tmp_path / f"out.{suffix}", codec)
    info, frames = read(target)
    assert info.fields == first
    with av.open(str(target)) as container:
        context = container.streams.video[0].codec_context
        if KNOWS_ORDER:
            assert context.field_order == (2 if first == "top" else 3)
        assert all(frame.interlaced_frame for frame in container.decode(video=0))
    _, fields = read(target, "field")
    for time, frame in enumerate(fields):
        assert error(frame.pixels, moment(time, 128, 96)) < 4
    assert len(fields) == 2 * len(frames) == 16


@pytest.mark.skipif(not KNOWS_ORDER, reason="PyAV 14 does not tell")
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("first", ["top", "bottom"])
def test_h265_keeps_them_in_the_container(tmp_path, suffix, first):
    source = interlaced(tmp_path / "in.mpg", "mpeg2video", "yuv420p", first)
    target = copy(source, tmp_path / f"out.{suffix}", "h265")
    assert read(target)[0].fields == first
    _, fields = read(target, "field")
    for time, frame in enumerate(fields):
        assert error(frame.pixels, moment(time, 128, 96)) < 4


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
def test_the_colours_of_the_two_fields_do_not_mix(tmp_path, codec, suffix):
    # BT.601 red in the lines of one field, blue in those of the other.
    red, blue = (81, 90, 240), (41, 240, 110)
    frame = av.VideoFrame(64, 48, "yuv420p")
    for plane, values in zip(frame.planes, zip(red, blue, strict=True), strict=True):
        lines = np.resize(np.array(values, np.uint8), plane.height)
        plane.update(np.repeat(lines[:, None], plane.line_size, 1).tobytes())
    path = write(tmp_path / "in.mkv", "ffv1", "yuv420p", [frame, frame], "tff")
    _, frames = read(path)
    assert np.abs(frames[0].pixels[::2].astype(int) - (255, 0, 0)).max() <= 3
    assert np.abs(frames[0].pixels[1::2].astype(int) - (0, 0, 255)).max() <= 3
    _, frames = read(copy(path, tmp_path / f"out.{suffix}", codec))
    pixels = frames[0].pixels / (257 if frames[0].pixels.dtype == np.uint16 else 1)
    assert np.abs(pixels[8:-8:2] - (255, 0, 0)).mean((0, 1)).max() <= 4
    assert np.abs(pixels[9:-8:2] - (0, 0, 255)).mean((0, 1)).max() <= 4


def test_a_height_that_h264_cannot_code_as_fields_is_written_whole(tmp_path):
    source = interlaced(tmp_path / "in.mkv", "ffv1", "yuv422p", size=(72, 54))
    target = copy(source, tmp_path / "out.mp4", "h264")
    info, frames = read(target)
    assert (info.height, len(frames)) == (54, 8)
    plain, _ = read(source)
    assert any("h264 keeps" in line for line in not_kept(plain, "h264"))


def test_interlaced_sources_say_what_can_be_done(tmp_path, caplog):
    source = interlaced(tmp_path / "in.mkv", "ffv1", "yuv420p")
    info, _ = read(source)
    (line,) = not_kept(info, "h264")
    assert line.startswith("is interlaced (top field first)")
    assert "--deinterlace field" in line
    assert not not_kept(read(source, "field")[0], "h264")
    mixed = tmp_path / "late.mkv"
    frames = woven("top", 3, (128, 96), "yuv422p")
    with av.open(str(mixed), "w") as container:
        stream = container.add_stream("ffv1", rate=25, options={"level": "3"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv422p"
        for index, frame in enumerate(frames):
            frame = flagged(frame, "tff" if index else "prog")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(read(mixed)[1]) == 3
    assert [r.message for r in caplog.records if "interlaced from frame 1 on" in r.message]


def test_an_unknown_way_is_refused(make_clip):
    with pytest.raises(ValueError, match="deinterlace is off, frame, field, got 'bob'"):
        VideoReader(make_clip(), "bob")


def test_a_turned_picture_has_no_fields_left(tmp_path):
    path = interlaced(tmp_path / "in.mp4", "libx264", "yuv420p")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    for place, value in zip((0, 1, 3, 4), (0, 1, -1, 0), strict=True):
        entry = (value << 16).to_bytes(4, "big", signed=True)
        data[start + 4 * place : start + 4 * place + 4] = entry
    path.write_bytes(data)
    assert read(path)[0].fields is None
    info, frames = read(path, "field")
    assert (info.width, info.height, len(frames)) == (96, 128, 16)


def test_tags_of_colour_survive_deinterlacing(tmp_path):
    with VideoWriter(
        tmp_path / "in.mp4",
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        color=ColorTags(space=5, range=1, primaries=5, transfer=6),
        sample_aspect_ratio=Fraction(16, 15),
        fields="bottom",
    ) as writer:
        for index in range(4):
            writer.write(np.full((48, 64, 3), 60 * index, np.uint8), index)
    info, frames = read(tmp_path / "in.mp4", "field")
    assert info.color == ColorTags(space=5, range=1, primaries=5, transfer=6)
    assert info.sample_aspect_ratio == Fraction(16, 15)
    assert len(frames) == 8
