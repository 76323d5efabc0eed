from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_deblur.video.reader import VideoReader
from video_deblur.video.source import VideoError

from .footage import write_film


def read(source):
    with VideoReader(source) as reader:
        return reader.info, list(reader)


def turn_track(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Overwrite the display matrix in the only track header of an mp4."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        data[start + 4 * place : start + 4 * place + 4] = (value << 16).to_bytes(
            4, "big", signed=True
        )
    path.write_bytes(data)


def test_counts_frames_and_keeps_the_ntsc_rate(make_clip):
    info, frames = read(make_clip(num_frames=30))
    assert len(frames) == info.num_frames == 30
    assert info.average_rate == Fraction(30000, 1001)
    assert [f.pts * info.time_base for f in frames] == [
        Fraction(1001 * i, 30000) for i in range(30)
    ]
    assert frames[0].pixels.shape == (48, 64, 3)
    assert frames[0].pixels.dtype == np.uint8


def test_keeps_variable_time_stamps(make_clip):
    stamps = [0, 3000, 9000, 9100, 20000, 23000]
    path = make_clip(pts=stamps, time_base=Fraction(1, 90000), options={"bf": "0"})
    info, frames = read(path)
    assert [f.pts * info.time_base * 90000 for f in frames] == stamps


@pytest.mark.parametrize("count", [0, 1, 5, 11, 12, 20])
def test_skipping_leads_to_the_same_frames_and_times(make_clip, count):
    path = make_clip(pts=[0, 1001, 2002, 5005, 6006, 9009, 9100, 9200, 9400, 9500, 9600, 9700])
    with VideoReader(path) as reader:
        whole = list(reader)
    with VideoReader(path) as reader:
        reader.skip(count)
        rest = list(reader)
    assert [frame.pts for frame in rest] == [frame.pts for frame in whole[count:]]
    for frame, expected in zip(rest, whole[count:], strict=True):
        assert np.array_equal(frame.pixels, expected.pixels)


def test_reads_odd_sizes_whole(make_clip):
    info, frames = read(make_clip(size=(25, 19), pix_fmt="yuv444p"))
    assert (info.width, info.height) == (25, 19)
    assert frames[0].pixels.shape == (19, 25, 3)


@pytest.mark.parametrize(
    ("matrix", "rotation", "turn"),
    [
        ((0, 1, -1, 0), 90, lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), 180, lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), 270, lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), 0, lambda p: p[:, ::-1]),
    ],
)
def test_turns_pixels_upright(make_clip, matrix, rotation, turn):
    path = make_clip(num_frames=2)
    _, lying = read(path)
    turn_track(path, matrix)
    info, frames = read(path)
    assert info.rotation == rotation
    assert (info.height, info.width) == frames[0].pixels.shape[:2]
    np.testing.assert_array_equal(frames[0].pixels, turn(lying[0].pixels))


def test_reads_bytes_in_memory_with_two_readers_at_once(make_clip):
    path = make_clip()
    source = io.BytesIO(path.read_bytes())
    _, expected = read(path)
    with VideoReader(source) as first, VideoReader(source) as second:
        for a, b, c in zip(first, second, expected, strict=True):
            np.testing.assert_array_equal(a.pixels, c.pixels)
            np.testing.assert_array_equal(b.pixels, c.pixels)


def test_keeps_transparency(tmp_path):
    path = tmp_path / "alpha.mov"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="argb")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info, frames = read(path)
    assert info.has_alpha
    np.testing.assert_array_equal(frames[0].pixels, pixels)


def test_ten_bit_white_is_full_white(tmp_path):
    path = tmp_path / "deep.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane, value in zip(frame.planes, (940, 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info, frames = read(path)
    assert (info.bit_depth, frames[0].pixels.dtype) == (10, np.uint16)
    assert np.abs(frames[0].pixels.astype(int) - 65535).max() <= 64


