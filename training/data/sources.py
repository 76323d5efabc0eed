"""Where training clips come from, opened and checked before training starts.

A source is given as `KIND:PATH` or `KIND:PATH*WEIGHT`; a clip comes from each in proportion to
its weight (default: 1).

    synthetic:PATH    sharp photos PATH/photos/*.jpg|png|... and videos PATH/clips/*.mp4|...,
                      held in memory and blurred as they are drawn
    pairs:PATH        real blurry and sharp frames; also gopro:, gopro_gamma: and dvd:, of
                      which the train split is taken (see `images.datasets`). Frames are read as
                      they are drawn: GoPro does not fit into memory.

Pictures are RGB, uint8 `[T, H, W, 3]`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ...images.check import check_image
from ...images.datasets import KINDS, PairedSequence, load_dataset
from ...images.folders import SUFFIXES, read_image
from ...video.pixels import to_float, to_uint8

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm"),
    *(".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".3gp"),
)

_RUN_LENGTH = 16
"""Consecutive frames kept from each part of a video, if clips are not longer."""
_RUNS_PER_CLIP = 5
"""Parts kept from each video: all of them would not fit in memory."""
_MAX_VIDEO_HEIGHT = 540
"""Videos are shrunk to this height, which also hides their compression."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticSource:
    """Sharp photos and runs of video frames.

    Tensors, not arrays: worker processes that are not forked share their memory.
    """

    root: Path
    """Folder of both."""
    weight: float
    """Share of the clips, relative to other sources."""
    photos: tuple[Tensor, ...]
    """uint8 `[1, H, W, 3]` each."""
    runs: tuple[Tensor, ...]
    """uint8 `[T, H, W, 3]` each, consecutive frames."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedSource:
    """Sequences of blurry and sharp frames on disk."""

    weight: float
    """Share of the clips, relative to other sources."""
    sequences: tuple[PairedSequence, ...]
    """Each long enough for a clip."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each sequence's frames."""


Source = SyntheticSource | PairedSource


def open_sources(specs: Sequence[str], *, num_frames: int, crop: int) -> list[Source]:
    """Open and check sources: every file, in threads.

    Checks read every file once: PNGs by their checksums, JPEGs by decoding them (see
    `images.check`).

    Args:
        specs: `KIND:PATH` or `KIND:PATH*WEIGHT` each.
        num_frames: Longest clip to be drawn, in frames.
        crop: Largest height and width of a clip, in pixels.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If a specification or a folder's layout is wrong, or a file is damaged,
            too small, of another size than its neighbours or its sequence too short; the
            message names it.
    """
    parsed = [_parse(spec) for spec in specs]
    if not parsed:
        raise ValueError("no training data given: name sources as KIND:PATH")
    return [
        _open_synthetic(Path(path), weight, num_frames, crop)
        if kind == "synthetic"
        else _open_pairs(f"{kind}:{path}", weight, num_frames, crop)
        for kind, path, weight in parsed
    ]


