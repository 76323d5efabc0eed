from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_deblur.video.color_tags import ColorTags
from video_deblur.video.pixels import to_float, to_uint8
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

RATE = Fraction(30000, 1001)
TIME_BASE = Fraction(1, 30000)


def ramp(height=48, width=64, channels=3, dtype=np.uint8):
    y, x = np.mgrid[0:height, 0:width]
    planes = [x / width, y / height, (x + y) / (width + height), x / width]
    peak = np.iinfo(dtype).max
    return (np.stack(planes[:channels], -1) * 0.8 * peak + 0.1 * peak).astype(dtype)


def writer_for(path, **changes):
    settings = {"width": 64, "height": 48, "time_base": TIME_BASE, "average_rate": RATE}
    return VideoWriter(path, **(settings | changes))


def write(path, pixels, stamps=(0,), error=None, **changes):
    with writer_for(path, **changes) as writer:
        for pts in stamps:
            writer.write(pixels, pts)
        if error is not None:
            raise error


def read(source):
    with VideoReader(source) as reader:
        return reader.info, list(reader)


def audio_packets(source):
    with av.open(str(source)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


def copy(source, target, **changes):
    reader = VideoReader(source)
    with reader, VideoWriter.like(target, reader.info, audio_from=source, **changes) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.pts, frame.duration)


def psnr(a, b):
    error = np.mean((to_float(a).astype(np.float64) - to_float(b)) ** 2)
    return np.inf if error == 0 else -10 * np.log10(error)


def test_keeps_count_rate_and_time_stamps_in_mp4(make_clip, tmp_path):
    source = make_clip(num_frames=40)
    copy(source, tmp_path / "out.mp4")
    before, frames = read(source)
    after, copied = read(tmp_path / "out.mp4")
    assert after.average_rate == before.average_rate == RATE
    assert [f.pts * after.time_base for f in copied] == [
        f.pts * before.time_base for f in frames
    ]


