"""The command line as a user meets it: real files in, real files out, one line on error."""

from __future__ import annotations

import json
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from video_deblur.images.folders import FrameFolder
from video_deblur.restoration import load
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

from .command import refused, run, write_clip


@pytest.fixture
def clip(tmp_path) -> Path:
    """Ten frames of 64x48 at 30000/1001."""
    return write_clip(tmp_path / "clip.mp4", 10, 64, 48)


def test_run_keeps_frame_count_size_and_times(clip, checkpoint, tmp_path, capsys):
    output = tmp_path / "out.mp4"
    report = tmp_path / "report.json"
    code, _ = run(
        capsys, "run", clip, "-o", output, "--checkpoint", checkpoint, "--json", report
    )
    assert code == 0
    with VideoReader(clip) as before, VideoReader(output) as after:
        assert (after.info.width, after.info.height) == (64, 48)
        assert after.info.average_rate == before.info.average_rate
        times = [
            [frame.pts * reader.info.time_base for frame in reader]
            for reader in (before, after)
        ]
    assert times[0] == times[1]
    assert json.loads(report.read_text())["frames"] == 10


def test_variable_time_stamps_survive(checkpoint, tmp_path, capsys):
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    stamps = [0, 1001, 2002, 5005, 6006, 9009]
    with VideoWriter(
        clip,
        width=32,
        height=24,
        time_base=Fraction(1, 30000),
        average_rate=Fraction(30000, 1001),
    ) as writer:
        for index, pts in enumerate(stamps):
            writer.write(np.full((24, 32, 3), 40 * index, np.uint8), pts)
    assert run(capsys, "run", clip, "-o", output, "--checkpoint", checkpoint)[0] == 0
    with VideoReader(output) as reader:
        times = [frame.pts * reader.info.time_base for frame in reader]
    assert times == [pts * Fraction(1, 30000) for pts in stamps]


def test_a_portrait_clip_comes_out_upright(clip, checkpoint, tmp_path, capsys):
    # Phones store landscape pixels and a matrix that turns them: here by 90 degrees.
    data = bytearray(clip.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    output = tmp_path / "out.mp4"
    assert run(capsys, "run", clip, "-o", output, "--checkpoint", checkpoint)[0] == 0
    with VideoReader(clip) as before, VideoReader(output) as after:
        assert before.info.rotation in (90, 270)
        assert (after.info.width, after.info.height) == (48, 64)
        assert after.info.rotation == 0
        first = [next(reader).pixels.astype(float) for reader in (before, after)]
    assert np.abs(first[0] - first[1]).mean() < np.abs(first[0] - first[1][::-1]).mean()


@pytest.mark.parametrize("num_frames", [1, 2, 15, 17])
def test_clips_of_any_length_come_out_whole(num_frames, checkpoint, tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4", num_frames, 26, 18)
    output = tmp_path / "out.mkv"
    assert run(capsys, "run", clip, "-o", output, "--checkpoint", checkpoint)[0] == 0
    with VideoReader(output) as reader:
        assert len(list(reader)) == num_frames


def test_odd_sizes_are_kept(checkpoint, tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mkv", 3, 51, 37)
    output = tmp_path / "out.mp4"
    assert run(capsys, "run", clip, "-o", output, "--checkpoint", checkpoint)[0] == 0
    with VideoReader(output) as reader:
        assert (reader.info.width, reader.info.height) == (51, 37)


def test_a_folder_of_frames_becomes_png_files_of_the_same_names(checkpoint, tmp_path, capsys):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("shot_9.jpg", "shot_10.jpg", "shot_11.png"):
        picture = np.random.default_rng(len(name)).integers(0, 255, (33, 41, 3), np.uint8)
        cv2.imwrite(str(folder / name), picture)
    output = tmp_path / "out"
    assert run(capsys, "run", folder, "-o", output, "--checkpoint", checkpoint)[0] == 0
    result = FrameFolder(output)
    assert result.names == ["shot_9.png", "shot_10.png", "shot_11.png"]
    assert (result.width, result.height) == (41, 33)


def test_a_photo_becomes_a_png_of_its_size(checkpoint, tmp_path, capsys, monkeypatch):
    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 255, (37, 51, 3), np.uint8))
    output = tmp_path / "restored.png"
    printed = []
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **options: printed.append(words[0]))
        assert run(capsys, "run", photo, "-o", output, "--checkpoint", checkpoint)[0] == 0
    assert "a single picture has no neighbours" in printed[-1]
    picture = cv2.imread(str(output))
    assert picture is not None
    assert picture.shape == (37, 51, 3)
    line = refused(capsys, "run", photo, "-o", "out.mp4", "--checkpoint", checkpoint)
    assert "name the output .png" in line
    assert {path.suffix for path in tmp_path.iterdir()} == {".jpg", ".png", ".safetensors"}


