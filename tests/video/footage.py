"""Files with sound of any kind, made with PyAV, and what is heard in a file."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

MKV_PRIMING_S = 1024 / 48000 if av.library_versions["libavformat"] < (63,) else 0
"""Seconds by which all streams of an mp4 with AAC are later in Matroska: its priming, which
FFmpeg 9 and newer leave out of account there."""

RATE = Fraction(25)


def clicks(
    rate: int, seconds: float = 1.2, channels: int = 1, at: tuple[float, ...] = (0.2, 0.9)
) -> np.ndarray:
    """Return `[channels, samples]` float32: silence with short bursts at given times."""
    wave = np.zeros(int(rate * seconds), np.float32)
    for time in at:
        start = int(time * rate)
        length = rate // 100
        wave[start : start + length] = 0.8 * np.sin(np.arange(length) * 2 * np.pi * 1500 / rate)
    return np.repeat(wave[None], channels, axis=0)


def write_sound(
    container: Any, stream: Any, wave: np.ndarray, layout: str, start: Fraction = Fraction(0)
) -> None:
    """Encode a wave into a stream; `start` is in seconds."""
    context = stream.codec_context
    container.start_encoding()
    rate, size = context.sample_rate, context.frame_size or 1024
    resampler = av.AudioResampler(context.format.name, layout, rate, frame_size=size)
    first = round(start * rate)
    for begin in range(0, wave.shape[1], size):
        part = np.ascontiguousarray(wave[:, begin : begin + size])
        samples = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        samples.sample_rate, samples.pts = rate, first + begin
        samples.time_base = Fraction(1, rate)
        for frame in resampler.resample(samples):
            container.mux(stream.encode(frame))
    for frame in resampler.resample(None):
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_film(
    path: Path,
    sound: str | None = "aac",
    *,
    rate: int = 48000,
    layout: str = "mono",
    num_frames: int = 30,
    start: Fraction = Fraction(0),
    format_name: str | None = None,
    more: Callable[[Any, Any], None] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write pictures at 25 per second from time 0, and clicks that begin at `start`.

    `more` is called with the container and the video stream before anything is written.
    """
    with av.open(str(path), "w", format=format_name, options=options or {}) as container:
        video: Any = container.add_stream("libx264", rate=RATE, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio: Any = None
        if sound is not None:
            audio = container.add_stream(sound, rate=rate, layout=layout)
            audio.bit_rate = 128000
        if more is not None:
            more(container, video)
        if audio is not None:
            channels = audio.codec_context.channels
            write_sound(container, audio, clicks(rate, channels=channels), layout, start)
        for index in range(num_frames):
            pixels = np.full((48, 64, 3), 5 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = index, 1 / RATE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def restore(source: Any, target: Path, **options: Any) -> VideoWriter:
    """Copy a film as a run of strength 0 does."""
    with VideoReader(source) as reader:
        writer = VideoWriter.like(target, reader.info, audio_from=source, **options)
        with writer:
            for frame in reader:
                writer.write(frame.pixels, frame.pts, frame.duration)
    return writer


def audio_packets(path: Path, index: int = 0) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=index) if p.size]


def audio_codecs(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.codec_context.name for stream in container.streams.audio]


def heard_clicks(path: Path, index: int = 0) -> list[float]:
    """Return when bursts of sound begin, in seconds, as a player of the file hears them."""
    times: list[float] = []
    quiet_until = -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=index):
            resampled = av.AudioResampler("fltp", "mono", frame.sample_rate).resample(frame)
            wave = np.concatenate([each.to_ndarray()[0] for each in resampled])
            for sample in np.flatnonzero(np.abs(wave) > 0.25):
                time = float(frame.pts * frame.time_base) + sample / frame.sample_rate
                if time > quiet_until:
                    times.append(time)
                quiet_until = time + 0.05
    return times


def end_of(path: Path, kind: str) -> float:
    """Return when the last packet of a kind of stream ends, in seconds."""
    with av.open(str(path)) as container:
        stream = next(each for each in container.streams if each.type == kind)
        return max(
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux(stream)
            if packet.size
        )
