"""Deblur Video restores what a VIDEO means: the frames and the sound of `get_components`."""

from __future__ import annotations

import importlib
import io
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from .checkpoints import NAME
from .test_deblur_video import packets, write_clip

RATE = Fraction(25)


@pytest.fixture
def deblur_video(call_node, random_checkpoint):
    def call(video, **inputs):
        inputs = {"checkpoint": NAME, "crf": 0, "strength": 0.0, **inputs}
        return call_node("VideoDeblur_DeblurVideo", video=video, **inputs)[0]

    return call


@pytest.fixture
def backend(extension_nodes):
    package = extension_nodes["VideoDeblur_DeblurVideo"].__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.backend")


def numbered_clip(num_frames=50):
    """Frames that tell which ones they are, in grey: 4:2:0 keeps them."""
    levels = torch.linspace(0.1, 0.9, num_frames)[:, None, None, None]
    return levels.expand(num_frames, 48, 64, 3)


def trimmed(comfy, source, start, duration):
    """Return the VIDEO that Trim Video makes; skips where there is no such node."""
    video = comfy.api.InputImpl.VideoFromFile(source)
    if not hasattr(video, "as_trimmed"):
        pytest.skip("this ComfyUI has no Trim Video")
    return video.as_trimmed(start, duration, strict_duration=False)


def assert_same(result, video):
    found, expected = result.get_components(), video.get_components()
    assert len(found.images) == len(expected.images)
    assert (found.images - expected.images).abs().max() < 0.01
    assert found.frame_rate == expected.frame_rate
    return found, expected


@pytest.mark.parametrize(
    ("start", "duration"),
    [
        (0.0, 0.24),
        (0.4, 0.24),
        (0.41, 0.2),
        (0.3999, 0.2401),
        (1.0, 0.0),
        (1.5, 100.0),
        (-0.5, 0.2),
        (-100.0, 0.2),
        (1.96, 1.0),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_trimmed_file_has_the_frames_that_core_gives(
    comfy, deblur_video, tmp_path, start, duration, in_memory, suffix
):
    path = write_clip(tmp_path / f"clip{suffix}", numbered_clip(), RATE)
    source = io.BytesIO(path.read_bytes()) if in_memory else str(path)
    video = trimmed(comfy, source, start, duration)
    assert_same(deblur_video(video), video)


def test_window_of_a_transport_stream_counts_from_its_start(comfy, deblur_video, tmp_path):
    """Core seeks there by the stream's own clock, and then gives no frame."""
    path = write_clip(tmp_path / "clip.ts", numbered_clip(), RATE)
    with av.open(str(path)) as container:
        # libav rounds it to microseconds.
        start = round(Fraction(container.start_time, av.time_base) * 90000)
        times = [Fraction(f.pts - start, 90000) for f in container.decode(video=0)]
    wanted = [
        index for index, time in enumerate(times) if Fraction(2, 5) <= time < Fraction(4, 5)
    ]
    result = deblur_video(trimmed(comfy, str(path), 0.4, 0.4)).get_components()
    levels = result.images.mean((1, 2, 3)) - numbered_clip()[wanted].mean((1, 2, 3))
    assert levels.abs().max() < 0.01


def test_trimmed_file_has_its_sound(comfy, deblur_video, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered_clip(), RATE)
    video = trimmed(comfy, str(path), 0.04, 0.2)
    result = deblur_video(video)
    assert_same(result, video)
    # Packets are copied whole. Not decoded: FFmpeg 9 drops samples of sound that starts late.
    found = packets(result.get_stream_source(), "audio")
    start, stop = Fraction(1, 25), Fraction(6, 25)
    inside = [(t, data) for t, data in packets(str(path), "audio") if start <= t < stop]
    assert found == [(time - start, data) for time, data in inside]
    assert inside


def test_trimmed_twice_is_a_window_of_a_window(comfy, deblur_video, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered_clip(), RATE)
    video = trimmed(comfy, str(path), 0.4, 1.0).as_trimmed(0.2, 0.4, strict_duration=False)
    found, _ = assert_same(deblur_video(video), video)
    assert len(found.images) == 10


def test_trimmed_created_video_has_the_frames_that_core_gives(comfy, call_node, deblur_video):
    (video,) = call_node("CreateVideo", images=numbered_clip(), fps=25.0)
    if not hasattr(video, "as_trimmed"):
        pytest.skip("this ComfyUI has no Trim Video")
    assert_same(deblur_video(trimmed := video.as_trimmed(0.4, 0.4)), trimmed)


def test_window_of_versions_that_tell_nobody_is_found(comfy, backend, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered_clip(), RATE)

    class Trimmed:
        def __init__(self, start, duration):
            self._VideoFromFile__start_time = start
            self._VideoFromFile__duration = duration

        def get_stream_source(self):
            return str(path)

    assert backend.trim_window(Trimmed(0.4, 1.0)) == (0.4, 1.0)
    start, duration = backend.trim_window(Trimmed(-0.5, 0.0))
    assert start == pytest.approx(1.5, abs=0.1)
    assert duration == 0


def test_untrimmed_file_is_taken_as_it_is(comfy, backend, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered_clip(), RATE)
    video = comfy.api.InputImpl.VideoFromFile(str(path))
    assert backend.trim_window(video) == (0.0, 0.0)
    assert not backend.has_other_frames(video)


@pytest.mark.parametrize("tells", [True, False])
def test_cropped_file_is_restored_cropped(comfy, deblur_video, tmp_path, tells):
    """As newer versions crop: the file behind it stays whole."""
    path = write_clip(tmp_path / "clip.mp4", numbered_clip(), RATE)
    make_file = comfy.api.InputImpl.VideoFromFile

    class Cropped(make_file):
        def get_components(self):
            parts = super().get_components()
            parts.images = parts.images[:, 8:40, 16:56]
            return parts

        def get_dimensions(self):
            return 40, 32

        def as_cropped(self, *rectangle):
            raise NotImplementedError

    if tells:
        Cropped.has_pending_frame_edits = lambda self: True
    video = Cropped(str(path))
    found, _ = assert_same(deblur_video(video), video)
    assert found.images.shape[1:3] == (32, 40)


def test_files_in_a_row_are_restored_trimmed(comfy, deblur_video, tmp_path):
    """As newer versions concatenate: each file may be trimmed."""
    path = write_clip(tmp_path / "clip.mp4", numbered_clip(), RATE)
    first = trimmed(comfy, str(path), 0.0, 0.2)
    second = trimmed(comfy, str(path), 1.0, 0.2)

    class InARow(comfy.api.InputImpl.VideoFromFile):
        videos = (first, second)

        def get_components(self):
            parts, more = first.get_components(), second.get_components()
            parts.images = torch.cat([parts.images, more.images])
            parts.audio = None
            return parts

    video = InARow(str(path))
    found, _ = assert_same(deblur_video(video), video)
    assert len(found.images) == 10


def test_window_outside_the_video_is_refused_by_name(comfy, deblur_video, tmp_path):
    path = write_clip(tmp_path / "clip.mp4", numbered_clip(), RATE)
    video = trimmed(comfy, str(path), 5.0, 1.0)
    folder = Path(comfy.folder_paths.get_temp_directory())
    before = set(folder.glob("*"))
    with pytest.raises(ValueError, match=r"clip\.mp4: has no frame from 5\.000 s to 6\.000 s"):
        deblur_video(video)
    assert set(folder.glob("*")) == before