def test_the_same_seed_gives_identical_frames(clip, checkpoint, tmp_path, capsys):
    outputs = [tmp_path / f"{index}.mkv" for index in range(3)]
    for output, seed in zip(outputs, (5, 5, 6), strict=True):
        arguments = ["--checkpoint", checkpoint, "--seed", seed, "--steps", 2]
        run(capsys, "run", clip, "-o", output, "--codec", "ffv1", *arguments)
    frames = [np.stack([f.pixels for f in VideoReader(output)]) for output in outputs]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "steps must be between 1 and 1000, got 0"),
        (["--window", "1"], "window must be at least 2 frames, got 1"),
        (["--window", "8", "--overlap", "5"], "overlap must be between 0 and 4"),
        (["--strength", "1.5"], "strength must be between 0 and 1"),
        (["--solver", "magic"], "solver must be one of ddim, dpmpp_2m"),
        (["--preset", "best"], "preset must be one of fast, detailed, paper"),
        (["--codec", "mpeg9"], "mpeg9"),
        (["--crf", "99"], "crf"),
        (["--device", "tpu9"], "device 'tpu9' cannot be used here"),
        (["--dtype", "int8"], "dtype must be auto or one of"),
        (["--seed", "-1"], "seed must be between 0"),
        (["--tile", "5"], "tile must be 0"),
    ],
)
def test_options_out_of_range_are_named(arguments, said, clip, checkpoint, tmp_path, capsys):
    output = tmp_path / "out.mp4"
    options = ["--checkpoint", checkpoint, *arguments]
    assert said in refused(capsys, "run", clip, "-o", output, *options)
    assert not output.exists()


def test_unusable_inputs_are_named_and_leave_nothing(clip, checkpoint, tmp_path, capsys):
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    text = tmp_path / "text.mp4"
    text.write_text("hello, this is not a video\n" * 50)
    headless = tmp_path / "headless.mp4"
    headless.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    before = sorted(tmp_path.iterdir())
    for source in (tmp_path / "missing.mp4", empty, text, headless, nothing):
        output = tmp_path / ("out" if source.is_dir() else "out.mp4")
        line = refused(capsys, "run", source, "-o", output, "--checkpoint", checkpoint)
        assert source.name in line
    assert sorted(tmp_path.iterdir()) == before


def test_unusable_outputs_are_named_before_work_starts(clip, checkpoint, tmp_path, capsys):
    options = ["--checkpoint", checkpoint]
    content = clip.read_bytes()
    assert "input itself" in refused(capsys, "run", clip, "-o", clip, *options)
    assert clip.read_bytes() == content
    assert "out.xyz" in refused(capsys, "run", clip, "-o", tmp_path / "out.xyz", *options)


