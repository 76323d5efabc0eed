"""What coding priors cost per frame, and how well their motion predicts the next frame.

    python -m video_deblur.benchmarks.coding_priors --data CLIP.mp4
    python -m video_deblur.benchmarks.coding_priors --pairs FOLDER

The first measures time on one core: of reading a clip, of priors from its stream, and of
priors by encoding its frames in memory. The second warps the frame before each blurry one by
the motion: PSNR against that frame without motion, by each source, and how many pixels have a
vector.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np

from ..evaluation.fidelity import psnr
from ..images.folders import FrameFolder, read_image
from ..video.coding_priors import FramePriors, encoded_priors, file_priors
from ..video.reader import VideoReader
from .clips import looped, parse_size, read_frames

_STREAMS = {
    "one reference": "bframes=0:ref=1",
    "x264's defaults": "bframes=3:ref=3",
}
"""How clips are encoded whose streams bring motion along."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cost and quality of coding priors.")
    parser.add_argument("--data", help="a video for times, enlarged to the size")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", help="folder of <sequence>/{blur,sharp} to warp")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.data:
        frames = read_frames(args.data, *parse_size(args.size), args.frames)
        _print_times(list(looped(frames, args.frames)), args.rounds)
    if args.pairs:
        _print_warping(Path(args.pairs))


def _print_times(frames: list[np.ndarray], rounds: int) -> None:
    print(f"{'milliseconds per frame':40}{'all':>8}{'beyond reading':>16}")
    for name, options in _STREAMS.items():
        clip = _encoded(frames, options)
        reading = _processor_ms(lambda clip=clip: VideoReader(clip), rounds)
        both = _processor_ms(lambda clip=clip: _of_stream(clip), rounds)
        print(f"{'stream, ' + name:40}{both:8.1f}{both - reading:16.1f}")
    encoded = _processor_ms(lambda: encoded_priors(iter(frames)), rounds)
    print(f"{'frames encoded in memory':40}{encoded:8.1f}{encoded:16.1f}")


def _processor_ms(start: Callable[[], Iterable[object]], rounds: int) -> float:
    """Return the median over rounds of the processor time per frame."""
    times = []
    for _ in range(rounds):
        began, count = time.process_time(), 0
        for _ in start():
            count += 1
        times.append((time.process_time() - began) / count * 1000)
    return statistics.median(times)


def _print_warping(folder: Path) -> None:
    columns = ("no motion", *_STREAMS, "encoded")
    print(f"{'sequence':16}" + "".join(f"{name:>22}" for name in columns))
    rows = []
    for sequence in sorted(each for each in folder.iterdir() if each.is_dir()):
        blurry = sequence / "blur"
        frames = [read_image(blurry / name) for name in FrameFolder(blurry).names]
        even = frames[0].shape[0] // 2 * 2, frames[0].shape[1] // 2 * 2
        frames = [np.ascontiguousarray(frame[: even[0], : even[1], :3]) for frame in frames]
        sources = [_of_stream(_encoded(frames, each)) for each in _STREAMS.values()]
        figures = [_warped([], frames)]
        for source in (*sources, encoded_priors(frames)):
            figures.append(_warped(list(source), frames))
        rows.append(figures)
        _print_row(sequence.name, figures)
    _print_row("mean", [tuple(column) for column in np.mean(rows, axis=0)])


def _print_row(name: str, figures: list[tuple[float, float]]) -> None:
    cells = [
        f"{figures[0][0]:.2f}",
        *(f"{psnr:.2f} ({100 * v:.0f} %)" for psnr, v in figures[1:]),
    ]
    print(f"{name:16}" + "".join(f"{cell:>22}" for cell in cells))


def _warped(priors: list[FramePriors], frames: list[np.ndarray]) -> tuple[float, float]:
    """Return PSNR of warped frames against the next ones, and the share of valid pixels."""
    height, width = frames[0].shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    scores, valid = [], []
    for index, (before, frame) in enumerate(pairwise(frames), 1):
        warped = before
        if priors:
            motion = priors[index].motion
            place, border = (x + motion[0], y + motion[1]), cv2.BORDER_REPLICATE
            warped = cv2.remap(before, *place, cv2.INTER_LINEAR, borderMode=border)
            valid.append(priors[index].valid.mean())
        scores.append(psnr(warped, frame, data_range=255))
    return float(np.mean(scores)), float(np.mean(valid)) if valid else 0.0


def _of_stream(clip: io.BytesIO) -> Iterator[FramePriors]:
    with VideoReader(clip, vectors=True) as reader:
        assert reader.has_vectors
        for _, priors in file_priors(reader):
            yield priors


def _encoded(frames: list[np.ndarray], options: str) -> io.BytesIO:
    """Encode a clip as H.264 at crf 23, x264's own default, with these options."""
    clip = io.BytesIO()
    with av.open(clip, "w", format="mp4") as container:
        settings = {"crf": "23", "x264-params": f"{options}:threads=1"}
        stream = container.add_stream("libx264", rate=Fraction(25), options=settings)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return clip


if __name__ == "__main__":
    main()
