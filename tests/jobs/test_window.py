"""Windows of time: their frames, their sound, and going on after a stop."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.jobs.files import restore_ends
from video_deblur.jobs.window import WindowEnds
from video_deblur.video.reader import VideoReader
from video_deblur.video.source import VideoError
from video_deblur.video.writer import VideoWriter

from .footage import (
    SETTINGS,
    StoppedError,
    packets,
    pictures,
    resumable,
    stop_after,
    write_clip,
)

UNTOUCHED = dataclasses.replace(SETTINGS, strength=0.0)


def read(path):
    with VideoReader(path) as reader:
        found = [(frame.pts * reader.info.time_base, frame.pixels) for frame in reader]
    return [time for time, _ in found], np.stack([pixels for _, pixels in found])


def sound(path):
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        # Transport streams count from anywhere.
        start = container.start_time / av.time_base if path.suffix == ".ts" else 0
        return [
            (float(packet.pts * packet.time_base) - start, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


@pytest.mark.parametrize(
    ("start", "duration", "wanted"),
    [
        (0.4, 0.2, range(10, 15)),
        # Between two frames: the one that is on display has started before.
        (0.41, 0.2, range(11, 16)),
        (0.36, 0.0, range(9, 40)),
        (0.0, 0.04, range(1)),
        (1.48, 60.0, range(37, 40)),
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_window_has_the_frames_that_start_in_it(
    name, start, duration, wanted, deblurrer, tmp_path
):
    clip = write_clip(tmp_path / name, pictures())
    output = tmp_path / f"out_{name}"
    ends = WindowEnds(clip, output, crf=0, start_s=start, duration_s=duration)
    report = restore_ends(ends, deblurrer, UNTOUCHED)
    _, source = read(clip)
    times, found = read(output)
    assert report.num_frames == len(found) == len(wanted)
    assert times == [Fraction(index, 25) for index in range(len(wanted))]
    assert np.abs(found.astype(int) - source[wanted.start : wanted.stop]).mean() < 2


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_sound_of_a_window_stays_with_its_pictures(name, deblurrer, tmp_path):
    clip = write_clip(tmp_path / name, pictures())
    output = tmp_path / "out.mkv"
    first = read(clip)[0][0]
    ends = WindowEnds(clip, output, start_s=float(first) + 0.4, duration_s=0.6)
    restore_ends(ends, deblurrer, UNTOUCHED)
    begin, stop = float(first) + 0.4, float(first) + 1.0
    expected = [
        (time - begin, data) for time, data in sound(clip) if begin <= time < stop - 1e-6
    ]
    found = sound(output)
    # Transport streams put a header before each packet, which Matroska has no place for.
    assert len(found) == len(expected)
    assert all(
        long.endswith(short) for (_, long), (_, short) in zip(expected, found, strict=True)
    )
    assert [time for time, _ in found] == pytest.approx(
        [time for time, _ in expected], abs=0.0011
    )


def test_sound_of_mp4_keeps_its_times_exactly(deblurrer, clip, tmp_path):
    output = tmp_path / "out.mp4"
    restore_ends(WindowEnds(clip, output, start_s=0.4, duration_s=0.6), deblurrer, UNTOUCHED)
    expected = [
        (pts - 6400, data) for pts, data in packets(clip, "audio") if 6400 <= pts < 16000
    ]
    assert packets(output, "audio") == expected


def test_silent_video_has_windows_too(deblurrer, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", pictures(), sound=False)
    output = tmp_path / "out.mp4"
    restore_ends(WindowEnds(clip, output, start_s=1.0), deblurrer, UNTOUCHED)
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_stopped_window_goes_on_to_the_same_file(deblurrer, clip, tmp_path):
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    window = {"start_s": 0.24, "duration_s": 1.2}
    restore_ends(
        WindowEnds(clip, whole, **window), deblurrer, SETTINGS, resumable=resumable(whole)
    )
    with pytest.raises(StoppedError):
        restore_ends(
            WindowEnds(clip, output, **window),
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            callback=stop_after(20),
        )
    begun = []
    restore_ends(
        WindowEnds(clip, output, **window),
        deblurrer,
        SETTINGS,
        resumable=resumable(output),
        callback=lambda done, total: begun.append(done),
    )
    assert begun[0] > 4
    assert packets(output, "video") == packets(whole, "video")
    assert packets(output, "audio") == packets(whole, "audio")


def test_another_window_starts_over(deblurrer, clip, tmp_path, caplog):
    output = tmp_path / "out.mp4"
    with pytest.raises(StoppedError):
        restore_ends(
            WindowEnds(clip, output, start_s=0.24),
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            callback=stop_after(20),
        )
    restore_ends(
        WindowEnds(clip, output, start_s=0.28),
        deblurrer,
        SETTINGS,
        resumable=resumable(output),
    )
    assert (
        "starts over, as this has changed since the run that was stopped: window" in caplog.text
    )
    assert len(read(output)[0]) == 33


@pytest.mark.parametrize("before", [10, 0])
def test_opening_a_window_can_be_cancelled(clip, tmp_path, before):
    checks = []

    def check() -> None:
        checks.append(1)
        # Frames before the window are passed over first, then its sound is copied.
        if len(checks) > before:
            raise StoppedError

    ends = WindowEnds(clip, tmp_path / "out.mp4", start_s=0.4)
    ends.check = check
    with pytest.raises(StoppedError), ends:
        pass
    assert not list(tmp_path.glob("*out*"))


def test_window_beyond_the_end_is_refused_by_name(deblurrer, clip, tmp_path):
    ends = WindowEnds(clip, tmp_path / "out.mp4", start_s=5.0, duration_s=1.0)
    with pytest.raises(VideoError, match=r"clip\.mp4: has no frame from 5\.000 s to 6\.000 s"):
        restore_ends(ends, deblurrer, SETTINGS)
    assert not (tmp_path / "out.mp4").exists()


def test_still_picture_ends_with_the_window(deblurrer, tmp_path):
    clip, output = tmp_path / "slides.mp4", tmp_path / "out.mp4"
    with VideoWriter(
        clip, width=64, height=48, time_base=Fraction(1, 1000), average_rate=Fraction(25)
    ) as writer:
        for pts, pixels in zip((0, 40, 80, 5080), pictures(4), strict=True):
            writer.write(pixels, pts)
    restore_ends(WindowEnds(clip, output, start_s=0.04, duration_s=2.0), deblurrer, UNTOUCHED)
    with VideoReader(output) as reader:
        shown = [(frame.pts, frame.duration) for frame in reader]
        unit = reader.info.time_base
    assert [(pts * unit, duration * unit) for pts, duration in shown] == [
        (0, Fraction(40, 1000)),
        (Fraction(40, 1000), Fraction(1960, 1000)),
    ]