def test_unusable_checkpoints_are_named(clip, checkpoint, tmp_path, capsys):
    good = Path(checkpoint).read_bytes()
    lying = struct.pack("<Q", 1 << 60) + good[8:]
    files = {
        "empty.safetensors": b"",
        "cut.safetensors": good[: len(good) // 2],
        "lying.safetensors": lying,
        "text.safetensors": b"not a checkpoint at all, just text",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    output = tmp_path / "out.mp4"
    for name in [*files, "missing.safetensors"]:
        line = refused(capsys, "run", clip, "-o", output, "--checkpoint", tmp_path / name)
        assert name in line
    assert not output.exists()


@pytest.mark.parametrize("command", ["run", "batch"])
def test_a_network_that_no_engine_runs_is_one_line(
    command, clip, dblrnet_checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(load, "ENGINES", {"diffusion": load.ENGINES["diffusion"]})
    output = tmp_path / ("out.mp4" if command == "run" else "out")
    line = refused(capsys, command, clip, "-o", output, "--checkpoint", dblrnet_checkpoint)
    assert f"{dblrnet_checkpoint}: holds DBLRNet, a feed-forward network, and no engine" in line
    assert not output.exists()


def test_a_pickle_is_never_executed(clip, tmp_path, capsys):
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"weights": Payload()}, tmp_path / "evil.pth")
    output = tmp_path / "out.mp4"
    line = refused(capsys, "run", clip, "-o", output, "--checkpoint", tmp_path / "evil.pth")
    assert "evil.pth" in line
    assert not marker.exists()


def test_files_without_pictures_are_named(checkpoint, tmp_path, capsys):
    sound = tmp_path / "sound.m4a"
    with av.open(str(sound), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    no_frame = tmp_path / "no_frame.mp4"
    with av.open(str(no_frame), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.start_encoding()
    options = ["--checkpoint", checkpoint]
    for source, said in ((sound, "has no video stream"), (no_frame, "has no video stream")):
        line = refused(capsys, "run", source, "-o", tmp_path / "out.mp4", *options)
        assert source.name in line
        assert said in line
    assert not (tmp_path / "out.mp4").exists()


def test_frames_of_any_shape_are_restored(checkpoint, tmp_path, capsys, monkeypatch):
    # The network is left out: what is tested is cutting, reading and writing.
    monkeypatch.setattr(Deblurrer, "predict", lambda self, x, condition, *_: condition)
    wide = np.random.default_rng(0).integers(0, 255, (16, 100_000, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    output = tmp_path / "out.png"
    options = ["--checkpoint", checkpoint]
    assert run(capsys, "run", tmp_path / "wide.png", "-o", output, *options)[0] == 0
    restored = cv2.imread(str(output))
    assert restored is not None
    assert restored.shape == wide.shape
    clip = tmp_path / "wide.mkv"
    with VideoWriter(
        clip,
        width=100_000,
        height=16,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        codec="ffv1",
    ) as writer:
        writer.write(wide, 0)
    line = refused(capsys, "run", clip, "-o", tmp_path / "out.mp4", *options)
    assert "h264 cannot encode 100000x16 pixels" in line
    assert "ffv1 takes any size" in line
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_written_is_named(
    clip, checkpoint, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "read_only"
    folder.mkdir()
    # What the system says of such a folder, whoever runs the tests.
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != folder and access(path, mode)
    )
    for resume in ([], ["--resume"]):
        options = ["--checkpoint", checkpoint, *resume]
        line = refused(capsys, "run", clip, "-o", folder / "out.mp4", *options)
        assert "cannot be written to" in line


def test_sharp_frames_and_cuts_are_reported(checkpoint, tmp_path, capsys):
    discs = np.full((120, 160, 3), 90, np.uint8)
    for index in range(60):
        centre = (index * 37 % 160, index * 53 % 120)
        cv2.circle(discs, centre, 6 + index % 9, (index * 4, 255 - index * 3, 128), -1)
    sharp = tmp_path / "frames"
    sharp.mkdir()
    for index in range(6):
        picture = discs if index < 4 else 255 - cv2.blur(discs, (15, 1))
        cv2.imwrite(str(sharp / f"{index}.png"), picture)
    report, output = tmp_path / "report.json", tmp_path / "out"
    options = ["--checkpoint", checkpoint, "--skip-sharp", "--json", report]
    assert run(capsys, "run", sharp, "-o", output, *options)[0] == 0
    found = json.loads(report.read_text())
    assert found["scene_cuts"] == [4]
    assert found["frames_left_alone"] == 4
    assert [score < 0.5 for score in found["blur"]] == [True] * 4 + [False] * 2
    assert found["settings"]["skip_sharp"]
    for index in range(6):
        pictures = [cv2.imread(str(folder / f"{index}.png")) for folder in (sharp, output)]
        assert np.array_equal(*pictures) == (index < 4)


def test_interlaced_video_says_so_and_becomes_a_frame_for_each_field(
    checkpoint, tmp_path, capsys, caplog
):
    clip = tmp_path / "clip.mp4"
    with VideoWriter(
        clip,
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        fields="bottom",
    ) as writer:
        for index in range(5):
            writer.write(np.full((48, 64, 3), 40 * index, np.uint8), index)
    whole, fields = tmp_path / "whole.mp4", tmp_path / "fields.mp4"
    options = ["--checkpoint", checkpoint, "--strength", "0"]
    assert run(capsys, "run", clip, "-o", whole, *options)[0] == 0
    (line,) = [r.getMessage() for r in caplog.records if "interlaced" in r.getMessage()]
    assert "bottom field first" in line
    caplog.clear()
    options += ["--deinterlace", "field"]
    assert run(capsys, "run", clip, "-o", fields, *options)[0] == 0
    assert not caplog.records
    with VideoReader(whole) as reader:
        assert (reader.info.fields, len(list(reader))) == ("bottom", 5)
    with VideoReader(fields) as reader:
        assert (reader.info.fields, reader.info.average_rate) == (None, 50)
        times = [frame.pts * reader.info.time_base for frame in reader]
    assert times == [Fraction(index, 50) for index in range(10)]


def test_audio_is_copied(checkpoint, tmp_path, capsys):
    clip = tmp_path / "clip.mkv"
    write_with_audio(clip)
    output = tmp_path / "out.mp4"
    assert run(capsys, "run", clip, "-o", output, "--checkpoint", checkpoint)[0] == 0
    packets = []
    for path in (clip, output):
        with av.open(str(path)) as container:
            packets.append([bytes(p) for p in container.demux(audio=0) if p.size])
    assert packets[0] == packets[1]
    assert packets[0]


def write_with_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream("aac", rate=44100)
        for index in range(5):
            pixels = np.full((32, 48, 3), 40 * index, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        wave = np.sin(np.arange(44100 // 5) / 20).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