def test_matroska_keeps_the_rate_and_rounds_time_to_milliseconds(make_clip, tmp_path):
    source = make_clip(num_frames=40)
    copy(source, tmp_path / "out.mkv")
    info, copied = read(tmp_path / "out.mkv")
    assert info.average_rate == RATE
    assert [f.pts for f in copied] == [(1001 * i + 15) // 30 for i in range(40)]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_keeps_variable_time_stamps_and_the_last_duration(tmp_path, codec):
    stamps = [0, 3000, 9000, 9100, 20000, 23000]
    with writer_for(tmp_path / "out.mp4", time_base=Fraction(1, 90000), codec=codec) as writer:
        for pts in stamps:
            writer.write(ramp(), pts, 7000)
    info, frames = read(tmp_path / "out.mp4")
    assert [f.pts * info.time_base * 90000 for f in frames] == stamps
    assert frames[-1].duration * info.time_base * 90000 == 7000


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_copies_audio_bit_for_bit(make_clip, tmp_path, suffix):
    source = make_clip(audio="aac")
    copy(source, tmp_path / f"out.{suffix}")
    assert len(audio_packets(source)) > 5
    assert audio_packets(tmp_path / f"out.{suffix}") == audio_packets(source)


def test_copies_audio_from_bytes_that_are_being_read(make_clip, tmp_path):
    source = make_clip(audio="aac")
    copy(io.BytesIO(source.read_bytes()), tmp_path / "out.mp4")
    assert audio_packets(tmp_path / "out.mp4") == audio_packets(source)
    assert len(read(tmp_path / "out.mp4")[1]) == 12


@pytest.mark.parametrize(
    ("codec", "suffix", "quality"),
    [("h264", "mp4", 40), ("h265", "mp4", 35), ("ffv1", "mkv", np.inf), ("prores", "mov", 45)],
)
@pytest.mark.parametrize("size", [(48, 64), (19, 25)])
def test_gives_the_pixels_back_at_any_size(tmp_path, codec, suffix, quality, size):
    pixels = ramp(*size)
    path = tmp_path / f"out.{suffix}"
    with writer_for(path, height=size[0], width=size[1], codec=codec) as writer:
        writer.write(pixels, 0)
        writer.write(pixels, 1001)
    _, frames = read(path)
    assert [f.pixels.shape for f in frames] == [pixels.shape] * 2
    assert psnr(frames[0].pixels, pixels) >= quality


@pytest.mark.parametrize("space", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("sample_range", [0, 1, 2])
def test_reading_inverts_writing_for_every_matrix_and_range(tmp_path, space, sample_range):
    tags = ColorTags(space=space, range=sample_range)
    with writer_for(tmp_path / "out.mp4", crf=0, color=tags) as writer:
        writer.write(ramp(), 0)
    info, frames = read(tmp_path / "out.mp4")
    assert info.color == tags.decided(64, 48, "yuv420p")
    assert psnr(frames[0].pixels, ramp()) > 45
    shift = frames[0].pixels.astype(float).mean((0, 1)) - ramp().mean((0, 1))
    assert np.abs(shift).max() < 0.5


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", "mkv"), ("prores", "mov")])
def test_keeps_transparency_where_the_codec_can(tmp_path, codec, suffix):
    pixels = ramp(channels=4)
    with writer_for(tmp_path / f"a.{suffix}", codec=codec, has_alpha=True) as writer:
        writer.write(pixels, 0)
    info, frames = read(tmp_path / f"a.{suffix}")
    assert info.has_alpha
    assert psnr(frames[0].pixels, pixels) > 40


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", "mkv"), ("h265", "mp4")])
def test_keeps_more_than_eight_bits(tmp_path, codec, suffix):
    pixels = ramp(dtype=np.uint16)
    path = tmp_path / f"deep.{suffix}"
    with writer_for(path, codec=codec, bit_depth=10, crf=None) as writer:
        writer.write(pixels, 0)
    info, frames = read(path)
    assert info.bit_depth > 8
    assert frames[0].pixels.dtype == np.uint16
    assert psnr(frames[0].pixels, pixels) > 45
    assert abs(frames[0].pixels.mean() - pixels.mean()) < 65


def test_refuses_what_cannot_work_before_it_starts(make_clip, tmp_path):
    source = make_clip()
    with pytest.raises(ValueError, match=r"ffv1 is not written to \.mp4, .* \.mkv"):
        writer_for(tmp_path / "a.mp4", codec="ffv1")
    with pytest.raises(ValueError, match="use ffv1 or prores"):
        writer_for(tmp_path / "a.mp4", has_alpha=True)
    with pytest.raises(ValueError, match="codec 'vp6' is unknown"):
        writer_for(tmp_path / "a.mp4", codec="vp6")
    with pytest.raises(ValueError, match="ffv1 has no crf"):
        writer_for(tmp_path / "a.mkv", codec="ffv1", crf=3)
    with pytest.raises(ValueError, match="is the input itself"):
        writer_for(source, audio_from=str(source))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        writer_for(tmp_path / "none" / "a.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4"]


def test_refuses_frames_that_do_not_fit(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match="frame 0 must be"):
        write(path, ramp(48, 62))
    with pytest.raises(ValueError, match="frame 1 at pts 5 does not come after"):
        write(path, ramp(), [5, 5])
    with pytest.raises(ValueError, match="no frame was written"):
        write(path, ramp(), [])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write(path, ramp(), error=KeyboardInterrupt())
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert path.read_bytes() == b"old"


_ENDLESS = """
import sys
import numpy as np
from fractions import Fraction
from video_deblur.video.writer import VideoWriter
noise = np.random.default_rng(0)
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
with VideoWriter(sys.argv[1], width=64, height=48, time_base=Fraction(1, 25),
                 average_rate=Fraction(25), crf=0) as writer:
    for pts in range(100000):
        writer.write(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8), pts)
"""


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path):
    path = tmp_path / "out.mp4"
    process = subprocess.Popen([sys.executable, "-c", _ENDLESS, str(path)])
    for _ in range(600):
        if any(p.stat().st_size > 100_000 for p in tmp_path.iterdir()):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    names = [p.name for p in tmp_path.iterdir()]
    assert names == [f".out.part-{process.pid}.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="needs resource limits")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", _ENDLESS, str(tmp_path / "out.mp4"), "300000"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert "OSError" in last
    assert "out.mp4: could not be written" in last
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    def full(*_paths):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"out\.mkv: could not be written .*free some space"):
        write(tmp_path / "out.mkv", ramp())
    assert list(tmp_path.iterdir()) == []


def test_keeps_pixel_shape_and_coarse_time_bases(tmp_path):
    path = tmp_path / "out.mp4"
    aspect = Fraction(4, 3)
    with writer_for(
        path, time_base=Fraction(1001, 30000), sample_aspect_ratio=aspect
    ) as writer:
        for pts in (1, 2, 4):
            writer.write(ramp(), pts)
    info, frames = read(path)
    assert info.sample_aspect_ratio == aspect
    assert [f.pts * info.time_base for f in frames] == [
        Fraction(1001 * i, 30000) for i in (1, 2, 4)
    ]


def test_floats_round_half_up_and_clip():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(levels)), levels)
    values = np.array([-1.0, 0.5 / 255, 2.0])
    np.testing.assert_array_equal(to_uint8(values), [0, 1, 255])


def test_h264_gives_the_same_packets_every_time(tmp_path):
    demo = Path(__file__).parents[2] / "evaluation" / "demo_clips" / "street" / "blurry.mp4"
    with VideoReader(demo) as reader:
        frames = [np.ascontiguousarray(frame.pixels[::4, ::4]) for frame in reader]
    found = set()
    for run in range(30):
        path = tmp_path / f"{run}.mkv"
        with VideoWriter(
            path, width=96, height=64, time_base=Fraction(1, 25), average_rate=Fraction(25)
        ) as writer:
            for index, pixels in enumerate(frames + frames[::-1]):
                writer.write(pixels, index)
        with av.open(str(path)) as container:
            found.add(b"".join(bytes(packet) for packet in container.demux(video=0)))
    assert len(found) == 1


@pytest.mark.parametrize("limit", [4_000, 16_000, 32_000])
def test_a_full_disk_is_told_once_and_leaves_nothing(tmp_path, capfd, limit):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(1).integers(0, 255, (12, 48, 64, 3)).astype(np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = VideoWriter(
        tmp_path / "out.mkv",
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        codec="ffv1",
    )

    def write():
        with writer:
            for index, pixels in enumerate(noise):
                writer.write(pixels, index, 1)

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="could not be written"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Traceback" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
