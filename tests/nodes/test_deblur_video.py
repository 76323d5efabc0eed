"""Deblur Video: files, streams in memory and Create Video in; a file out, sound untouched."""

from __future__ import annotations

import importlib
import io
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_deblur.cli import main
from video_deblur.models.checkpoint import load_model
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import preset_settings
from video_deblur.video.reader import VideoReader

from .checkpoints import NAME, blurry_clip


@pytest.fixture
def deblur_video(call_node, random_checkpoint):
    # Files go with their VIDEO, of which tests keep the path.
    videos = []

    def call(video, **inputs):
        inputs = {"checkpoint": NAME, "crf": 0, **inputs}
        videos.append(call_node("VideoDeblur_DeblurVideo", video=video, **inputs)[0])
        return videos[-1]

    return call


@pytest.fixture
def clip_file(tmp_path):
    return write_clip(tmp_path / "clip.mp4", blurry_clip(5, 48, 64), Fraction(30000, 1001))


def write_clip(path, frames, rate, sound="aac"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = (
            frames.shape[2],
            frames.shape[1],
            "yuv420p",
        )
        audio = container.add_stream(sound, rate=8000) if sound else None
        for frame in frames:
            pixels = (frame * 255).round().byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        if audio is not None:
            tone = np.sin(np.arange(1024 * 2) * 0.2)[None]
            kind, scale = (np.int16, 30000) if sound.startswith("pcm") else (np.float32, 1)
            layout = {"format": audio.format.name, "layout": "mono"}
            chunk = av.AudioFrame.from_ndarray((tone * scale).astype(kind), **layout)
            chunk.sample_rate = 8000
            container.mux(audio.encode(chunk))
            container.mux(audio.encode())
    return path


def read(path):
    with VideoReader(path) as reader:
        return torch.from_numpy(np.stack([frame.pixels for frame in reader])) / 255


def brightness_psnr(a, b):
    """Compare what 4:2:0 keeps: it halves the resolution of the colours."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    return float(-10 * torch.log10((((a - b) @ weights) ** 2).mean().clamp(min=1e-12)))


def packets(source, kind):
    with av.open(source) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        found = [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]
        return sorted(found, key=lambda packet: packet[0])


def test_file_keeps_its_times_and_sound(comfy, deblur_video, clip_file):
    result = deblur_video(comfy.api.InputImpl.VideoFromFile(str(clip_file)))
    path = result.get_stream_source()
    assert path.startswith(comfy.folder_paths.get_temp_directory())
    times = [time for time, _ in packets(path, "video")]
    assert times == [time for time, _ in packets(str(clip_file), "video")]
    assert packets(path, "audio") == packets(str(clip_file), "audio")


def test_file_restores_like_the_library(comfy, deblur_video, clip_file, random_checkpoint):
    video = comfy.api.InputImpl.VideoFromFile(str(clip_file))
    model = load_model(random_checkpoint)
    frames = read(clip_file)
    expected = Deblurrer(model).restore(frames, preset_settings(model.config, "fast", seed=3))
    restored = read(deblur_video(video, seed=3).get_stream_source())
    assert brightness_psnr(restored, expected) > 45
    assert brightness_psnr(restored, frames) < 40


def test_file_restores_to_the_same_pictures_as_the_command_line(
    comfy, deblur_video, clip_file, random_checkpoint, tmp_path
):
    output = tmp_path / "restored.mp4"
    options = ["--checkpoint", str(random_checkpoint), "--dtype", "float32", "--seed", "3"]
    main(["run", str(clip_file), "-o", str(output), "--device", "cpu", "--crf", "0", *options])
    video = comfy.api.InputImpl.VideoFromFile(str(clip_file))
    restored = deblur_video(video, seed=3).get_stream_source()
    assert brightness_psnr(read(restored), read(output)) > 50


def test_video_in_memory_works(comfy, deblur_video, clip_file):
    video = comfy.api.InputImpl.VideoFromFile(io.BytesIO(clip_file.read_bytes()))
    result = deblur_video(video)
    assert result.get_dimensions() == (64, 48)
    assert len(packets(result.get_stream_source(), "video")) == 5


@pytest.mark.parametrize(("codec", "levels"), [("h264", 256), ("h265", 1024)])
def test_created_video_keeps_the_bits_that_the_codec_can_store(
    call_node, deblur_video, codec, levels
):
    ramp = torch.linspace(0.2, 0.8, 512)[None, :, None].expand(32, 512, 3)
    (video,) = call_node("CreateVideo", images=ramp.repeat(2, 1, 1, 1), fps=20.0)
    path = deblur_video(video, strength=0.0, codec=codec, crf=0).get_stream_source()
    with VideoReader(path) as reader:
        pixels = next(iter(reader)).pixels
    found = len(np.unique(pixels[16, :, 0]))
    assert 0.5 * 0.6 * levels < found < 0.7 * levels


def test_created_video_keeps_its_sound_and_rate(call_node, deblur_video):
    audio = {"waveform": torch.rand(1, 1, 1600), "sample_rate": 8000}
    frames = blurry_clip(4, 40, 50)
    (video,) = call_node("CreateVideo", images=frames, fps=20.0, audio=audio)
    path = deblur_video(video).get_stream_source()
    times = [time for time, _ in packets(path, "video")]
    assert times == [Fraction(index, 20) for index in range(4)]
    assert packets(path, "audio")


@pytest.mark.parametrize(
    "rate",
    [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60000, 1001), Fraction(25, 3)],
    ids=str,
)
def test_rates_that_went_through_a_float_keep_times_and_sound(
    comfy, call_node, deblur_video, tmp_path, rate
):
    path = write_clip(tmp_path / "clip.mp4", blurry_clip(4, 48, 64), rate)
    loaded = comfy.api.InputImpl.VideoFromFile(str(path))
    images, audio, fps = call_node("GetVideoComponents", video=loaded)[:3]
    audio = {"waveform": torch.rand(1, 1, 8000), "sample_rate": 8000}
    (video,) = call_node("CreateVideo", images=images, audio=audio, fps=fps)
    assert video.get_components().frame_rate != rate
    restored = deblur_video(video, strength=0.0).get_stream_source()
    assert [time for time, _ in packets(restored, "video")] == [n / rate for n in range(4)]
    with av.open(restored) as container:
        (pictures,), (sound,) = container.streams.video, container.streams.audio
        assert pictures.average_rate == rate
        # As long as the pictures, but for a packet of AAC at each end.
        length = sound.duration * sound.time_base
        assert abs(length - 4 / rate) <= Fraction(2 * 1024, 8000)


@pytest.mark.parametrize("fps", [1.0, 1.1, 7.77, 12.3456, 29.97, 120.0])
def test_created_videos_of_odd_rates_keep_their_times(call_node, deblur_video, fps):
    (video,) = call_node("CreateVideo", images=blurry_clip(3, 16, 24), fps=fps)
    path = deblur_video(video, strength=0.0).get_stream_source()
    times = [float(time) for time, _ in packets(path, "video")]
    assert times == pytest.approx([0, 1 / fps, 2 / fps], rel=1e-6)


@pytest.mark.parametrize(
    "rate", [Fraction(0.1), Fraction(0.0123), Fraction(2, 3), Fraction(1, 3600)]
)
def test_videos_of_less_than_a_frame_per_second_work(comfy, deblur_video, rate):
    images = blurry_clip(3, 16, 24)
    parts = comfy.api.Types.VideoComponents(images=images, audio=None, frame_rate=rate)
    path = deblur_video(comfy.api.InputImpl.VideoFromComponents(parts), strength=0.0)
    times = [float(time) for time, _ in packets(path.get_stream_source(), "video")]
    assert times == pytest.approx([0, 1 / rate, 2 / rate], rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 64, 64), (17, 37, 45), (50, 16, 24)])
def test_number_of_frames_and_size_stay(call_node, deblur_video, shape):
    (video,) = call_node("CreateVideo", images=blurry_clip(*shape), fps=24.0)
    restored = read(deblur_video(video).get_stream_source())
    assert restored.shape == (*shape, 3)


def test_created_video_is_not_encoded_before_it_is_restored(call_node, deblur_video):
    frames = blurry_clip(3, 40, 50)
    (video,) = call_node("CreateVideo", images=frames, fps=20.0)
    restored = read(deblur_video(video, strength=0.0).get_stream_source())
    assert restored.shape == frames.shape
    assert brightness_psnr(restored, frames) > 50


def test_a_cancelled_run_goes_on_when_it_is_queued_again(
    comfy, extension_nodes, deblur_video, tmp_path, monkeypatch
):
    package = extension_nodes["VideoDeblur_DeblurVideo"].__module__.rpartition(".nodes.")[0]
    segments = importlib.import_module(f"{package}.restoration.streaming.segments")
    monkeypatch.setattr(segments, "_MOST_FRAMES_MANY_STEPS", 64)
    path = write_clip(tmp_path / "long.mp4", blurry_clip(80, 16, 24), Fraction(25))
    video = comfy.api.InputImpl.VideoFromFile(str(path))
    folder = Path(comfy.folder_paths.get_temp_directory())
    whole = deblur_video(video, seed=7).get_stream_source()

    # Not the hook behind it: newer versions leave out updates that follow each other fast.
    def cancel_late(bar, value, total=None, preview=None):
        if value > 0.8 * total:
            comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancel_late)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        deblur_video(video, seed=7)
    assert len(list(folder.glob("video_deblur_parts_*"))) == 1
    shares = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar,
        "update_absolute",
        lambda bar, value, total=None, preview=None: shares.append(value / total),
    )
    again = deblur_video(video, seed=7).get_stream_source()
    # The first one says that the work begins.
    assert shares[1] > 0.5
    assert packets(again, "video") == packets(whole, "video")
    assert not list(folder.glob("video_deblur_parts_*"))


def test_of_a_video_that_is_cut_off_the_frames_before_are_kept(comfy, deblur_video, tmp_path):
    path = write_clip(tmp_path / "clip.mkv", blurry_clip(30, 48, 64), Fraction(25))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ValueError, match=r"clip\.mkv: stops after frame") as caught:
        deblur_video(comfy.api.InputImpl.VideoFromFile(str(path)))
    kept = str(caught.value).rpartition("restored in ")[2].rstrip(".")
    assert 1 < len(read(kept)) < 30


def test_files_without_pictures_are_one_line_and_leave_nothing(comfy, deblur_video, tmp_path):
    folder = Path(comfy.folder_paths.get_temp_directory())
    before = set(folder.glob("*")) | set(folder.glob(".*"))
    sound, no_frame = tmp_path / "sound.mka", tmp_path / "no_frame.avi"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        samples = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), np.int16), format="s16", layout="mono"
        )
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with av.open(str(no_frame), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.start_encoding()
    for path, said in ((sound, "has no video stream"), (no_frame, "has no video frame")):
        with pytest.raises(ValueError, match=rf"{path.name}: {said}") as caught:
            deblur_video(comfy.api.InputImpl.VideoFromFile(str(path)))
        assert len(str(caught.value).splitlines()) == 1
    assert set(folder.glob("*")) | set(folder.glob(".*")) == before


def test_of_a_stream_that_changes_its_size_the_frames_before_are_kept(
    comfy, deblur_video, tmp_path
):
    pieces = []
    for index, size in enumerate([(48, 64), (32, 48)]):
        path = tmp_path / f"{index}.ts"
        with av.open(str(path), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            for frame in (blurry_clip(6, *size) * 255).byte().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        pieces.append(path.read_bytes())
    changing = tmp_path / "changing.ts"
    changing.write_bytes(b"".join(pieces))
    with pytest.raises(
        ValueError, match=r"changing\.ts: changes from 64x48 .* at frame"
    ) as caught:
        deblur_video(comfy.api.InputImpl.VideoFromFile(str(changing)))
    kept = str(caught.value).rpartition("restored in ")[2].rstrip(".")
    assert 1 <= len(read(kept)) <= 6


def test_cancelling_does_not_wait_for_the_encoder_of_a_created_video(
    comfy, call_node, deblur_video, extension_nodes, monkeypatch
):
    package = extension_nodes["VideoDeblur_Deblur"].__module__.partition(".nodes.")[0]
    encoder = importlib.import_module(f"{package}.video.encoder").PacketEncoder
    finish, slow = encoder.finish, threading.Event()

    def finish_late(self):
        comfy.model_management.interrupt_current_processing(True)
        slow.wait(60)
        return finish(self)

    monkeypatch.setattr(encoder, "finish", finish_late)
    (video,) = call_node("CreateVideo", images=blurry_clip(3, 40, 50), fps=20.0)
    start = time.monotonic()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        deblur_video(video)
    assert time.monotonic() - start < 50
    slow.set()


def test_failure_and_cancelling_leave_nothing_behind(comfy, deblur_video, clip_file, tmp_path):
    folder = Path(comfy.folder_paths.get_temp_directory())
    before = set(folder.glob("*")) | set(folder.glob(".*"))
    video = comfy.api.InputImpl.VideoFromFile(str(clip_file))
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        deblur_video(video)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be opened as a video"):
        deblur_video(comfy.api.InputImpl.VideoFromFile(str(text)))
    assert set(folder.glob("*")) | set(folder.glob(".*")) == before
