"""Small videos of every kind that a sweep tries, made with PyAV.

Each picture shows eight colour bars and, below them, its index as six black or white squares,
so that a copy can be checked for the right pictures in the right colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

NUM_FRAMES = 12
BARS = np.array(
    [
        (191, 191, 191),
        (191, 191, 30),
        (30, 191, 191),
        (30, 191, 30),
        (191, 30, 191),
        (191, 30, 30),
        (30, 30, 191),
        (200, 150, 120),
    ],
    np.float64,
)
"""Colours of the bars, `[8, 3]` RGB, 0 to 255."""

_BT601, _BT709, _BT2020 = 6, 1, 9
_LUMA = {
    _BT601: (0.299, 0.587, 0.114),
    5: (0.299, 0.587, 0.114),
    _BT709: (0.2126, 0.7152, 0.0722),
    _BT2020: (0.2627, 0.678, 0.0593),
    7: (0.212, 0.701, 0.087),
}
_MASTERING = (
    ":master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    ":max-cll=1000,400"
)
_FORMATS = {".ts": "mpegts", ".wmv": "asf", ".mkv": "matroska", ".mpg": "mpeg", ".vob": "vob"}


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One kind of file."""

    suffix: str
    codec: str = "libx264"
    """libav's name of the encoder."""
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (160, 96)
    """Width and height as stored, in pixels."""
    rate: Fraction = Fraction(25)
    times: str = "constant"
    """constant, variable, late (starts at 1.5 s), early (before zero), b-frames."""
    audio: str | None = None
    """libav's names of the audio encoders, with a plus between them."""
    rotation: int = 0
    """Degrees that a player turns the picture by, clockwise."""
    aspect: Fraction = Fraction(1)
    space: int = 2
    """YUV matrix as tagged, as in ITU-T H.273; 2: none."""
    range: int = 0
    primaries: int = 2
    transfer: int = 2
    mastering: bool = False
    """Whether libx265 writes what the mastering display and the light levels were."""

    @property
    def name(self) -> str:
        """A line that tells it from all others."""
        parts = [self.suffix[1:], self.codec, self.pix_fmt, "{}x{}".format(*self.size)]
        parts.append(f"{float(self.rate):.5g}/s")
        parts += [self.times] if self.times != "constant" else []
        parts += [self.audio] if self.audio else []
        parts += [f"turned {self.rotation}"] if self.rotation else []
        parts += [f"aspect {self.aspect}"] if self.aspect != 1 else []
        tags = (self.space, self.range, self.primaries, self.transfer)
        parts += ["tags {}/{}/{}/{}".format(*tags)] if tags != (2, 0, 2, 2) else []
        parts += ["mastering display"] if self.mastering else []
        return " ".join(parts)

    @property
    def matrix(self) -> int:
        """The YUV matrix that the pictures are made with; by size where none is tagged."""
        if self.space in _LUMA:
            return self.space
        width, height = self.size
        return _BT709 if width >= 1280 or height > 576 else _BT601

    def seconds(self) -> list[Fraction]:
        """When each picture is shown, in seconds, counted from the first."""
        return [Fraction(i) / self.rate + _jitter(self, i) for i in range(NUM_FRAMES)]


def write_footage(path: Path, footage: Footage) -> None:
    """Write a file of this kind.

    Raises:
        FFmpegError, ValueError: If libav does not write it.
    """
    name = _FORMATS.get(footage.suffix, footage.suffix[1:])
    options = {"movie_timescale": "90000"} if footage.suffix in (".mp4", ".mov") else {}
    if footage.times == "early":
        options["avoid_negative_ts"] = "disabled"
    with av.open(str(path), "w", format=name, options=options) as output:
        video = _add_video(output, footage)
        codecs = footage.audio.split("+") if footage.audio else []
        sounds = [_add_audio(output, codec) for codec in codecs]
        output.start_encoding()
        packets = _encode_video(video, footage)
        for audio in sounds:
            packets += _encode_audio(audio, footage)
        for packet in sorted(packets, key=lambda p: (p.dts or 0) * p.time_base):
            output.mux(packet)


