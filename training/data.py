"""Training clips: sharp photos and videos held in memory, blurred as they are drawn.

A data folder holds any of:

    photos/*.jpg|png                       sharp photos
    clips/*.mp4                            sharp videos
    pairs/<sequence>/{blur,sharp}/*.png    real blurry and sharp frames, same names

Batches are `[B, T, 3, H, W]` in 0..1, display-referred.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..video.degradation import compress_h264, degrade
from ..video.motion_blur import shake_clips
from .config import DataConfig

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".avi", ".webm"}

_MARGIN = 64
"""Pixels around a crop that a shaking camera may reach before the picture is reflected."""
_RUN_LENGTH = 16
"""Consecutive frames kept from each part of a video."""
_RUNS_PER_CLIP = 5
"""Parts kept from each video: all of them would not fit in memory."""
_MAX_VIDEO_HEIGHT = 540
"""Videos are shrunk to this height, which also hides their compression."""


class TrainingData:
    """Photos, clips and pairs of one folder.

    Args:
        root: The data folder.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it holds nothing to train on, or a file in it is unusable.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: no such data folder")
        self.photos = [_read_image(path) for path in _files(root / "photos", IMAGE_SUFFIXES)]
        self.runs: list[np.ndarray] = []
        for path in _files(root / "clips", VIDEO_SUFFIXES):
            self.runs += _read_runs(path)
        self.pairs = _read_pairs(root / "pairs")
        if not self.photos and not self.runs:
            raise ValueError(f"{root}: no photos/ or clips/ to train on in this folder")
        logger.info(
            "%s: %d photos, %d runs of video, %d real pairs",
            root,
            len(self.photos),
            len(self.runs),
            len(self.pairs),
        )

    def images(self, count: int, crop: int, generator: torch.Generator) -> Tensor:
        """Draw single sharp crops `[count, 3, crop, crop]` in 0..1."""
        images = []
        for _ in range(count):
            photo = bool(self.photos) and (not self.runs or _chance(0.6, generator))
            if photo:
                source = self.photos[_integer(len(self.photos), generator)][None]
            else:
                run = self.runs[_integer(len(self.runs), generator)]
                index = _integer(len(run), generator)
                source = run[index : index + 1]
            images.append(_augment(_region(source, crop, generator), generator)[0])
        return torch.stack(images).float() / 255

    def clips(
        self,
        count: int,
        config: DataConfig,
        generator: torch.Generator,
        device: str | torch.device = "cpu",
    ) -> tuple[Tensor, Tensor]:
        """Draw blurry and sharp clips, each `[count, T, 3, crop, crop]` in 0..1 on `device`.

        Sources are cut on the CPU and blurred on the device, all of a kind at once.
        """
        drawn = [self._draw(config, generator) for _ in range(count)]
        pairs: dict[int, tuple[Tensor, Tensor]] = {
            index: (clip[0].to(device), clip[1].to(device))
            for index, clip in enumerate(drawn)
            if not isinstance(clip, _Unshaken)
        }
        for photos in (True, False):
            members = {
                index: clip
                for index, clip in enumerate(drawn)
                if isinstance(clip, _Unshaken) and (clip.foreground is not None) == photos
            }
            if members:
                shaken = _shake(list(members.values()), config, generator, device)
                pairs.update(zip(members, zip(*shaken, strict=True), strict=True))
        blurry, sharp = (torch.stack([pairs[i][k] for i in range(count)]) for k in (0, 1))
        degraded = degrade(blurry, generator)
        for index in range(count):
            if _chance(config.compressed_share, generator):
                degraded[index] = _compress(degraded[index], generator)
        return degraded, sharp

    def _draw(
        self, config: DataConfig, generator: torch.Generator
    ) -> _Unshaken | tuple[Tensor, Tensor]:
        kinds: list[tuple[float, Callable[[], _Unshaken | tuple[Tensor, Tensor]]]] = []
        if self.photos:
            kinds.append((config.photo_share, lambda: self._photo(config, generator)))
        if self.runs:
            kinds.append((config.clip_share, lambda: self._run(config, generator)))
            still = 1 - config.photo_share - config.clip_share - config.pair_share
            kinds.append((still, lambda: self._sharp_run(config, generator)))
        if self.pairs:
            kinds.append((config.pair_share, lambda: self._real_pair(config, generator)))
        weights = torch.tensor([max(weight, 0.0) for weight, _ in kinds])
        return kinds[int(torch.multinomial(weights, 1, generator=generator))][1]()

    def _photo(self, config: DataConfig, generator: torch.Generator) -> _Unshaken:
        size = config.crop + 2 * _MARGIN
        photo = self.photos[_integer(len(self.photos), generator)][None]
        other = self.photos[_integer(len(self.photos), generator)][None]
        return _Unshaken(
            source=_augment(_region(photo, size, generator), generator),
            foreground=_region(other, size, generator)[0],
        )

    def _run(self, config: DataConfig, generator: torch.Generator) -> _Unshaken:
        frames = self._frames(config.num_frames, generator)
        size = config.crop + 2 * _MARGIN
        return _Unshaken(source=_augment(_region(frames, size, generator), generator))

    def _sharp_run(
        self, config: DataConfig, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        frames = self._frames(config.num_frames, generator)
        clip = _augment(_region(frames, config.crop, generator), generator).float() / 255
        return clip, clip

    def _real_pair(
        self, config: DataConfig, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        frames = self.pairs[_integer(len(self.pairs), generator)]
        frames = _take(frames, config.num_frames, generator)
        both = rearrange(frames, "t two h w c -> (t two) h w c")
        both = _augment_pair(_region(both, config.crop, generator, max_scale=1.5), generator)
        pairs = rearrange(both.float() / 255, "(t two) c h w -> two t c h w", two=2)
        return pairs[0], pairs[1]

    def _frames(self, num_frames: int, generator: torch.Generator) -> np.ndarray:
        return _take(self.runs[_integer(len(self.runs), generator)], num_frames, generator)


@dataclass(frozen=True, eq=False)
class _Unshaken:
    """What a shaking camera is to film, with a margin around the crop."""

    source: Tensor
    """A photo `[1, 3, S, S]` or a clip `[T, 3, S, S]`, uint8."""
    foreground: Tensor | None = None
    """A picture `[3, S, S]` that may move in front of a photo."""


def _shake(
    clips: list[_Unshaken],
    config: DataConfig,
    generator: torch.Generator,
    device: str | torch.device,
) -> tuple[Tensor, Tensor]:
    """Shake sources of one kind: blurry and sharp `[N, T, 3, crop, crop]`."""
    foregrounds = [clip.foreground for clip in clips if clip.foreground is not None]
    return shake_clips(
        torch.stack([clip.source for clip in clips]).to(device),
        config.num_frames,
        (config.crop, config.crop),
        config.shake,
        generator,
        torch.stack(foregrounds).to(device) if foregrounds else None,
    )


def _take(frames: np.ndarray, num_frames: int, generator: torch.Generator) -> np.ndarray:
    """Take consecutive frames, mirrored in time when the run is too short."""
    if len(frames) < num_frames:
        period = max(2 * len(frames) - 2, 1)
        order = [min(i % period, period - i % period) for i in range(num_frames)]
        return frames[order]
    start = _integer(len(frames) - num_frames + 1, generator)
    return frames[start : start + num_frames]


def _region(
    frames: np.ndarray, size: int, generator: torch.Generator, max_scale: float = 2.5
) -> Tensor:
    """Cut a random square and shrink it to `size`: uint8 `[T, 3, size, size]`.

    Shrinking makes softer sources sharp; sources smaller than the square are enlarged.
    """
    height, width = frames.shape[1:3]
    scale = max_scale ** float(torch.rand((), generator=generator))
    side = min(round(size * scale), height, width)
    top = _integer(height - side + 1, generator)
    left = _integer(width - side + 1, generator)
    cut = frames[:, top : top + side, left : left + side]
    if side != size:
        method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        cut = np.stack([cv2.resize(frame, (size, size), interpolation=method) for frame in cut])
    return rearrange(torch.from_numpy(np.ascontiguousarray(cut)), "t h w c -> t c h w")


def _augment(clip: Tensor, generator: torch.Generator) -> Tensor:
    """Flip in space and time, transpose."""
    if _chance(0.5, generator):
        clip = clip.flip(0)
    return _augment_pair(clip, generator)


def _augment_pair(clip: Tensor, generator: torch.Generator) -> Tensor:
    if _chance(0.5, generator):
        clip = clip.flip(-1)
    if _chance(0.5, generator):
        clip = clip.flip(-2)
    if _chance(0.5, generator):
        clip = clip.transpose(-1, -2)
    return clip


def _compress(clip: Tensor, generator: torch.Generator) -> Tensor:
    crf = 16 + _integer(17, generator)
    frames = rearrange((clip * 255).round().to(torch.uint8).cpu(), "t c h w -> t h w c")
    decoded = torch.from_numpy(compress_h264(frames.numpy(), crf))
    return rearrange(decoded, "t h w c -> t c h w").to(clip) / 255


def _integer(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(limit, 1), (), generator=generator))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def _read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: cannot be read as an image; remove or replace it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_runs(path: Path) -> list[np.ndarray]:
    """Read evenly spaced runs of consecutive frames of a video, uint8 `[T, H, W, 3]`."""
    video = cv2.VideoCapture(str(path))
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    num_runs = min(_RUNS_PER_CLIP, max(total // _RUN_LENGTH, 1))
    spacing = total / num_runs
    starts = [int(index * spacing) for index in range(num_runs)]
    kept: list[list[np.ndarray]] = [[] for _ in starts]
    index = 0
    while True:
        ok = video.grab()
        if not ok:
            break
        run = next((r for r, s in enumerate(starts) if s <= index < s + _RUN_LENGTH), None)
        if run is not None:
            ok, frame = video.retrieve()
            if ok:
                kept[run].append(_shrink(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)))
        index += 1
    video.release()
    runs = [np.stack(run) for run in kept if len(run) >= 2]
    if not runs:
        raise ValueError(f"{path}: cannot be read as a video of at least 2 frames")
    return runs


def _shrink(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height <= _MAX_VIDEO_HEIGHT:
        return frame
    size = (round(width * _MAX_VIDEO_HEIGHT / height), _MAX_VIDEO_HEIGHT)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _read_pairs(folder: Path) -> list[np.ndarray]:
    """Read each sequence as uint8 `[T, 2, H, W, 3]`, blurry then sharp."""
    pairs = []
    for sequence in sorted(folder.iterdir()) if folder.is_dir() else []:
        blurry = {path.name: path for path in _files(sequence / "blur", IMAGE_SUFFIXES)}
        sharp = {path.name: path for path in _files(sequence / "sharp", IMAGE_SUFFIXES)}
        unpaired = sorted(set(blurry) ^ set(sharp))
        if unpaired or not blurry:
            name = unpaired[0] if unpaired else "no frames"
            raise ValueError(f"{sequence}: blur/ and sharp/ do not match ({name})")
        frames = []
        for name in sorted(blurry):
            pair = _read_image(blurry[name]), _read_image(sharp[name])
            if pair[0].shape != pair[1].shape:
                raise ValueError(f"{sequence}: {name} differs in size between blur/ and sharp/")
            frames.append(np.stack(pair))
        if len({pair.shape for pair in frames}) > 1:
            raise ValueError(f"{sequence}: its frames are not all of the same size")
        pairs.append(np.stack(frames))
    return pairs
