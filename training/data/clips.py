"""One training clip: cut out of its source on the CPU, blurred and degraded on the device.

Clips are `[T, 3, H, W]`, batches `[B, T, 3, H, W]`: uint8 when drawn, float32 in 0..1 when
finished, display-referred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...synthesis.degradation import compress_h264, degrade
from ...synthesis.motion_blur import render_clips
from ...synthesis.shot import Shot, draw_shot
from ..config import DataConfig
from .sources import PairedSource, Source, SyntheticSource, read_frames

_MARGIN = 64
"""Pixels around a crop that a shaking camera may reach before the picture is reflected."""
_MAX_SHRINKING = 2.5
"""Sharp sources are shrunk by up to this factor, which makes softer ones sharp."""
_PHOTO_SHARE = 0.6
"""Of single frames, where a source has photos and videos."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnClip:
    """What a clip is made of: pixels cut out of their source, and decisions."""

    source: Tensor
    """Sharp frames, uint8 `[T, 3, crop, crop]`; with a shot what the camera films, with a
    margin around the crop: `[1, 3, S, S]` (a photo) or `[T, 3, S, S]`."""
    blurry: Tensor | None = None
    """Real blurry frames, uint8 `[T, 3, crop, crop]`."""
    shot: Shot | None = None
    """How the source is filmed; None if it is sharp or its blurry frames are there."""
    foreground: Tensor | None = None
    """What passes in front in that shot, uint8 `[3, S, S]`."""
    noise_seed: int = 0
    """Seed of the noise on the blurry frames."""
    noise_probability: float = 0.0
    """How likely that seed gives any."""
    crf: int | None = None
    """Quality factor of the H.264 that the blurry frames go through; None if they do not."""


DrawFn = Callable[[SyntheticSource, DataConfig, torch.Generator], DrawnClip]


def draw_clip(source: Source, config: DataConfig, generator: torch.Generator) -> DrawnClip:
    """Draw a clip from a source."""
    if isinstance(source, PairedSource):
        clip = _draw_pair(source, config, generator)
    else:
        shares, kinds = zip(*synthetic_kinds(source, config), strict=True)
        clip = kinds[choose(shares, generator)](source, config, generator)
    compressed = _chance(config.compressed_share, generator)
    return dataclasses.replace(
        clip,
        noise_seed=_integer(2**62, generator),
        noise_probability=config.noise_share,
        crf=16 + _integer(17, generator) if compressed else None,
    )


def clip_bytes(config: DataConfig) -> int:
    """Return how many bytes of pixels a drawn clip has at most."""
    filmed = (config.crop + 2 * _MARGIN) ** 2
    # A real pair, a filmed run of frames, a filmed photo with a foreground.
    per_channel = max(
        2 * config.num_frames * config.crop**2, config.num_frames * filmed, 2 * filmed
    )
    return 3 * per_channel


def synthetic_kinds(source: SyntheticSource, config: DataConfig) -> list[tuple[float, DrawFn]]:
    """List the kinds of clips that a source is to give and can give, with their shares."""
    kinds: list[tuple[float, DrawFn]] = []
    if source.photos:
        kinds.append((config.photo_share, _draw_photo))
    if source.runs:
        kinds.append((config.clip_share, _draw_run))
        kinds.append((1 - config.photo_share - config.clip_share, _draw_sharp_run))
    # Shares that add up to 1 may leave a rounding error.
    return [(share, draw) for share, draw in kinds if share > 1e-6]


def draw_image(source: Source, crop: int, generator: torch.Generator) -> Tensor:
    """Draw a sharp crop, uint8 `[3, crop, crop]`."""
    if isinstance(source, PairedSource):
        number, frame = _window(source, 1, generator)
        path = source.sequences[number].sharp[frame]
        frames = np.stack(list(read_frames([path], source.sizes[number])))
    elif source.photos and (not source.runs or _chance(_PHOTO_SHARE, generator)):
        frames = source.photos[_integer(len(source.photos), generator)].numpy()
    else:
        run = source.runs[_integer(len(source.runs), generator)]
        index = _integer(len(run), generator)
        frames = run[index : index + 1].numpy()
    box = _box(frames.shape[1:3], crop, _MAX_SHRINKING, generator)
    return _augment(_cut(frames, box, crop), generator)[0]


@torch.no_grad()
def finish_clips(
    drawn: Sequence[DrawnClip], device: str | torch.device
) -> tuple[Tensor, Tensor]:
    """Blur and degrade drawn clips of one size, all of a kind at once.

    A clip comes out the same whatever others come with it; on a CPU to the bit.

    Returns:
        Blurry and sharp clips, float32 `[B, T, 3, crop, crop]` on the device.
    """
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    shots: dict[tuple[int, bool], list[int]] = {}
    for index, clip in enumerate(drawn):
        if clip.shot is None:
            sharp = clip.source.to(device) / 255
            blurry = sharp if clip.blurry is None else clip.blurry.to(device) / 255
            pairs[index] = (blurry, sharp)
        else:
            kind = (len(clip.source), clip.foreground is not None)
            shots.setdefault(kind, []).append(index)
    for members in shots.values():
        filmed = _film([drawn[index] for index in members], device)
        pairs.update(zip(members, zip(*filmed, strict=True), strict=True))
    blurry, sharp = (
        torch.stack([pairs[i][part] for i in range(len(drawn))]) for part in (0, 1)
    )
    generators = [torch.Generator().manual_seed(clip.noise_seed) for clip in drawn]
    blurry = degrade(
        blurry, generators, noise_probability=[clip.noise_probability for clip in drawn]
    )
    _compress(blurry, [clip.crf for clip in drawn])
    return blurry, sharp


