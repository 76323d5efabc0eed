"""Clips for tests of jobs, and runs that are stopped."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_deblur.jobs.files import Resumable, restore_file
from video_deblur.jobs.part_store import resume_folder
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.video.reader import VideoReader

# Without borrowing segments of such short windows are short as well.
SETTINGS = RestorationSettings(window=4, overlap=2, borrow=False)
NUM_FRAMES = 40


class StoppedError(Exception):
    pass


def pictures(num_frames: int = NUM_FRAMES, width: int = 64, height: int = 48) -> np.ndarray:
    """Two scenes of moving stripes."""
    columns = np.arange(width)[None, None, :, None] + np.arange(3) * 5
    times = np.arange(num_frames)[:, None, None, None]
    rows = np.arange(height)[None, :, None, None]
    level = np.where(times < num_frames * 2 // 3, 60, 190)
    return (level + 40 * np.sin((columns + times) / 3) * np.cos(rows / 6)).astype(np.uint8)


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
