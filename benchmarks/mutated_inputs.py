"""What happens to damaged files: no crash, no hang, no traceback, and one line that says why.

    python -m video_deblur.benchmarks.mutated_inputs --count 10000 --runs 500

Small videos and images get bytes flipped, zeroed, cut out, repeated or moved. Each mutation
is read to its end in a forked process with limits on time and memory, which is replaced when it
dies; some go through the whole `run` command besides. The same seed gives the same mutations.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..cli.main import main as command
from ..jobs.kinds import make_ends
from ..video.reader import VideoReader
from .footage_clips import Footage, write_footage

_MEMORY_BYTES = 3 << 30
"""Beyond what the process that forks has taken."""
_READ_S, _RUN_S = 20, 60
_PER_PROCESS = 100
"""Mutations that one process reads: forking takes longer than most of them."""
_GOOD = ("read", "refused")

KINDS = (
    Footage(suffix=".mp4", audio="aac"),
    Footage(suffix=".mp4", codec="libx265", times="b-frames"),
    Footage(suffix=".mp4", codec="mpeg4", rotation=90, audio="libmp3lame"),
    Footage(suffix=".mov", codec="prores_ks", pix_fmt="yuv422p10le", audio="pcm_s16le"),
    Footage(suffix=".mov", codec="mjpeg", pix_fmt="yuvj420p"),
    Footage(suffix=".mkv", codec="ffv1", pix_fmt="bgr0", audio="flac"),
    Footage(suffix=".mkv", times="variable", audio="libopus"),
    Footage(suffix=".webm", codec="libvpx-vp9", audio="vorbis"),
    Footage(suffix=".webm", codec="libvpx"),
    Footage(suffix=".avi", codec="mpeg4", times="b-frames", audio="libmp3lame"),
    Footage(suffix=".avi", codec="huffyuv", pix_fmt="yuv422p"),
    Footage(suffix=".ts", audio="aac", times="b-frames"),
    Footage(suffix=".mpg", codec="mpeg2video", audio="mp2"),
    Footage(suffix=".flv", codec="flv", audio="libmp3lame"),
    Footage(suffix=".wmv", codec="wmv2", audio="wmav2"),
    Footage(suffix=".gif", codec="gif", pix_fmt="rgb8"),
)
IMAGES = (".png", ".jpg", ".tif", ".webp")


def main() -> None:
    """Mutate, read, count; the exit status is 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description="Read damaged files.")
    parser.add_argument("--count", type=int, default=10000, help="mutations that are read")
    parser.add_argument("--runs", type=int, default=500, help="of these, through `run` as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="folder for the files that went wrong")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seeds = write_seeds(Path(folder))
        wrong = try_mutations(seeds, args.count, args.seed, "read", args.keep)
        wrong += try_mutations(seeds, args.runs, args.seed, "run", args.keep)
    elapsed = time.monotonic() - started
    print(f"seed {args.seed}: {wrong} went wrong, {elapsed:.0f} s")
    sys.exit(1 if wrong else 0)


def write_seeds(folder: Path) -> list[Path]:
    """Write the files that are mutated, in a process of its own: codecs start threads."""

    def write() -> None:
        for index, kind in enumerate(KINDS):
            write_footage(folder / f"seed{index:02d}{kind.suffix}", kind)
        y, x = np.mgrid[0:96, 0:160]
        picture = np.stack([x, y, x + y], axis=-1).astype(np.uint8)
        for suffix in IMAGES:
            cv2.imwrite(str(folder / f"image{suffix}"), picture)

    ((outcome, told),) = _in_child([write], 120)
    if outcome != "read":
        raise RuntimeError(f"the files to mutate could not be written: {told}")
    return sorted(folder.iterdir())


def try_mutations(
    seeds: list[Path], count: int, seed: int, how: str, keep: str | None = None
) -> int:
    """Try mutations and print what happened.

    Args:
        seeds: Files to mutate, in turn.
        count: How many mutations.
        seed: Of the random numbers.
        how: "read" or "run".
        keep: Folder for files that went wrong.

    Returns:
        How many went wrong.
    """
    # Threads of this process would be missing in its children.
    cv2.setNumThreads(0)
    if how == "run":
        # Children share what is imported here.
        importlib.import_module("..restoration.load", __package__)
    seconds, work = (_READ_S, _read) if how == "read" else (_RUN_S, _run)
    counts: Counter[str] = Counter()
    wrong = done = 0
    with tempfile.TemporaryDirectory() as folder:

        def mutated(index: int) -> Path:
            source = seeds[index % len(seeds)]
            random = np.random.default_rng([seed, index, how == "run"])
            target = Path(folder) / f"mutated{source.suffix}"
            target.write_bytes(mutate(source.read_bytes(), random))
            return target

        while done < count:
            indices = range(done, min(done + _PER_PROCESS, count))
            works = [functools.partial(lambda i: work(mutated(i)), index) for index in indices]
            for outcome, told in _in_child(works, seconds):
                counts[outcome] += 1
                if outcome not in _GOOD:
                    wrong += 1
                    name = seeds[done % len(seeds)].name
                    print(f"{how} {name} {done}: {outcome}: {told}", flush=True)
                    if keep:
                        kept = Path(keep) / f"{how}{done}_{name}"
                        kept.parent.mkdir(parents=True, exist_ok=True)
                        kept.write_bytes(mutated(done).read_bytes())
                done += 1
    print(f"{how}: {count}: " + ", ".join(f"{n} {name}" for name, n in counts.most_common()))
    return wrong


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Damage a file in one to three ways."""
    for _ in range(random.integers(1, 4)):
        values = bytearray(data)
        start = int(random.integers(0, max(1, len(values))))
        if random.random() < 0.4:
            # Headers and indices lie at either end, and damage there does most.
            start = min(start, int(random.integers(0, 400)))
        length = int(2 ** random.uniform(0, np.log2(max(2, len(values) / 3))))
        kind = random.integers(0, 6)
        part = values[start : start + length]
        if kind == 0:
            for place in random.integers(start, start + length + 1, min(length, 64)):
                values[min(int(place), len(values) - 1)] ^= int(random.integers(1, 256))
        elif kind == 1:
            values[start : start + length] = bytes(len(part))
        elif kind == 2:
            del values[start : start + length]
        elif kind == 3:
            values[start:start] = part
        elif kind == 4:
            del values[start:]
        else:
            other = int(random.integers(0, max(1, len(values) - len(part))))
            values[other : other + len(part)] = part
        data = bytes(values) or b"\0"
    return data


def _read(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".png" if path.suffix in IMAGES else ".mkv"
        with make_ends(path, Path(folder) / f"out{suffix}", codec="ffv1") as ends:
            for _ in ends.frames():
                pass


def _run(path: Path) -> None:
    """Run the command; what it leaves behind must be whole."""
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".png" if path.suffix in IMAGES else ".mkv"
        output = Path(folder) / f"out{suffix}"
        argv = ["run", str(path), "-o", str(output), "--strength", "0", "--device", "cpu"]
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = command(argv)
        if "Traceback" in said.getvalue():
            raise AssertionError(said.getvalue()[-2000:])
        left = sorted(p.name for p in Path(folder).iterdir() if p != output)
        if left:
            raise AssertionError(f"left behind: {left}")
        if output.exists() and suffix == ".mkv":
            with VideoReader(output) as reader:
                for _ in reader:
                    pass
        if status and not said.getvalue().strip():
            raise AssertionError(f"exit {status} without a word")
        if status:
            raise ValueError(said.getvalue().strip().splitlines()[-1])


def _in_child(works: Sequence[Callable[[], Any]], seconds: int) -> Iterator[tuple[str, str]]:
    """Do works in a forked process; yield how each ended, and what it said.

    "read": it came to its end. "refused": by an error that is meant for users, of one line.
    Anything else went wrong; after a crash nothing more comes.

    Args:
        works: What to do, one after the other.
        seconds: That each may take.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        try:
            _limit()
            for work in works:
                signal.alarm(seconds)
                outcome, told = _outcome(work)
                os.write(sender, (json.dumps([outcome, told[-4000:]]) + "\n").encode())
        finally:
            os._exit(0)
    os.close(sender)
    num_ended = 0
    with os.fdopen(receiver, "rb") as pipe:
        for line in pipe:
            outcome, told = json.loads(line)
            num_ended += 1
            yield outcome, told
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = "hangs" if number in (signal.SIGALRM, signal.SIGXCPU) else "crashed"
        yield kind, signal.Signals(number).name
    elif num_ended < len(works):
        yield "crashed", f"exit status {status}"


def _limit() -> None:
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY_BYTES, taken + _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # libav and OpenCV write to the standard error of the process.
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)


def _outcome(work: Callable[[], Any]) -> tuple[str, str]:
    try:
        work()
    except (ValueError, OSError) as error:
        message = str(error)
        if "\n" in message or type(error).__name__ in ("UnicodeDecodeError", "UnicodeError"):
            return "many lines", traceback.format_exc()
        if not message:
            return "no message", traceback.format_exc()
        return "refused", message
    except BaseException:  # noqa: BLE001 everything else is what this looks for
        return "traceback", traceback.format_exc()
    return "read", ""


if __name__ == "__main__":
    main()
