"""Pairs in which every frame is blurred, made from the sharp frames of other pairs.

    python -m video_deblur.benchmarks.steady_set --pairs data/dev/pairs --out steady
    video-deblur evaluate --dataset pairs:steady

Hands pause between shakes, and the development pairs show it: sharper frames are near. Here
the shutter is open for 0.7 to 1 of the frame time and nothing rests. Photos are panned, walked
with, zoomed and passed by things that move on their own. Clips keep the motion of what they
show: pictures between their frames are interpolated along the optical flow (Jiang et al.,
"Super SloMo", CVPR 2018, equation 4) and averaged in linear light, as for GoPro's and REDS's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..images.folders import FrameFolder, FrameFolderWriter
from ..synthesis.camera_response import to_display, to_linear
from ..synthesis.camera_shake import KNOTS_PER_FRAME, ShakeConfig, Trajectory
from ..synthesis.motion_blur import render_clips
from ..synthesis.shot import plan_shot
from ..video.pixels import to_uint8

NUM_FRAMES = 12
SIZE = (160, 192)
"""Height and width, in pixels."""
_SUB_FRAME_PX = 0.75
"""Motion between two pictures that are averaged."""
_MOST_SUB_FRAMES = 48
_RESPONSE = 0
"""The measured one: `synthesis.camera_response.RESPONSES`."""
_CONFIG = ShakeConfig(min_sub_frames=8, max_sub_frames=48, sub_frame_step=_SUB_FRAME_PX)

Path6 = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Positions over time in frames: shift_x, shift_y, turn, zoom, tilt_x, tilt_y, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Filmed:
    """A photo that is filmed by a moving camera."""

    photo: str
    """Sequence whose first sharp frame it is."""
    camera: Path6
    exposure: float
    """Share of the frame time."""
    front: str | None = None
    """Sequence whose first sharp frame passes in front."""
    front_motion: Path6 | None = None


@dataclass(frozen=True, kw_only=True)
class Moving:
    """A clip that keeps its own motion."""

    clip: str
    exposure: float
    start: int = 0
    """First frame."""


def pan(x: float, y: float) -> Path6:
    """Return a motion of so many pixels per frame, a little uneven, as hands are."""

    def path(t: np.ndarray) -> dict[str, np.ndarray]:
        uneven = t - NUM_FRAMES / 2 + 0.4 * np.sin(2 * np.pi * t / 7)
        return {"shift_x": x * uneven, "shift_y": y * uneven}

    return path


def walk(step: float, forward: float) -> Path6:
    """Return a walk: up and down by `step`, sideways half as often, nearer by `forward`."""

    def path(t: np.ndarray) -> dict[str, np.ndarray]:
        phase = 2 * np.pi * t / 6
        return {
            "shift_x": 1.5 * step * np.sin(phase / 2 + 0.5),
            "shift_y": step * np.sin(phase),
            "turn": 0.5 * step * np.sin(phase / 2),
            "zoom": -forward * t,
        }

    return path


SEQUENCES: dict[str, Filmed | Moving] = {
    "pan_a": Filmed(photo="photo_a", camera=pan(8, 0.5), exposure=1.0),
    "pan_c": Filmed(photo="photo_c", camera=pan(-4, 2), exposure=0.8),
    "walk_b": Filmed(photo="photo_b", camera=walk(7, 2.5), exposure=0.9),
    "walk_d": Filmed(photo="photo_d", camera=walk(6, 5), exposure=0.7),
    "object_still_c": Filmed(
        photo="photo_c",
        camera=walk(0.6, 0.2),
        exposure=1.0,
        front="photo_a",
        front_motion=pan(7, -2),
    ),
    "object_pan_d": Filmed(
        photo="photo_d",
        camera=pan(3, 0),
        exposure=0.9,
        front="photo_b",
        front_motion=pan(-8, 1),
    ),
    "moving_bear": Moving(clip="clip_bear", exposure=0.9),
    "moving_tennis": Moving(clip="clip_tennis", exposure=0.8),
    "moving_carshadow": Moving(clip="clip_carshadow", exposure=0.9),
    "moving_foliage": Moving(clip="clip_foliage", exposure=0.8),
    "moving_reds": Moving(clip="reds_020_b", exposure=0.8),
}
"""By name."""


def main() -> None:
    """Make the pairs and print how far things move."""
    parser = argparse.ArgumentParser(description="Pairs in which every frame is blurred.")
    parser.add_argument("--pairs", required=True, help="SEQUENCE/sharp/*.png, as in dev/pairs")
    parser.add_argument("--out", required=True, help="new folder")
    args = parser.parse_args()
    for name, sequence in SEQUENCES.items():
        blurry, sharp = make(sequence, Path(args.pairs))
        for kind, frames in (("blur", blurry), ("sharp", sharp)):
            folder = Path(args.out) / name / kind
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FrameFolderWriter(folder) as writer:
                for index, frame in enumerate(frames):
                    writer.write(frame, f"{index:06d}.png")
        error = np.mean((blurry.astype(np.float64) - sharp) ** 2)
        print(f"{name:18}{10 * math.log10(255**2 / error):6.2f} dB", flush=True)


def make(sequence: Filmed | Moving, pairs: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return blurry and sharp frames, uint8 `[T, H, W, 3]`.

    Raises:
        FileNotFoundError, ValueError: If the pairs lack what is needed.
    """
    if isinstance(sequence, Moving):
        blurry, sharp = _moving(sequence, pairs)
    else:
        blurry, sharp = _filmed(sequence, pairs)
    return to_uint8(blurry), to_uint8(sharp)