def choose(weights: Sequence[float], generator: torch.Generator) -> int:
    """Draw an index in proportion to the weights."""
    return int(
        torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1, generator=generator)
    )


def _draw_photo(
    source: SyntheticSource, config: DataConfig, generator: torch.Generator
) -> DrawnClip:
    size = config.crop + 2 * _MARGIN
    photo = _sharp(source.photos[_integer(len(source.photos), generator)], size, generator)
    shape = (config.crop, config.crop)
    shot = draw_shot(config.num_frames, shape, config.shake, generator, may_have_front=True)
    if shot.front is None:
        return DrawnClip(source=photo, shot=shot)
    other = _sharp(source.photos[_integer(len(source.photos), generator)], size, generator)
    return DrawnClip(source=photo, shot=shot, foreground=other[0])


def _draw_run(
    source: SyntheticSource, config: DataConfig, generator: torch.Generator
) -> DrawnClip:
    frames = _consecutive(source, config.num_frames, generator)
    shape = (config.crop, config.crop)
    return DrawnClip(
        source=_sharp(frames, config.crop + 2 * _MARGIN, generator),
        shot=draw_shot(config.num_frames, shape, config.shake, generator),
    )


def _draw_sharp_run(
    source: SyntheticSource, config: DataConfig, generator: torch.Generator
) -> DrawnClip:
    frames = _consecutive(source, config.num_frames, generator)
    return DrawnClip(source=_sharp(frames, config.crop, generator))


def _draw_pair(
    source: PairedSource, config: DataConfig, generator: torch.Generator
) -> DrawnClip:
    number, start = _window(source, config.num_frames, generator)
    sequence, size = source.sequences[number], source.sizes[number]
    frames = slice(start, start + config.num_frames)
    paths = (*sequence.blurry[frames], *sequence.sharp[frames])
    box = _box(size, config.crop, config.pair_shrinking, generator)
    # Each frame is cut as soon as it is decoded: whole ones of a 1080p clip are 200 MB.
    cut = torch.cat(
        [_cut(pixels[None], box, config.crop) for pixels in read_frames(paths, size)]
    )
    both = rearrange(cut, "(kind t) c h w -> t (kind c) h w", kind=2)
    both = _augment(both, generator)
    blurry, sharp = both.split(3, dim=1)
    return DrawnClip(source=sharp, blurry=blurry)


def _consecutive(
    source: SyntheticSource, num_frames: int, generator: torch.Generator
) -> Tensor:
    run = source.runs[_integer(len(source.runs), generator)]
    start = _integer(len(run) - num_frames + 1, generator)
    return run[start : start + num_frames]


def _window(
    source: PairedSource, num_frames: int, generator: torch.Generator
) -> tuple[int, int]:
    """Draw a sequence and a first frame, all windows being equally likely."""
    windows = [len(sequence.blurry) - num_frames + 1 for sequence in source.sequences]
    number = choose(windows, generator)
    return number, _integer(windows[number], generator)


def _sharp(frames: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Cut a random square out of uint8 `[T, H, W, 3]`: `[T, 3, size, size]`."""
    box = _box(frames.shape[1:3], size, _MAX_SHRINKING, generator)
    return _augment(_cut(frames.numpy(), box, size), generator)


def _box(
    frame: Sequence[int], size: int, max_shrinking: float, generator: torch.Generator
) -> tuple[int, int, int]:
    """Draw a square inside a frame: top, left and side, `size` or up to so much larger.

    Frames smaller than that give the largest square they have.
    """
    height, width = frame
    scale = max_shrinking ** float(torch.rand((), generator=generator))
    side = min(round(size * scale), height, width)
    return _integer(height - side + 1, generator), _integer(width - side + 1, generator), side


def _cut(frames: np.ndarray, box: tuple[int, int, int], size: int) -> Tensor:
    """Cut a square out of `[T, H, W, 3]` and resize it: uint8 `[T, 3, size, size]`."""
    top, left, side = box
    cut = frames[:, top : top + side, left : left + side]
    if side != size:
        method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        cut = np.stack([cv2.resize(frame, (size, size), interpolation=method) for frame in cut])
    return rearrange(torch.from_numpy(np.ascontiguousarray(cut)), "t h w c -> t c h w")


def _integer(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def _augment(clip: Tensor, generator: torch.Generator) -> Tensor:
    """Flip in time and space, transpose."""
    for axis in (0, -1, -2):
        if _chance(0.5, generator):
            clip = clip.flip(axis)
    return clip.transpose(-1, -2) if _chance(0.5, generator) else clip


def _film(clips: Sequence[DrawnClip], device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Render clips of one kind: blurry and sharp `[N, T, 3, crop, crop]`."""
    fronts = [clip.foreground for clip in clips if clip.foreground is not None]
    return render_clips(
        torch.stack([clip.source for clip in clips]).to(device),
        [clip.shot for clip in clips if clip.shot is not None],
        torch.stack(fronts).to(device) if fronts else None,
    )


def _compress(clips: Tensor, factors: Sequence[int | None]) -> None:
    """Send those clips of a batch through H.264 in place that have a quality factor."""

    def compress(index: int, crf: int) -> None:
        frames = (clips[index] * 255).round().to("cpu", torch.uint8)
        decoded = compress_h264(rearrange(frames, "t c h w -> t h w c").numpy(), crf)
        decoded = rearrange(torch.from_numpy(decoded), "t h w c -> t c h w")
        clips[index] = decoded.to(clips.device) / 255

    chosen = [(index, crf) for index, crf in enumerate(factors) if crf is not None]
    if not chosen:
        return
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(compress, *one) for one in chosen]:
            done.result()
