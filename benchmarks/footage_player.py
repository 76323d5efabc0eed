"""What a player shows of a video: read with libav and the formulas of ITU-T H.273.

Nothing of this package's reader is used, which a benchmark compares with this.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from .footage_clips import read_bars, read_index, to_rgb

_AUDIBLE = 0.2
"""Of the loudest sample."""
_KNOWN_MATRICES = (1, 5, 6, 7, 9)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a player shows of a file."""

    times: list[Fraction]
    """When each picture is shown, in seconds."""
    indices: list[int]
    """Which picture each is."""
    bars: np.ndarray
    """`[8, 3]` RGB, 0 to 255, of the last picture."""
    size: tuple[int, int]
    """Width and height, upright."""
    aspect: Fraction
    """Width of a pixel over its height, upright."""
    turn: int
    """Quarter turns, counter-clockwise, between the picture as drawn and upright."""
    sound: list[Sound]
    """Of each stream."""
    mastering: tuple[float, ...] = ()
    """Numbers of the mastering display and of the light levels; empty where there are none."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What is heard of a stream."""

    codec: str
    packets: list[bytes]
    """All, those included that an edit list cuts away."""
    num_cut: int
    """Packets at the start that are cut away."""
    heard: float
    """Seconds from the first picture to the first loud sample."""


def look_at(path: Path, turn: int | None = None) -> Seen:
    """Decode a file as a player does.

    Args:
        path: The file.
        turn: Of the picture as drawn; None: as the file says.
    """
    times: list[Fraction | None] = []
    indices: list[int] = []
    picture = np.zeros((0, 0, 3))
    mastering: tuple[float, ...] = ()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = stream.time_base or Fraction(1, 25)
        own = drawn = 0
        for frame in container.decode(stream):
            picture = _shown(frame, stream.codec_context)
            mastering = mastering or _mastering(frame)
            at = None if frame.pts is None else frame.pts * (frame.time_base or base)
            times.append(at)
            own = round(frame.rotation / 90) % 4
            drawn = own if turn is None else turn
            indices.append(read_index(np.rot90(picture, -drawn)))
        # 1 times a number of libav is a Fraction with any PyAV.
        aspect = 1 * (stream.sample_aspect_ratio or Fraction(1))
        rate = stream.guessed_rate or Fraction(25)
        if container.format.name == "avi":
            # It stores the order of decoding alone; a player shows pictures in turn.
            times.sort(key=lambda at: at or 0)
    shown = _filled(times, 1 / rate)
    height, width = picture.shape[:2]
    return Seen(
        times=shown,
        indices=indices,
        bars=read_bars(np.rot90(picture, -drawn)),
        size=(width, height),
        aspect=1 / aspect if own % 2 else aspect,
        turn=drawn,
        sound=_sound(path, shown[0] if shown else Fraction(0)),
        mastering=mastering,
    )


def _shown(frame: av.VideoFrame, context: Any) -> np.ndarray:
    """Return a picture as a player shows it: `[H, W, 3]` RGB, 0 to 255, upright."""
    name = frame.format.name
    if frame.format.is_rgb or frame.format.has_palette:
        rgb = frame.reformat(format="rgb24").to_ndarray().astype(np.float64)
    else:
        space = int(frame.colorspace)
        if space not in _KNOWN_MATRICES:
            space = int(context.colorspace)
        if space not in _KNOWN_MATRICES:
            space = 1 if frame.width >= 1280 or frame.height > 576 else 6
        tagged = int(frame.color_range) or int(context.color_range)
        full = tagged == 2 or (not tagged and name.startswith(("yuvj", "gray")))
        planes = _planes(frame)
        if full:
            offset, scale = (0, 128, 128), (255, 255, 255)
        else:
            offset, scale = (16, 128, 128), (219, 224, 224)
        rgb = 255 * to_rgb((planes - np.array(offset)) / np.array(scale), space)
    return np.rot90(rgb.clip(0, 255), k=round(frame.rotation / 90) % 4)


