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
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from .footage_clips import NUM_FRAMES, Footage, write_footage
from .footage_kinds import sweep
from .footage_player import Seen, Sound, look_at

_COLOUR_TOLERANCE = 3.0
"""Levels of 255 between the bars of the input and of the output."""
_SAME_S, _SAME_ENCODED_S = 0.0015, 0.005
"""Seconds that sound may move against the picture, copied and encoded anew."""
_PACKET_S = 0.025
_MKV_TICK = Fraction(1, 1000)
_NO_MASTERING = "no mastering display"


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
        found = compare(kind, suffix, before, look_at(output, before.turn))
        if codec == "h264" and before.mastering:
            _expect_loss(found)
        return found
    except Exception as error:  # noqa: BLE001 the table says what went wrong
        return {"faults": [f"{type(error).__name__}: {error}"], "notes": []}
    finally:
        for path in (source, output):
            path.unlink(missing_ok=True)


def _expect_loss(found: dict[str, Any]) -> None:
    """Note that h264 has no room for a mastering display, which a warning says."""
    found["faults"].remove(_NO_MASTERING)
    found["notes"].append(_NO_MASTERING)


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
    if not after.mastering and before.mastering:
        faults.append(_NO_MASTERING)
    elif len(after.mastering) != len(before.mastering) or not np.allclose(
        after.mastering, before.mastering, rtol=1e-3
    ):
        faults.append(f"mastering display {after.mastering} instead of {before.mastering}")
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