def read_frames(paths: Iterable[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Read frames one by one, uint8 `[H, W, 3]`.

    Raises:
        OSError: If a file cannot be read any more.
        ValueError: If it is no image any more, or of another size than it had.
    """
    for path in paths:
        pixels = read_image(path)[..., :3]
        if pixels.shape[:2] != size:
            raise ValueError(f"{path}: has changed its size since training started")
        yield pixels if pixels.dtype == np.uint8 else to_uint8(to_float(pixels))


def _parse(spec: str) -> tuple[str, str, float]:
    kind, separator, rest = spec.partition(":")
    kinds = ("synthetic", *KINDS)
    if not separator or kind not in kinds:
        raise ValueError(
            "training data must be given as KIND:PATH or KIND:PATH*WEIGHT with a KIND of "
            f"{', '.join(kinds)}, got {spec!r}"
        )
    path, star, number = rest.rpartition("*")
    if not star:
        return kind, rest, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise ValueError(f"{spec}: the weight must be a number above 0, got {number!r}")
    return kind, path, weight


def _open_pairs(spec: str, weight: float, num_frames: int, crop: int) -> PairedSource:
    sequences = load_dataset(spec, "train")
    for sequence in sequences:
        if len(sequence.blurry) < num_frames:
            raise ValueError(
                f"{spec}: sequence {sequence.name} has {len(sequence.blurry)} frames, but "
                f"clips have {num_frames}; remove it or train on shorter clips"
            )
    paths = [path for s in sequences for path in (*s.blurry, *s.sharp)]
    logger.info("%s: checking %d images", spec, len(paths))
    with ThreadPoolExecutor() as pool:
        found = dict(zip(paths, pool.map(check_image, paths), strict=True))
    for sequence in sequences:
        _check_sizes(sequence, found, crop)
    return PairedSource(
        weight=weight,
        sequences=tuple(sequences),
        sizes=tuple(found[sequence.blurry[0]] for sequence in sequences),
    )


def _check_sizes(
    sequence: PairedSequence, sizes: dict[Path, tuple[int, int]], crop: int
) -> None:
    first = sequence.blurry[0]
    _check_crop(first, sizes[first], crop)
    for path in (*sequence.blurry, *sequence.sharp):
        if sizes[path] != sizes[first]:
            raise ValueError(
                f"{path}: is {_described(sizes[path])}, but {first} is "
                f"{_described(sizes[first])}; all frames of a sequence must be of one size"
            )


def _check_crop(path: Path, size: tuple[int, int], crop: int) -> None:
    if min(size) < crop:
        raise ValueError(
            f"{path}: is {_described(size)}, too small for clips of {crop}x{crop}; remove it "
            "or train on smaller clips"
        )


def _described(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _open_synthetic(root: Path, weight: float, num_frames: int, crop: int) -> SyntheticSource:
    # A shell leaves the "~" of "synthetic:~/data" as it is.
    root = root.expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such data folder")
    photos = _files(root / "photos", SUFFIXES)
    videos = _files(root / "clips", VIDEO_SUFFIXES)
    if not photos and not videos:
        raise ValueError(
            f"{root}: no photos/ or clips/ to train on in this folder; put photos into "
            f"{root / 'photos'}, videos into {root / 'clips'}"
        )
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda path: _read_photo(path, crop), photos))
        runs = pool.map(lambda path: _read_runs(path, num_frames, crop), videos)
        runs = [run for video in runs for run in video]
    logger.info("%s: %d photos, %d runs of video", root, len(photos), len(runs))
    return SyntheticSource(root=root, weight=weight, photos=tuple(pictures), runs=tuple(runs))


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    # macOS leaves "._name" beside every file it copies.
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    others = [path for path in found if path.suffix.lower() not in suffixes]
    if others:
        logger.warning(
            "%s: %d of %d files and folders are left out, as %s is; read are %s, and no "
            "sub-folders",
            *(folder, len(others), len(found), others[0].name, ", ".join(suffixes)),
        )
    return [path for path in found if path.suffix.lower() in suffixes]


def _read_photo(path: Path, crop: int) -> Tensor:
    size = check_image(path)
    _check_crop(path, size, crop)
    return torch.from_numpy(np.stack(list(read_frames([path], size))))


def _read_runs(path: Path, num_frames: int, crop: int) -> list[Tensor]:
    """Read evenly spaced runs of consecutive frames of a video, shrunk if it is large."""
    length = max(_RUN_LENGTH, num_frames)
    video = cv2.VideoCapture(str(path))
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    num_runs = min(_RUNS_PER_CLIP, max(total // length, 1))
    starts = [int(index * total / num_runs) for index in range(num_runs)]
    kept: list[list[np.ndarray]] = [[] for _ in starts]
    index = 0
    while video.grab():
        run = next((r for r, s in enumerate(starts) if s <= index < s + length), None)
        if run is not None:
            ok, frame = video.retrieve()
            if ok:
                kept[run].append(_shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
        index += 1
    video.release()
    if not index:
        raise ValueError(f"{path}: cannot be read as a video; replace or remove it")
    if index < 0.95 * total:
        # Containers round, so a few frames less are no damage.
        logger.warning(
            "%s: is cut off or damaged, only %d of %d frames are read", path, index, total
        )
    runs = [torch.from_numpy(np.stack(run)) for run in kept if len(run) >= num_frames]
    if not runs:
        raise ValueError(
            f"{path}: has {index} frames, but clips have {num_frames}; remove it or train on "
            "shorter clips"
        )
    _check_crop(path, (runs[0].shape[1], runs[0].shape[2]), crop)
    return runs


def _shrink(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height <= _MAX_VIDEO_HEIGHT:
        return frame
    size = (round(width * _MAX_VIDEO_HEIGHT / height), _MAX_VIDEO_HEIGHT)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