def _filmed(sequence: Filmed, pairs: Path) -> tuple[np.ndarray, np.ndarray]:
    path = _trajectory(sequence.camera, sequence.exposure)
    front, mask, passing = None, None, None
    if sequence.front is not None and sequence.front_motion is not None:
        front = _trajectory(sequence.front_motion, sequence.exposure)
        mask = _blob()
        passing = _sharp_frames(pairs, sequence.front, 1)
    shot = plan_shot(path, _RESPONSE, _CONFIG, front=front, mask=mask)
    blurry, sharp = render_clips(_sharp_frames(pairs, sequence.photo, 1)[None], [shot], passing)
    return _to_frames(blurry[0]), _to_frames(sharp[0])


def _trajectory(path: Path6, exposure: float) -> Trajectory:
    t = (np.arange(NUM_FRAMES * KNOTS_PER_FRAME + 3) - 1) / KNOTS_PER_FRAME
    moves = path(t)
    names = ("shift_x", "shift_y", "turn", "zoom", "tilt_x", "tilt_y")
    positions = np.stack([moves.get(name, np.zeros_like(t)) for name in names], axis=-1)
    return Trajectory(
        positions=torch.from_numpy(positions.astype(np.float32)),
        exposure=exposure,
        source_scale=1.0,
        size=SIZE,
    )


def _blob() -> np.ndarray:
    """Return a smooth shape in the middle of `[64, 64]`, positive inside."""
    y, x = (np.mgrid[0:64, 0:64] - 31.5) / 31.5
    angle = np.arctan2(y, x)
    radius = 0.45 + 0.08 * np.sin(3 * angle) + 0.05 * np.cos(5 * angle + 1)
    return (radius - np.hypot(x, y)).astype(np.float32)


def _moving(sequence: Moving, pairs: Path) -> tuple[np.ndarray, np.ndarray]:
    """Average what is between a frame and its neighbours, around each frame."""
    frames = _sharp_frames(pairs, sequence.clip, NUM_FRAMES + 2, sequence.start)
    lumas = [_luma(frame) for frame in frames]
    light = to_linear(frames, torch.full((len(frames),), _RESPONSE))
    blurry = []
    for index in range(1, NUM_FRAMES + 1):
        sides = [
            _between(light, lumas, index, index + side, sequence.exposure / 2)
            for side in (-1, 1)
        ]
        mean = torch.stack(sides).mean(0)
        blurry.append(to_display(mean[None], torch.tensor([_RESPONSE]))[0])
    top, left = (
        (side - wanted) // 2 for side, wanted in zip(frames.shape[2:], SIZE, strict=True)
    )
    cut = (..., slice(top, top + SIZE[0]), slice(left, left + SIZE[1]))
    sharp = frames[1:-1].float() / 255
    return _to_frames(torch.stack(blurry)[cut]), _to_frames(sharp[cut])


def _between(
    light: Tensor, lumas: list[np.ndarray], first: int, second: int, until: float
) -> Tensor:
    """Return the mean of the pictures from a frame to `until` of the way to the next."""
    there, back = _flow(lumas[first], lumas[second]), _flow(lumas[second], lumas[first])
    longest = float(np.percentile(np.hypot(there[..., 0], there[..., 1]), 98))
    count = min(max(4, math.ceil(until * longest / _SUB_FRAME_PX)), _MOST_SUB_FRAMES)
    total = torch.zeros_like(light[first])
    for step in range(count):
        t = until * (step + 0.5) / count
        to_first = _warp(light[first], -(1 - t) * t * there + t * t * back)
        to_second = _warp(light[second], (1 - t) ** 2 * there - t * (1 - t) * back)
        total += (1 - t) * to_first + t * to_second
    return total / count


def _flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(first, second, np.zeros((*first.shape, 2), np.float32))


def _warp(picture: Tensor, flow: np.ndarray) -> Tensor:
    """Fetch each pixel from where the flow points, `[3, H, W]`."""
    height, width = picture.shape[1:]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    grid = np.stack([(x + flow[..., 0]) / (width - 1), (y + flow[..., 1]) / (height - 1)], -1)
    at = torch.from_numpy(2 * grid - 1)[None].float()
    return F.grid_sample(
        picture[None], at, mode="bicubic", padding_mode="border", align_corners=True
    )[0].clamp_min(0)


def _sharp_frames(pairs: Path, name: str, count: int, start: int = 0) -> Tensor:
    """Return frames as uint8 `[T, 3, H, W]`."""
    folder = FrameFolder(pairs / name / "sharp")
    if len(folder) < start + count:
        raise ValueError(f"{folder.path}: has {len(folder)} frames, {start + count} are needed")
    frames = np.stack([folder[index].pixels for index in range(start, start + count)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


def _luma(frame: Tensor) -> np.ndarray:
    return cv2.cvtColor(frame.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY)


def _to_frames(video: Tensor) -> np.ndarray:
    return video.permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    main()
