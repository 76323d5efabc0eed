"""Files in, files out: stopped, resumed, cut off, refused."""

from __future__ import annotations

import dataclasses
import errno
import logging
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from video_deblur.jobs import parts
from video_deblur.jobs.files import Resumable, restore_file, restore_folder
from video_deblur.jobs.part_store import PartStore, resume_folder
from video_deblur.restoration.engine import Deblurrer
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import segments
from video_deblur.video.color import ColorTags
from video_deblur.video.output_lock import output_lock
from video_deblur.video.reader import VideoReader
from video_deblur.video.source import VideoError
from video_deblur.video.writer import VideoWriter

# Without borrowing segments of such short windows are short as well.
SETTINGS = RestorationSettings(window=4, overlap=2, borrow=False)
NUM_FRAMES = 40


class StoppedError(Exception):
    pass


@pytest.fixture
def deblurrer(small_model, monkeypatch) -> Deblurrer:
    """An engine whose network takes no time: a little of the noise stays."""
    engine = Deblurrer(small_model)
    monkeypatch.setattr(engine, "predict", lambda x, condition, *_: condition + 0.1 * x)
    return engine


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    monkeypatch.setattr(parts, "PART_FRAMES", 8)


def pictures(num_frames: int = NUM_FRAMES, width: int = 64, height: int = 48) -> np.ndarray:
    """Two scenes of moving stripes."""
    columns = np.arange(width)[None, None, :, None] + np.arange(3) * 5
    times = np.arange(num_frames)[:, None, None, None]
    rows = np.arange(height)[None, :, None, None]
    level = np.where(times < num_frames * 2 // 3, 60, 190)
    return (level + 40 * np.sin((columns + times) / 3) * np.cos(rows / 6)).astype(np.uint8)


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", pictures())


def write_clip(path: Path, frames: np.ndarray, sound: bool = True) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "4"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for index, pixels in enumerate(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            if audio is not None:
                wave = np.sin(np.arange(640) / (8 + index % 5)).astype(np.float32)[None]
                samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                samples.sample_rate, samples.pts = 16000, 640 * index
                container.mux(audio.encode(samples))
        for each in (stream, audio):
            if each is not None:
                container.mux(each.encode(None))
    return path


def packets(path: Path, kind: str) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (packet.pts, bytes(packet)) for packet in container.demux(stream) if packet.size
        ]


def decoded(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([frame.pixels for frame in reader])


def resumable(output: Path, **identity: str) -> Resumable:
    return Resumable(folder=resume_folder(output), identity={"checkpoint": "1", **identity})


def stop_after(num_frames: float):
    def callback(done: float, total: int | None) -> None:
        if done >= num_frames:
            raise StoppedError

    return callback


def stopped(clip, output, deblurrer, after, settings=SETTINGS, **options) -> None:
    with pytest.raises(StoppedError):
        restore_file(
            clip,
            output,
            deblurrer,
            settings,
            resumable=resumable(output),
            callback=stop_after(after),
            **options,
        )
    assert not output.exists()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("out.mp4", "h264"), ("out.mov", "prores"), ("out.mkv", "ffv1"), ("out.mp4", "h265")],
)
def test_a_stopped_run_goes_on_and_gives_the_same_file(name, codec, clip, deblurrer, tmp_path):
    whole, output = tmp_path / f"whole_{name}", tmp_path / name
    report = restore_file(
        clip, whole, deblurrer, SETTINGS, codec=codec, resumable=resumable(whole)
    )
    seen = []
    for after in (11, 23):
        stopped(clip, output, deblurrer, after, codec=codec)
        seen.append(len(list(resume_folder(output).glob("*.packets"))))
    assert seen == [1, 2]
    again = restore_file(
        clip, output, deblurrer, SETTINGS, codec=codec, resumable=resumable(output)
    )
    assert again == report
    assert report.num_frames == NUM_FRAMES
    assert report.cuts == (26,)
    for kind in ("video", "audio"):
        assert packets(output, kind) == packets(whole, kind)
    assert packets(output, "audio") == packets(clip, "audio") or name.endswith("mkv")
    assert np.array_equal(decoded(output), decoded(whole))
    assert hidden(tmp_path) == []


def test_parts_give_the_frames_and_times_of_one_piece(clip, deblurrer, tmp_path):
    paths = [tmp_path / "straight.mkv", tmp_path / "parts.mkv"]
    restore_file(clip, paths[0], deblurrer, SETTINGS, codec="ffv1")
    chosen = resumable(paths[1])
    restore_file(clip, paths[1], deblurrer, SETTINGS, codec="ffv1", resumable=chosen)
    assert np.array_equal(decoded(paths[0]), decoded(paths[1]))
    times = [[pts for pts, _ in packets(path, "video")] for path in paths]
    assert times[0] == times[1]