def draw(index: int, width: int, height: int) -> np.ndarray:
    """Return the picture of an index, `[H, W, 3]` RGB, 0 to 255."""
    columns = (np.arange(width) * 8 // width).clip(0, 7)
    picture = np.broadcast_to(BARS[columns], (height, width, 3)).copy()
    bits = [(index >> bit) & 1 for bit in (np.arange(width) * 6 // width).clip(0, 5)]
    picture[height // 2 :] = 30 + 190 * np.array(bits, np.float64)[None, :, None]
    return picture


def read_index(picture: np.ndarray) -> int:
    """Return the index that a picture shows."""
    height, width = picture.shape[:2]
    row = picture[height * 5 // 8 : height * 7 // 8].mean((0, 2))
    middles = [int((bit + 0.5) * width / 6) for bit in range(6)]
    return sum(int(row[m - 2 : m + 3].mean() > 125) << bit for bit, m in enumerate(middles))


def read_bars(picture: np.ndarray) -> np.ndarray:
    """Return the colours that the bars of a picture show, `[8, 3]`."""
    height, width = picture.shape[:2]
    rows = picture[height // 8 : height * 3 // 8]
    middles = [int((bar + 0.5) * width / 8) for bar in range(8)]
    return np.stack([rows[:, m - 2 : m + 3].mean((0, 1)) for m in middles])


def to_yuv(rgb: np.ndarray, matrix: int) -> np.ndarray:
    """Return Y in 0..1, Cb and Cr in -0.5..0.5, from RGB in 0..1, last axis (ITU-T H.273)."""
    red, green, blue = _LUMA[matrix]
    y = rgb @ np.array([red, green, blue])
    cb = (rgb[..., 2] - y) / (2 * (1 - blue))
    cr = (rgb[..., 0] - y) / (2 * (1 - red))
    return np.stack([y, cb, cr], axis=-1)


def to_rgb(yuv: np.ndarray, matrix: int) -> np.ndarray:
    """Undo `to_yuv`."""
    red, green, blue = _LUMA[matrix]
    y, cb, cr = yuv[..., 0], yuv[..., 1], yuv[..., 2]
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    return np.stack([r, (y - red * r - blue * b) / green, b], axis=-1)


def _jitter(footage: Footage, index: int) -> Fraction:
    if footage.times != "variable":
        return Fraction(0)
    # Never nearer than half a frame, on a 90 kHz clock.
    return Fraction((index * 7919) % 1800, 90000) if index else Fraction(0)


def _add_video(output: Any, footage: Footage) -> Any:
    options = {"libx264": {"crf": "4"}, "libx265": {"crf": "4"}, "libvpx-vp9": {"crf": "8"}}
    chosen = dict(options.get(footage.codec, {}))
    if footage.codec in ("libx264", "libx265") and footage.times != "b-frames":
        chosen["bf"] = "0"
    if footage.codec == "libx265":
        bframes = ":bframes=3" if footage.times == "b-frames" else ":bframes=0"
        chosen["x265-params"] = "log-level=none" + bframes
        if footage.mastering:
            chosen["x265-params"] += _MASTERING
    if footage.codec == "libsvtav1":
        chosen["preset"] = "10"
    video = output.add_stream(footage.codec, rate=footage.rate, options=chosen)
    video.width, video.height = footage.size
    video.pix_fmt = footage.pix_fmt
    context = video.codec_context
    if footage.codec == "dnxhd":
        context.bit_rate = 120_000_000
    elif footage.codec not in ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks"):
        context.qmax, context.qmin, context.global_quality = 2, 1, 118 * 2
        context.bit_rate = 8_000_000
    if footage.times == "b-frames" and footage.codec not in ("libx264", "libx265"):
        context.max_b_frames = 2
    if footage.times in ("variable", "late", "early"):
        context.time_base = video.time_base = Fraction(1, 90000)
    context.sample_aspect_ratio = footage.aspect
    if footage.pix_fmt not in ("rgb24", "bgr0", "gbrp", "rgb8", "pal8", "bgra"):
        context.colorspace, context.color_range = footage.space, footage.range
    context.color_primaries, context.color_trc = footage.primaries, footage.transfer
    if footage.rotation:
        video.set_display_rotation(footage.rotation)
    return video


def _encode_video(video: Any, footage: Footage) -> list[Any]:
    base = video.codec_context.time_base or 1 / footage.rate
    start = {"late": Fraction(3, 2), "early": Fraction(-1, 5)}.get(footage.times, Fraction(0))
    packets = []
    for index, seconds in enumerate(footage.seconds()):
        frame = _encoded_picture(draw(index, *footage.size), footage)
        frame.pts, frame.time_base = round((start + seconds) / base), base
        packets += video.encode(frame)
    packets += video.encode(None)
    for packet in packets:
        packet.duration = packet.duration or round(1 / footage.rate / packet.time_base)
    return packets


def _encoded_picture(rgb: np.ndarray, footage: Footage) -> av.VideoFrame:
    if footage.pix_fmt == "pal8":
        return _indexed(rgb)
    target = av.VideoFormat(footage.pix_fmt)
    if target.is_rgb or target.has_palette:
        frame = av.VideoFrame.from_ndarray(rgb.round().astype(np.uint8), "rgb24")
        return frame.reformat(format=footage.pix_fmt)
    yuv = to_yuv(rgb / 255, footage.matrix)
    full = footage.range == 2 or footage.pix_fmt.startswith("yuvj")
    scale, offset = (255, (0, 128, 128)) if full else (219, (16, 128, 128))
    chroma = 255 if full else 224
    values = yuv * np.array([scale, chroma, chroma]) + np.array(offset)
    planes = (values * 256).round().clip(0, 65535).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(planes, "yuv444p16le")
    # Same range on both sides: swscale shall reduce depth and chroma, and no more.
    side = {"src_color_range": 2, "dst_color_range": 2} if full else {}
    return frame.reformat(format=footage.pix_fmt, **side)


def _indexed(rgb: np.ndarray) -> av.VideoFrame:
    """Return a picture of a palette that has all its colours: libav's own would be dithered."""
    colours, indices = np.unique(
        rgb.round().astype(np.uint8).reshape(-1, 3), axis=0, return_inverse=True
    )
    # Alpha first.
    palette = np.full((256, 4), 255, np.uint8)
    palette[: len(colours), 1:] = colours
    picture: Any = (indices.reshape(rgb.shape[:2]).astype(np.uint8), palette)
    return av.VideoFrame.from_ndarray(picture, "pal8")


def _add_audio(output: Any, codec: str) -> Any:
    rate = 8000 if codec in ("amr_nb", "pcm_mulaw") else 44100 if codec == "wmav2" else 48000
    layout = "mono" if rate == 8000 else "stereo"
    # FFmpeg's own vorbis encoder is marked as experimental.
    options = {"strict": "-2"} if codec == "vorbis" else {}
    audio = output.add_stream(codec, rate=rate, layout=layout, options=options)
    if codec == "wmav2":
        audio.codec_context.bit_rate = 128_000
    return audio


def _encode_audio(audio: Any, footage: Footage) -> list[Any]:
    context = audio.codec_context
    rate, layout = context.sample_rate, context.layout.name
    start = {"late": Fraction(3, 2), "early": Fraction(-1, 5)}.get(footage.times, Fraction(0))
    count = round(Fraction(NUM_FRAMES) / footage.rate * rate)
    size = context.frame_size or 1024
    channels = 1 if layout == "mono" else 2
    wave = 9000 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)
    resampler = av.AudioResampler(format=context.format.name, layout=layout, rate=rate)
    packets = []
    for begin in range(0, count, size):
        part = np.repeat(wave[begin : begin + size], channels).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "s16", layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = begin + round(start * rate)
        for converted in resampler.resample(frame):
            packets += audio.encode(converted)
    return packets + audio.encode(None)
