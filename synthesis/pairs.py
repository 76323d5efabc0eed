"""Blurry/sharp pairs on disk, made from photos or sharp video.

Written as `<output>/<name>/{blur,sharp}/<frame>.png`, the layout that training and evaluation
read. A photo is shaken over `num_frames` frames; a video is shaken on top of its own motion,
or, if it was filmed at a high rate, averaged over consecutive frames.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..images.folders import read_image
from ..video.pixels import to_float, to_uint8
from ..video.reader import VideoReader
from .motion_blur import (
    ShakeConfig,
    average_frames,
    compress_h264,
    compress_jpeg,
    degrade,
    render_clips,
)
from .shot import Shot, draw_shot

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_MARGIN = 0.1
"""Share of each side that is cropped away, so that the shaking camera has room to move."""
_MOST_DRAWS = 50
"""Of camera paths, until one stays inside the source."""
_MIN_SIDE = 32


@dataclass(frozen=True)
class _Options:
    num_frames: int
    config: ShakeConfig
    average: int
    jpeg_quality: int | None
    h264_crf: int | None


def synthesize_pairs(
    inputs: list[Path],
    output: Path,
    *,
    num_frames: int = 24,
    seed: int = 0,
    config: ShakeConfig | None = None,
    average: int = 0,
    jpeg_quality: int | None = None,
    h264_crf: int | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write one sequence of blurry and sharp frames per photo or video.

    Args:
        inputs: Photos, folders of photos, and sharp video files.
        output: Folder for the sequences; made if missing.
        num_frames: Length of each sequence. A shorter video gives fewer frames.
        seed: The same seed, inputs and numbers give the same files.
        config: What motion to draw; default: `ShakeConfig()`.
        average: Consecutive frames of a high-speed video to average into one, an odd number
            (9 or more look natural), so that one of them is the middle of the exposure; 0
            shakes videos instead. Photos are always shaken.
        jpeg_quality: 1 to 100: send blurry frames through JPEG.
        h264_crf: 0 to 51: send blurry frames through H.264.
        callback: Called with (sequences done, sequences in all), also before the first.

    Returns:
        The folders written, in the order of the inputs.

    Raises:
        FileNotFoundError: If an input does not exist.
        ValueError: If an input cannot be read, is too small or too short, or its sequence
            exists already.
    """
    if num_frames < 1 or average < 0:
        raise ValueError(
            f"expected num_frames >= 1 and average >= 0, got {num_frames} and {average}"
        )
    if average and average % 2 == 0:
        raise ValueError(f"average must be odd, so that there is a middle frame, got {average}")
    sources = _list_sources(inputs)
    options = _Options(num_frames, config or ShakeConfig(), average, jpeg_quality, h264_crf)
    folders = _name_sequences(sources, output)
    if callback:
        callback(0, len(sources))
    for number, (source, folder) in enumerate(zip(sources, folders, strict=True)):
        # A seed of its own per sequence: one more input leaves the others as they were.
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        blurry, sharp = _synthesize(source, options, generator)
        _write_pairs(folder, blurry, sharp)
        if callback:
            callback(number + 1, len(sources))
    return folders


def _list_sources(inputs: list[Path]) -> list[Path]:
    sources = []
    for path in inputs:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such photo, video or folder")
        if not path.is_dir():
            sources.append(path)
            continue
        photos = sorted(p for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
        if not photos:
            raise ValueError(f"{path}: no photos in this folder ({', '.join(PHOTO_SUFFIXES)})")
        sources += photos
    if not sources:
        raise ValueError("no input given: name photos, folders of photos or video files")
    return sources


def _name_sequences(sources: list[Path], output: Path) -> list[Path]:
    names: set[str] = set()
    folders = []
    for source in sources:
        name, number = source.stem, 2
        while name in names:
            name, number = f"{source.stem}_{number}", number + 1
        names.add(name)
        folder = output / name
        if folder.exists():
            raise ValueError(f"{folder}: exists already. Remove it or choose another output.")
        folders.append(folder)
    return folders


def _synthesize(
    source: Path, options: _Options, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return blurry and sharp frames, uint8 `[T, H, W, 3]`, RGB."""
    is_photo = source.suffix.lower() in PHOTO_SUFFIXES
    averages = options.average > 0 and not is_photo
    count = options.num_frames * options.average if averages else options.num_frames
    frames = _read_photo(source) if is_photo else _read_video(source, count)
    height, width = frames.shape[-2:]
    if averages:
        if len(frames) < options.average:
            raise ValueError(
                f"{source}: has {len(frames)} frames, averaging needs {options.average}"
            )
        blurry, sharp = average_frames(frames, options.average)
    else:
        size = (int(height * (1 - 2 * _MARGIN)), int(width * (1 - 2 * _MARGIN)))
        if min(size) < _MIN_SIDE:
            raise ValueError(
                f"{source}: {width}x{height} is too small, the shorter side needs at least "
                f"{int(_MIN_SIDE / (1 - 2 * _MARGIN)) + 1} pixels"
            )
        length = options.num_frames if is_photo else len(frames)
        shot = _draw_inside(length, size, options.config, generator, (height, width))
        blurry, sharp = (clip[0] for clip in render_clips(frames[None], [shot]))
    blurry = _to_frames(degrade(blurry[None], [generator])[0])
    if options.jpeg_quality is not None:
        blurry = compress_jpeg(blurry, options.jpeg_quality)
    if options.h264_crf is not None:
        blurry = compress_h264(blurry, options.h264_crf)
    return blurry, _to_frames(sharp)


def _draw_inside(
    num_frames: int,
    size: tuple[int, int],
    config: ShakeConfig,
    generator: torch.Generator,
    source: tuple[int, int],
) -> Shot:
    """Draw a shot that does not look beyond its source, or of many the one that does least.

    What lies beyond is a mirror image, which moves against the camera.
    """
    least, chosen = math.inf, None
    for _ in range(_MOST_DRAWS):
        shot = draw_shot(num_frames, size, config, generator)
        beyond = shot.overreach(*source)
        if beyond < least:
            least, chosen = beyond, shot
        if least == 0:
            break
    assert chosen is not None
    return chosen


def _to_frames(video: Tensor) -> np.ndarray:
    frames = (video * 255).round().clamp(0, 255).byte()
    return rearrange(frames, "t c h w -> t h w c").contiguous().numpy()


def _read_photo(path: Path) -> Tensor:
    return _to_source([read_image(path)])


def _read_video(path: Path, max_frames: int) -> Tensor:
    with VideoReader(path) as reader:
        return _to_source([frame.pixels for frame in islice(reader, max_frames)])


def _to_source(frames: list[np.ndarray]) -> Tensor:
    """Stack pictures of any depth, without alpha, as uint8 `[T, 3, H, W]`."""
    pixels = np.stack([to_uint8(to_float(frame[..., :3])) for frame in frames])
    return rearrange(torch.from_numpy(pixels), "t h w c -> t c h w").contiguous()


def _write_pairs(folder: Path, blurry: np.ndarray, sharp: np.ndarray) -> None:
    """Write under a temporary name beside `folder`, then rename: all frames or none."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for kind, frames in (("blur", blurry), ("sharp", sharp)):
            (partial / kind).mkdir(parents=True)
            for index, frame in enumerate(frames):
                # imencode, not imwrite: the latter fails silently, and on unusual file names.
                data = cv2.imencode(".png", frame[..., ::-1])[1]
                (partial / kind / f"{index:06d}.png").write_bytes(data.tobytes())
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