def test_h264_parts_decode_to_what_was_encoded(clip, deblurrer, tmp_path):
    output = tmp_path / "out.mp4"
    settings = dataclasses.replace(SETTINGS, strength=0)
    restore_file(clip, output, deblurrer, settings, crf=0, resumable=resumable(output))
    difference = decoded(output).astype(int) - decoded(clip)
    assert np.abs(difference).mean() < 1.5
    with av.open(str(output)) as container:
        keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
    assert sum(keys) >= NUM_FRAMES // 10


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


@pytest.mark.parametrize("change", ["settings", "checkpoint", "input", "codec"])
def test_whatever_the_result_depends_on_starts_over(change, clip, deblurrer, tmp_path, caplog):
    output = tmp_path / "out.mp4"
    stopped(clip, output, deblurrer, 23)
    settings, options = SETTINGS, {}
    chosen = resumable(output)
    if change == "settings":
        settings = dataclasses.replace(SETTINGS, seed=3)
    elif change == "checkpoint":
        chosen = resumable(output, checkpoint="2")
    elif change == "input":
        write_clip(clip, pictures()[::-1])
    else:
        options["codec"] = "h265"
    with caplog.at_level(logging.WARNING):
        restore_file(clip, output, deblurrer, settings, resumable=chosen, **options)
    named = {"codec": "pictures"}.get(change, change)
    (message,) = [r.getMessage() for r in caplog.records if "starts over" in r.getMessage()]
    assert message.endswith(f"since the run that was stopped: {named}")
    fresh = tmp_path / "fresh.mp4"
    restore_file(clip, fresh, deblurrer, settings, resumable=resumable(fresh), **options)
    assert packets(output, "video") == packets(fresh, "video")


@pytest.mark.parametrize("damage", ["packets", "json", "leftover"])
def test_a_part_that_is_not_whole_is_made_again(damage, clip, deblurrer, tmp_path):
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    restore_file(clip, whole, deblurrer, SETTINGS, resumable=resumable(whole))
    stopped(clip, output, deblurrer, 23)
    folder = resume_folder(output)
    last = sorted(folder.glob("*.packets"))[-1]
    if damage == "packets":
        last.write_bytes(last.read_bytes()[:-5])
    elif damage == "json":
        last.with_suffix(".json").write_text('{"packets": [[')
    else:
        (folder / ".000009.packets.part-1").write_bytes(b"half")
    restore_file(clip, output, deblurrer, SETTINGS, resumable=resumable(output))
    assert packets(output, "video") == packets(whole, "video")
    assert hidden(tmp_path) == []


def test_a_run_without_finished_parts_leaves_nothing(clip, deblurrer, tmp_path):
    output = tmp_path / "out.mp4"
    stopped(clip, output, deblurrer, 3)
    assert hidden(tmp_path) == []


def test_a_full_disk_keeps_what_is_finished_and_says_so(clip, deblurrer, tmp_path, monkeypatch):
    output = tmp_path / "out.mp4"
    add, calls = PartStore.add, []

    def full(self, *args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, *args)

    monkeypatch.setattr(PartStore, "add", full)
    with pytest.raises(
        OSError, match=r"No space left on device.*; \d+ finished frames are kept"
    ):
        restore_file(clip, output, deblurrer, SETTINGS, resumable=resumable(output))
    monkeypatch.setattr(PartStore, "add", add)
    done = []
    restore_file(
        clip,
        output,
        deblurrer,
        SETTINGS,
        resumable=resumable(output),
        callback=lambda count, total: done.append(count),
    )
    assert done[0] > 15
    assert len(decoded(output)) == NUM_FRAMES


def test_a_folder_of_frames_goes_on_too(deblurrer, tmp_path):
    source = tmp_path / "frames"
    source.mkdir()
    for index, pixels in enumerate(pictures(30)):
        cv2.imwrite(str(source / f"{index:03d}.png"), pixels)
    whole, output = tmp_path / "whole", tmp_path / "out"
    restore_folder(source, whole, deblurrer, SETTINGS)
    with pytest.raises(StoppedError):
        restore_folder(
            source,
            output,
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            callback=stop_after(15),
        )
    assert not output.exists()
    done = []
    report = restore_folder(
        source,
        output,
        deblurrer,
        SETTINGS,
        resumable=resumable(output),
        callback=lambda count, total: done.append(count),
    )
    assert done[0] > 5
    assert (report.num_frames, report.cuts) == (30, (20,))
    for path in whole.iterdir():
        assert path.read_bytes() == (output / path.name).read_bytes()
    assert hidden(tmp_path) == []


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
    other = tmp_path / ".other.part-999999.mp4"
    other.write_bytes(b"of another output")
    restore_file(clip, tmp_path / "out.mp4", deblurrer, SETTINGS)
    assert hidden(tmp_path) == [other.name]


def test_blur_is_reported_for_every_frame(clip, deblurrer, tmp_path):
    report = restore_file(clip, tmp_path / "out.mp4", deblurrer, SETTINGS, measure_blur=True)
    assert len(report.blur) == NUM_FRAMES
    assert all(0 <= score <= 1 for score in report.blur)
    assert report.untouched == 0
