"""Small clips made on the fly with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

MakeClip = Callable[..., Path]


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Smooth `[H, W, 3]` uint8 ramps that move with the index."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 40 + 150 * x / width
    green = 60 + 150 * y / height
    blue = 128 + 80 * np.sin((x + y) / 15 + index / 4)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


def _add_audio(container: av.container.OutputContainer, codec: str, seconds: float) -> None:
    layout, rate = "mono", 48000
    stream = container.add_stream(codec, rate=rate, layout=layout)
    container.start_encoding()
    size = stream.codec_context.frame_size or 1024
    wave = np.sin(np.arange(int(seconds * rate)) / 20)
    fmt = stream.codec_context.format.name
    for start in range(0, len(wave) - size, size):
        part = wave[None, start : start + size]
        samples = part.astype(np.float32) if fmt == "fltp" else (part * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format=fmt, layout=layout)
        frame.sample_rate, frame.pts = rate, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    def make(
        name: str = "clip.mp4",
        *,
        size: tuple[int, int] = (64, 48),
        pts: Sequence[int] | None = None,
        num_frames: int = 12,
        rate: Fraction = Fraction(30000, 1001),
        time_base: Fraction = Fraction(1, 30000),
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        audio: str | None = None,
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        width, height = size
        step = round(1 / (rate * time_base))
        stamps = list(pts) if pts is not None else [i * step for i in range(num_frames)]
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.time_base = time_base
            if audio:
                _add_audio(container, audio, seconds=0.5)
            for index, stamp in enumerate(stamps):
                rgb = av.VideoFrame.from_ndarray(picture(index, width, height), "rgb24")
                frame = rgb.reformat(format=pix_fmt)
                frame.pts, frame.time_base = stamp, time_base
                for packet in stream.encode(frame):
                    packet.duration = step
                    container.mux(packet)
            container.mux(stream.encode(None))
        return path

    return make
