"""What a restored copy keeps of videos of every kind: frames, times, colours, sound, shape.

    python -m video_deblur.benchmarks.footage --out docs/footage.md

Small videos of many containers, codecs, pixel formats, rates and tags are restored with
strength 0 into five kinds of output, which are read as a player would: with libav and the
formulas of ITU-T H.273, not with this package's reader.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from .footage_clips import (
    NUM_FRAMES,
    Footage,
    read_bars,
    read_index,
    to_rgb,
    write_footage,
)
from .footage_kinds import sweep

_COLOUR_TOLERANCE = 3.0
"""Levels of 255 between the bars of the input and of the output."""
_SAME_S, _SAME_ENCODED_S = 0.0015, 0.005
"""Seconds that sound may move against the picture, copied and encoded anew."""
_PACKET_S = 0.025
_AUDIBLE = 0.2
"""Of the loudest sample."""
_MKV_TICK = Fraction(1, 1000)
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


def main() -> None:
    """Try every kind, print what is not kept, write the table."""
    parser = argparse.ArgumentParser(description="What a copy keeps of videos of every kind.")
    parser.add_argument("--out", help="Markdown file for the table")
    parser.add_argument("--only", default="", help="kinds whose name holds this text")
    args = parser.parse_args()
    os.environ.setdefault("SVT_LOG", "1")
    logging.disable(logging.WARNING)
    started = time.monotonic()
    kinds = [kind for kind in sweep() if args.only in kind.name]
    rows: list[_Row] = []
    with tempfile.TemporaryDirectory() as folder:
        restorer = _Restorer()
        for kind in kinds:
            copies = [_try(kind, name, Path(folder), restorer) for name in _OUTPUTS]
            rows.append((kind, copies))
            for name, found in zip(_OUTPUTS, copies, strict=True):
                if found["faults"]:
                    print(f"{kind.name} -> {name}: {'; '.join(found['faults'])}", flush=True)
    good = sum(not found["faults"] for _, copies in rows for found in copies)
    elapsed = time.monotonic() - started
    summary = f"{good} of {len(rows) * len(_OUTPUTS)} copies of {len(rows)} kinds keep all"
    print(f"{summary} ({elapsed:.0f} s)")
    if args.out:
        Path(args.out).write_text("\n".join(_table(rows, summary)) + "\n")


_OUTPUTS = {
    "mp4": (".mp4", "h264"),
    "mkv": (".mkv", "h264"),
    "h265": (".mp4", "h265"),
    "ffv1": (".mkv", "ffv1"),
    "prores": (".mov", "prores"),
}
"""File suffix and codec of each copy."""
_Row = tuple[Footage, list[dict[str, Any]]]


class _Restorer:
    """Copies files through the whole product, with the bundled checkpoint loaded once."""

    def __init__(self) -> None:
        from ..restoration.load import load_deblurrer
        from ..restoration.settings import preset_settings

        self._engine = load_deblurrer("divd-tiny", "cpu", "auto")
        self._settings = preset_settings(self._engine.config, "fast", strength=0.0)

    def __call__(self, source: Path, output: Path, codec: str) -> None:
        from ..jobs.files import restore_ends
        from ..jobs.kinds import make_ends

        restore_ends(make_ends(source, output, codec), self._engine, self._settings)


def _try(kind: Footage, name: str, folder: Path, restore: _Restorer) -> dict[str, Any]:
    """Return the faults of one copy, and what was converted or cannot be kept."""
    suffix, codec = _OUTPUTS[name]
    source, output = folder / f"in{kind.suffix}", folder / f"out{suffix}"
    try:
        write_footage(source, kind)
        before = look_at(source)
        restore(source, output, codec)
        return compare(kind, suffix, before, look_at(output, before.turn))
    except Exception as error:  # noqa: BLE001 the table says what went wrong
        return {"faults": [f"{type(error).__name__}: {error}"], "notes": []}
    finally:
        for path in (source, output):
            path.unlink(missing_ok=True)


def look_at(path: Path, turn: int | None = None) -> Seen:
    """Decode a file as a player does.

    Args:
        path: The file.
        turn: Of the picture as drawn; None: as the file says.
    """
    times: list[Fraction | None] = []
    indices: list[int] = []
    picture = np.zeros((0, 0, 3))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = stream.time_base or Fraction(1, 25)
        own = drawn = 0
        for frame in container.decode(stream):
            picture = _shown(frame, stream.codec_context)
            at = None if frame.pts is None else frame.pts * (frame.time_base or base)
            times.append(at)
            own = round(frame.rotation / 90) % 4
            drawn = own if turn is None else turn
            indices.append(read_index(np.rot90(picture, -drawn)))
        aspect = Fraction(stream.sample_aspect_ratio or 1)
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
    )


def compare(kind: Footage, suffix: str, before: Seen, after: Seen) -> dict[str, Any]:
    """Return what differs, in words; faults, and notes on what was meant to change."""
    faults, notes = [], []
    if after.indices != before.indices or len(after.times) != len(before.times):
        faults.append(f"pictures {_spans(after.indices)} instead of {_spans(before.indices)}")
    elif len(before.indices) != NUM_FRAMES:
        notes.append(f"libav itself decodes {len(before.indices)} of {NUM_FRAMES} pictures")
    shift = _time_shift(before.times, after.times)
    tick = _MKV_TICK if suffix == ".mkv" or kind.suffix in (".mkv", ".webm", ".flv") else 0
    if shift > tick:
        faults.append(f"times off by up to {float(1000 * shift):.2f} ms")
    elif shift:
        notes.append("times on Matroska's millisecond ticks")
    difference = float(np.abs(after.bars - before.bars).max())
    if difference > _COLOUR_TOLERANCE:
        faults.append(f"colours off by up to {difference:.1f} levels")
    if after.size != before.size:
        faults.append(f"size {after.size} instead of {before.size}")
    if after.aspect != before.aspect:
        faults.append(f"pixel aspect {after.aspect} instead of {before.aspect}")
    _compare_sound(kind, before, after, faults, notes)
    return {"faults": faults, "notes": notes, "colour": difference}


def _compare_sound(
    kind: Footage, before: Seen, after: Seen, faults: list[str], notes: list[str]
) -> None:
    if len(before.sound) != len(after.sound):
        faults.append(f"{len(after.sound)} of {len(before.sound)} sounds")
        return
    for old, new in zip(before.sound, after.sound, strict=True):
        moved = new.heard - old.heard
        allowed = _SAME_S
        if new.codec != old.codec:
            notes.append(f"{old.codec} sound became {new.codec}")
            allowed = _SAME_ENCODED_S
        elif not _same_packets(old, new):
            faults.append(f"{old.codec}: {len(new.packets)} of {len(old.packets)} packets")
        if kind.times == "early":
            # What is cut away ends within a packet, and a copy keeps all of it.
            allowed = _PACKET_S
        if abs(moved) > allowed:
            faults.append(f"sound {1000 * moved:+.1f} ms against the picture")


def _same_packets(old: Sound, new: Sound) -> bool:
    """Tell whether all packets that are heard were copied, and no others."""
    num_cut = len(old.packets) - len(new.packets)
    return 0 <= num_cut <= old.num_cut and new.packets == old.packets[num_cut:]


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


def _time_shift(before: list[Fraction], after: list[Fraction]) -> Fraction:
    """Return the largest difference of a time from the first picture, in seconds."""
    pairs = zip(before, after, strict=False)
    return max((abs((b - before[0]) - (a - after[0])) for b, a in pairs), default=Fraction(0))


def _spans(indices: list[int]) -> str:
    return f"{len(indices)} ({','.join(map(str, indices[:16]))})"


def _table(rows: list[_Row], summary: str) -> list[str]:
    machine = f"{platform.machine()}, {time.strftime('%Y-%m-%d')}, PyAV {av.__version__}"
    lines = [
        "# What a copy keeps",
        "",
        f"Written by `python -m video_deblur.benchmarks.footage` ({machine}). Every kind of "
        f"file was made with {NUM_FRAMES} pictures, restored with strength 0 into five kinds "
        'of output and read back as a player does. "kept": the same pictures at the same '
        f"times, colours within {_COLOUR_TOLERANCE:g} levels of 255, the same sound packets at "
        "the same distance from the picture, the same shape. "
        f"{summary}.",
        "",
        f"| container | codec | stored as | what is special | {' | '.join(_OUTPUTS)} |",
        "|---" * (4 + len(_OUTPUTS)) + "|",
    ]
    for kind, found in rows:
        size, rate, *others = kind.name.split(" ")[3:]
        special = " ".join(others if rate == "25/s" else [rate, *others])
        cells = [_cell(entry) for entry in found]
        lines.append(
            f"| {kind.suffix[1:]} | {kind.codec} | {kind.pix_fmt} {size} | {special} | "
            f"{' | '.join(cells)} |"
        )
    notes = Counter(note for _, found in rows for entry in found for note in entry["notes"])
    lines += ["", "Notes, and how often:", ""]
    lines += [f"- {note}: {count}" for note, count in notes.most_common()]
    return lines


def _cell(entry: dict[str, Any]) -> str:
    if entry["faults"]:
        return "**" + "; ".join(entry["faults"]) + "**"
    return "; ".join(["kept", *entry["notes"]])


if __name__ == "__main__":
    main()
