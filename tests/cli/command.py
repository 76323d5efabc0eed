"""What tests of the command line share: clips, and the command in this process or its own."""

from __future__ import annotations

import signal
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
from video_deblur.cli import main
from video_deblur.jobs.part_store import PartStore
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter


def write_clip(path: Path, num_frames: int, width: int, height: int) -> Path:
    rows, columns = np.mgrid[:height, :width]
    with VideoWriter(
        path,
        width=width,
        height=height,
        time_base=Fraction(1, 30000),
        average_rate=Fraction(30000, 1001),
        crf=4,
    ) as writer:
        for index in range(num_frames):
            waves = np.sin((columns + 3 * index) / 4) * np.cos(rows / 5)
            grey = (127 + 100 * waves).astype(np.uint8)
            writer.write(np.stack([grey] * 3, axis=-1), index * 1001, 1001)
    return path


def run(capsys, *arguments: object) -> tuple[int, str]:
    """Run the command in this process; returns the exit code and what it said on stderr."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        code = main([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, handler)
    return code, capsys.readouterr().err


def stop_after_a_part(monkeypatch, capsys, *arguments: object) -> None:
    """Run a command that is stopped once a part is finished."""
    add = PartStore.add

    def stop(store, *part):
        add(store, *part)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PartStore, "add", stop)
        assert run(capsys, *arguments)[0] == 130


def refused(capsys, *arguments: object) -> str:
    """Run a command that must be refused with one line and exit code 2."""
    code, said = run(capsys, *arguments)
    lines = [line for line in said.splitlines() if not line.startswith("WARNING")]
    assert code == 2
    assert len(lines) == 1, said
    assert lines[0].startswith("video-deblur: ")
    return lines[0]


def command(*arguments: object) -> list[str]:
    """Return the command line that runs in a process of its own."""
    return [sys.executable, "-m", "video_deblur.cli", *map(str, arguments)]


def decoded(path: Path) -> np.ndarray:
    """Return all frames of a video, `[T, H, W, C]`."""
    with VideoReader(path) as reader:
        return np.stack([frame.pixels for frame in reader])