@pytest.mark.parametrize(
    ("space", "size", "green"),
    [
        # Y = 145, Cb = 54, Cr = 34 is green in BT.601 and a paler green in BT.709.
        (5, (64, 48), (0, 255, 1)),
        (2, (64, 48), (0, 255, 1)),
        (1, (64, 48), (0, 217, 0)),
        (2, (1280, 16), (0, 217, 0)),
    ],
)
def test_honours_the_colour_matrix(tmp_path, space, size, green):
    path = tmp_path / "green.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = space
        frame = av.VideoFrame(*size, "yuv420p")
        for plane, value in zip(frame.planes, (145, 54, 34), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, frames = read(path)
    assert np.abs(frames[0].pixels[5, 5].astype(int) - green).max() <= 3


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("part", [0.45, 0.9])
def test_a_cut_file_gives_its_frames_and_then_an_error(make_clip, suffix, part):
    path = make_clip(
        f"clip.{suffix}",
        num_frames=40,
        options={"bf": "0", "crf": "5"},
        container_options={"movflags": "faststart"} if suffix == "mp4" else None,
    )
    _, whole = read(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    frames: list = []
    with VideoReader(path) as reader, pytest.raises(VideoError, match="stops after frame") as e:
        frames.extend(reader)
    assert 5 < len(frames) < 40
    assert f"frame {len(frames)} " in str(e.value)
    assert "\n" not in str(e.value)
    for frame, expected in zip(frames, whole, strict=False):
        np.testing.assert_array_equal(frame.pixels, expected.pixels)


def test_a_matroska_file_whose_end_was_never_loaded_is_not_complete(make_clip):
    path = make_clip("clip.mkv", num_frames=40, options={"bf": "0", "crf": "5"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10] + bytes(len(data) - len(data) * 6 // 10))
    frames: list = []
    with VideoReader(path) as reader, pytest.raises(VideoError, match="truncated"):
        frames.extend(reader)
    assert 5 < len(frames) < 40


def test_a_last_picture_that_stays_is_no_missing_end(make_clip):
    path = make_clip("clip.mkv", num_frames=5)
    data = path.read_bytes()
    assert data.count(b"00:00:00.1") == 1
    # As of a last picture of four seconds, whose block does not say so.
    path.write_bytes(data.replace(b"00:00:00.1", b"00:00:04.1"))
    _, frames = read(path)
    assert len(frames) == 5


@pytest.mark.parametrize("suffix", ["flv", "wmv", "avi", "mkv", "mp4"])
def test_sound_may_go_on_after_the_last_picture(tmp_path, suffix):
    codec = "wmav2" if suffix == "wmv" else "mp2" if suffix == "avi" else "aac"
    path = write_film(tmp_path / f"clip.{suffix}", codec, rate=44100, num_frames=5)
    _, frames = read(path)
    assert len(frames) == 5


def write_times(path, times):
    """Write pictures shown at times in milliseconds, decoded 40 ms apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        packets = []
        for _ in times:
            packets += stream.encode(av.VideoFrame(64, 48, "yuv420p"))
        packets += stream.encode(None)
        for index, (time, packet) in enumerate(zip(times, packets, strict=True)):
            packet.time_base = Fraction(1, 1000)
            packet.pts, packet.dts = time, min(40 * index, time)
            container.mux(packet)
    return path


@pytest.mark.parametrize("wrong", [0, 5, 9])
def test_one_picture_far_ahead_takes_nothing_with_it(tmp_path, wrong):
    times = [40 * index for index in range(10)]
    ahead = [time + 3600 * (index == wrong) for index, time in enumerate(times)]
    _, frames = read(write_times(tmp_path / "clip.mkv", ahead))
    # Of the last nobody can tell that it is not shown so late.
    assert [frame.pts for frame in frames] == (ahead if wrong == 9 else times)


def test_what_is_appended_to_an_mp4_is_no_missing_end(make_clip):
    path = make_clip()
    path.write_bytes(path.read_bytes() + b"TAGtitle of the clip")
    _, frames = read(path)
    assert len(frames) == 12


def test_an_mp4_cut_inside_the_sound_of_its_index_is_not_complete(make_clip):
    path = make_clip(audio="aac")
    path.write_bytes(path.read_bytes()[:-60])
    frames: list = []
    with VideoReader(path) as reader, pytest.raises(VideoError, match="truncated"):
        frames.extend(reader)
    assert len(frames) == 12


def test_an_mp4_without_index_is_refused(make_clip):
    path = make_clip()
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(VideoError, match=r"clip\.mp4: cannot be opened"):
        VideoReader(path)


def test_missing_empty_text_and_folder_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such file"):
        VideoReader(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: is empty"):
        VideoReader(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video\n" * 200)
    with pytest.raises(VideoError, match=r"text\.mp4: cannot be opened"):
        VideoReader(tmp_path / "text.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        VideoReader(tmp_path)


def test_a_play_list_is_not_followed(make_clip, tmp_path):
    make_clip("other.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(VideoError, match="play list"):
        VideoReader(tmp_path / "list.mp4")


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 999), np.int16), "s16", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match=r"no video stream .found: audio"):
        VideoReader(path)


def test_titles_in_another_alphabet_are_no_error(make_clip):
    path = make_clip("clip.mkv")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Lavf", b"L\xe4vf").replace(b"DURATION", b"DURATI\xd6N"))
    assert path.read_bytes() != data
    _, frames = read(path)
    assert len(frames) == 12


def test_nothing_is_printed(make_clip, capfd):
    path = make_clip()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoError):
        read(path)
    assert capfd.readouterr() == ("", "")
