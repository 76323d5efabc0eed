"""Files in, files out: kept as they are, cut off, refused."""

from __future__ import annotations

import errno
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.jobs.files import restore_file
from video_deblur.video.color import ColorTags
from video_deblur.video.encoder import FrameEncoder
from video_deblur.video.output_lock import output_lock
from video_deblur.video.reader import VideoReader
from video_deblur.video.source import VideoError
from video_deblur.video.writer import VideoWriter

from .footage import (
    NUM_FRAMES,
    SETTINGS,
    StoppedError,
    decoded,
    hidden,
    pictures,
    resumable,
    stop_after,
    write_clip,
)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    ("codec", "name", "alpha"),
    [("h265", "out.mp4", False), ("prores", "out.mov", True), ("ffv1", "out.mkv", True)],
)
def test_depth_colours_transparency_and_odd_times_stay(
    codec, name, alpha, keep, deblurrer, tmp_path
):
    tags = ColorTags(space=9, range=1, primaries=9, transfer=16)
    clip, output = tmp_path / f"deep_{name}", tmp_path / name
    frames = pictures(12).astype(np.uint16) * 257
    if alpha:
        frames = np.concatenate([frames, frames[..., :1]], axis=-1)
    with VideoWriter(
        clip,
        width=64,
        height=48,
        time_base=Fraction(1, 90000),
        average_rate=Fraction(30000, 1001),
        codec=codec,
        bit_depth=10,
        has_alpha=alpha,
        color=tags,
        sample_aspect_ratio=Fraction(4, 3),
    ) as writer:
        for index, pixels in enumerate(frames):
            writer.write(pixels, 3003 * index + 900 * (index % 2), 2000 + index)
    chosen = resumable(output) if keep else None
    restore_file(clip, output, deblurrer, SETTINGS, codec=codec, resumable=chosen)
    with VideoReader(clip) as before, VideoReader(output) as after:
        for field in ("bit_depth", "has_alpha", "color", "sample_aspect_ratio", "average_rate"):
            assert getattr(after.info, field) == getattr(before.info, field), field
        times = [
            [(frame.pts * reader.info.time_base, frame.duration) for frame in reader]
            for reader in (before, after)
        ]
    assert times[0] == times[1]


@pytest.mark.parametrize("keep", [False, True])
def test_of_a_file_that_is_cut_off_everything_before_is_kept(keep, deblurrer, tmp_path):
    clip = tmp_path / "clip.mkv"
    write_clip(clip, pictures())
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    output = tmp_path / "out.mkv"
    with pytest.raises(VideoError, match=r"clip\.mkv: stops after frame (\d+) .*") as caught:
        restore_file(
            clip,
            output,
            deblurrer,
            SETTINGS,
            codec="ffv1",
            resumable=resumable(output) if keep else None,
        )
    message = str(caught.value)
    assert "\n" not in message
    restored = decoded(output)
    assert 10 < len(restored) < NUM_FRAMES
    assert f"The {len(restored)} frames before that are restored in {output}" in message
    assert f"stops after frame {len(restored)} " in message
    assert hidden(tmp_path) == []


def test_of_a_stream_that_changes_its_size_everything_before_is_kept(deblurrer, tmp_path):
    clip = tmp_path / "clip.h264"
    data = b""
    for frames in (pictures(12), pictures(9, 48, 32)):
        part = tmp_path / "part.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))
        data += part.read_bytes()
    clip.write_bytes(data)
    output = tmp_path / "out.mp4"
    with pytest.raises(VideoError, match=r"from 64x48 .* to 48x32 .* at frame 12") as e:
        restore_file(clip, output, deblurrer, SETTINGS)
    assert f"The 12 frames before that are restored in {output}" in str(e.value)
    assert decoded(output).shape == (12, 48, 64, 3)


@pytest.mark.parametrize("keep", [False, True])
def test_two_runs_cannot_write_the_same_output(keep, clip, deblurrer, tmp_path):
    output = tmp_path / "out.mp4"
    chosen = resumable(output) if keep else None
    with (
        output_lock(output),
        pytest.raises(ValueError, match="another run is writing") as caught,
    ):
        restore_file(clip, output, deblurrer, SETTINGS, resumable=chosen)
    assert "\n" not in str(caught.value)
    restore_file(clip, output, deblurrer, SETTINGS, resumable=chosen)
    assert hidden(tmp_path) == []


def test_what_killed_runs_left_is_removed_by_the_next(clip, deblurrer, tmp_path):
    leftover = tmp_path / ".out.part-999999.mp4"
    leftover.write_bytes(b"half a file")
    names = [".other.part-999999.mp4", ".out.part-one.part-999999.mp4", ".out.part-9.mkv"]
    for name in names:
        (tmp_path / name).write_bytes(b"of another output")
    restore_file(clip, tmp_path / "out.mp4", deblurrer, SETTINGS)
    assert sorted(hidden(tmp_path)) == sorted(names)


def test_what_a_killed_run_left_may_be_the_input(clip, deblurrer, tmp_path):
    rest = tmp_path / ".out.part-999999.mp4"
    rest.write_bytes(clip.read_bytes())
    restore_file(rest, tmp_path / "out.mp4", deblurrer, SETTINGS)
    assert rest.read_bytes() == clip.read_bytes()


def test_blur_is_reported_for_every_frame(clip, deblurrer, tmp_path):
    report = restore_file(clip, tmp_path / "out.mp4", deblurrer, SETTINGS, measure_blur=True)
    assert len(report.blur) == NUM_FRAMES
    assert all(0 <= score <= 1 for score in report.blur)
    assert report.untouched == 0


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("cause", ["cancelled", "full disk", "damaged"])
def test_threads_end_with_a_run_and_hide_no_error(
    cause, keep, clip, deblurrer, tmp_path, monkeypatch
):
    output = tmp_path / "out.mp4"
    chosen = resumable(output) if keep else None
    callback, expected = None, OSError
    if cause == "cancelled":
        callback, expected = stop_after(20), StoppedError
    elif cause == "full disk":
        encode, calls = FrameEncoder.encode, []

        def full(self, *frame):
            calls.append(threading.current_thread().name)
            if len(calls) == 15:
                raise OSError(errno.ENOSPC, "No space left on device")
            return encode(self, *frame)

        monkeypatch.setattr(FrameEncoder, "encode", full)
    else:
        read = VideoReader.__next__

        def fail(self):
            frame = read(self)
            if frame.pts > 20 * 512:
                raise OSError(errno.EIO, "Input/output error")
            return frame

        monkeypatch.setattr(VideoReader, "__next__", fail)
    before = threading.active_count()
    with pytest.raises(expected, match=None if callback else r"(No space|Input/output|could)"):
        restore_file(clip, output, deblurrer, SETTINGS, resumable=chosen, callback=callback)
    assert threading.active_count() == before
    assert not output.exists()
    if cause == "full disk":
        assert set(calls) == {"write behind"}
