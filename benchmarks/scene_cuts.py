"""What the threshold of scene cuts stands on: changes within shots and between them.

python -m video_deblur.benchmarks.scene_cuts --clips CLIP.mp4 ... --photos FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..images.folders import FrameFolder, read_image
from ..video.reader import VideoReader
from ..video.scene_cuts import change, find_cuts, thumbnail

_MOST_FRAMES = 200


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Measure changes within shots and between them, for the threshold."
    )
    parser.add_argument("--clips", nargs="+", required=True, help="videos without a cut")
    parser.add_argument("--photos", required=True, help="folder of pictures, as other scenes")
    parser.add_argument("--draws", type=int, default=3000)
    args = parser.parse_args()
    clips = []
    for path in args.clips:
        with VideoReader(path) as reader:
            pairs = zip(reader, range(_MOST_FRAMES), strict=False)
            clips.append([thumbnail(frame.pixels) for frame, _ in pairs])
        print(f"{Path(path).name:36}cuts found: {list(find_cuts(clips[-1]))}", flush=True)
    names = FrameFolder(args.photos).names
    photos = [thumbnail(read_image(Path(args.photos) / name)) for name in names]
    for stride in (1, 5, 10):
        _print(f"every {stride}. frame of a clip", _neighbours(clips, stride))
    generator = np.random.default_rng(0)
    _print("frames of two clips", _across(clips, args.draws, generator))
    drawn = [generator.choice(len(photos), 2, replace=False) for _ in range(args.draws)]
    _print("two photos", [change(photos[one], photos[other]) for one, other in drawn])


def _neighbours(clips: list[list[np.ndarray]], stride: int) -> list[float]:
    return [
        change(clip[index - stride], clip[index])
        for clip in clips
        for index in range(stride, len(clip), stride)
    ]


def _across(
    clips: list[list[np.ndarray]], draws: int, generator: np.random.Generator
) -> list[float]:
    found = []
    for _ in range(draws):
        one, other = generator.choice(len(clips), 2, replace=False)
        frames = (clips[index][generator.integers(len(clips[index]))] for index in (one, other))
        found.append(change(*frames))
    return found


def _print(name: str, values: list[float]) -> None:
    low, one, middle, ninety_nine, high = np.percentile(values, (0, 1, 50, 99, 100))
    print(
        f"{name:28}{len(values):6} values: least {low:.3f}, 1 % {one:.3f}, "
        f"median {middle:.3f}, 99 % {ninety_nine:.3f}, most {high:.3f}"
    )


if __name__ == "__main__":
    main()