def _mastering(frame: av.VideoFrame) -> tuple[float, ...]:
    """Return the numbers of AVMasteringDisplayMetadata and the two light levels."""
    sides: Any = frame.side_data
    mastering, level = (
        b"" if data is None else bytes(data)
        for data in map(sides.get, ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"))
    )
    numbers = struct.unpack("=20i", mastering[:80] or bytes(80))
    levels = struct.unpack("=2I", level[:8] or bytes(8))
    values = [a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True) if b]
    return (*values, *(level for level in levels if level))


def _planes(frame: av.VideoFrame) -> np.ndarray:
    """Return Y, Cb and Cr at full size, `[H, W, 3]`, in levels of 8 bits."""
    depth = max(component.bits for component in frame.format.components)
    if len(frame.format.components) < 3:
        plane = _plane(frame, 0, depth)
        return np.stack([plane, np.full_like(plane, 128), np.full_like(plane, 128)], axis=-1)
    if len(frame.planes) < 3:
        # Interleaved chroma; the same samples in planes.
        frame = frame.reformat(format={"nv16": "yuv422p"}.get(frame.format.name, "yuv420p"))
    planes = [_plane(frame, index, depth) for index in range(3)]
    rows, columns = planes[0].shape
    full = []
    for plane in planes:
        across, down = -(-columns // plane.shape[1]), -(-rows // plane.shape[0])
        full.append(plane.repeat(down, axis=0).repeat(across, axis=1)[:rows, :columns])
    return np.stack(full, axis=-1)


def _plane(frame: av.VideoFrame, index: int, depth: int) -> np.ndarray:
    plane = frame.planes[index]
    kind = np.dtype("u1") if depth <= 8 else np.dtype("<u2")
    rows = np.frombuffer(bytes(plane), kind).reshape(plane.height, -1)
    return rows[:, : plane.width].astype(np.float64) / 2 ** (depth - 8)


def _filled(times: list[Fraction | None], step: Fraction) -> list[Fraction]:
    """Count where a file says no times: raw streams, AVI, Matroska before zero."""
    first = next((i for i, time in enumerate(times) if time is not None), None)
    start = Fraction(0) if first is None else (times[first] or 0) - first * step
    filled: list[Fraction] = []
    for known in times:
        counted = filled[-1] + step if filled else Fraction(start)
        filled.append(counted if known is None else known)
    return filled


def _sound(path: Path, first: Fraction) -> list[Sound]:
    with av.open(str(path)) as container:
        count = len(container.streams.audio)
    return [_one_sound(path, index, first) for index in range(count)]


def _one_sound(path: Path, index: int, first: Fraction) -> Sound:
    packets: list[bytes] = []
    num_cut = 0
    times, levels = [np.zeros(0)], [np.zeros(0)]
    mono = av.AudioResampler("fltp", "mono")
    with av.open(str(path)) as container:
        stream = container.streams.audio[index]
        for packet in container.demux(stream):
            if packet.size:
                num_cut += packet.is_discard and len(packets) == num_cut
                packets.append(_bare(bytes(packet)))
            for frame in packet.decode():
                start = float((frame.pts or 0) * (frame.time_base or Fraction(1)) - first)
                level = np.concatenate([f.to_ndarray()[0] for f in mono.resample(frame)])
                levels.append(np.abs(level))
                times.append(start + np.arange(len(level)) / frame.sample_rate)
        name = stream.codec_context.name
    level = np.concatenate(levels)
    audible = np.flatnonzero(level > _AUDIBLE * level.max(initial=0.0))
    heard = float(np.concatenate(times)[audible[0]]) if audible.size else 0.0
    return Sound(codec=name, packets=packets, num_cut=num_cut, heard=heard)


def _bare(packet: bytes) -> bytes:
    """Return an AAC packet without the header that transport streams put before each."""
    if packet[0] == 0xFF and packet[1] & 0xF6 == 0xF0:
        return packet[7 if packet[1] & 1 else 9 :]
    return packet
