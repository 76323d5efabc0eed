"""A rendered clip that smears in motion, and what restoring it gives.

    python -m video_deblur.benchmarks.rendered_scene --json FILE --picture FILE.jpg

A card and a wheel move over a wall, drawn from a seed. Frames smear in the three ways that
people meet: a gesture (stop and go, full shutter), a steady movement (every frame is blurred
alike), and ghosts (each frame is the mean of four in display values, as networks that generate
video in groups of frames leave them). Frames are uint8 `[H, W, 3]` RGB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..evaluation.fidelity import psnr, ssim
from ..models.bundled import DEFAULT
from ..restoration.engine import Engine
from ..restoration.settings import preset_settings
from ..synthesis.camera_response import RESPONSES
from ..synthesis.motion_blur import average_frames, compress_h264
from ..video.pixels import to_float, to_uint8

KINDS = ("gesture", "steady", "ghosts")
SETTINGS: dict[str, dict[str, Any]] = {
    "fast": {},
    "alone": {"borrow": False},
    "detailed": {"preset": "detailed"},
}
"""What is compared: the default, and one change at a time. Alone means without borrowing."""
_SUB_FRAMES = 33
_GHOSTS = 4
_RESTS, _MOVES, _WAY = 5, 4, 4.0
"""Frames that a gesture rests, and then moves; how many frames of steady
movement that is."""
_CRF = 18
"""Of the H.264 file that the clip went through."""
_STILL = 45.0
"""dB between blurry and sharp above which a frame counts as sharp."""
_MOVED = 6
"""Levels of 255 by which smeared pixels differ from sharp ones."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Textures that are drawn once, of a seed."""

    wall: np.ndarray
    """Larger than a frame."""
    card: np.ndarray
    """Textured, with letters."""
    wheel: np.ndarray
    """Spokes on a disc."""
    size: tuple[int, int]
    """Height and width of frames."""

    @classmethod
    def of(cls, seed: int, size: tuple[int, int]) -> Scene:
        """Draw the textures."""
        rng = np.random.default_rng(seed)
        side = size[0] // 2
        return cls(
            wall=_wall(rng, size[0] + 40, size[1] + 40),
            card=_card(rng, side),
            wheel=_wheel(rng, side),
            size=size,
        )

    def frame(self, progress: float) -> np.ndarray:
        """Draw the scene after so much of the movement; 1 is a frame of steady movement."""
        height, width = self.size
        left, top = 20 + 8 * np.sin(progress / 9), 20 + 5 * np.cos(progress / 7)
        corner = np.array([[1, 0, -left], [0, 1, -top]], np.float32)
        frame = _warp(self.wall, corner, self.size)
        across = 0.3 + 0.18 * np.sin(progress / 6)
        up = 0.5 + 0.2 * np.cos(progress / 5)
        frame = self._put(frame, self.card, across * width, up * height, 3 * progress)
        return self._put(frame, self.wheel, 0.76 * width, 0.55 * height, 5 * progress)

    def _put(
        self, frame: np.ndarray, thing: np.ndarray, x: float, y: float, degrees: float
    ) -> np.ndarray:
        middle = thing.shape[1] / 2, thing.shape[0] / 2
        matrix = cv2.getRotationMatrix2D(middle, degrees, 0.95)
        matrix[:, 2] += x - middle[0], y - middle[1]
        placed = cv2.warpAffine(thing, matrix, self.size[::-1], flags=cv2.INTER_LINEAR)
        cover = placed[..., 3:] / np.float32(255)
        return (frame * (1 - cover) + placed[..., :3] * cover).round().astype(np.uint8)


def smeared_clip(
    kind: str, num_frames: int, size: tuple[int, int], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Render a clip.

    Args:
        kind: One of `KINDS`.
        num_frames: Length T.
        size: Height and width, in pixels.
        seed: Of the textures.

    Returns:
        Smeared and sharp frames, uint8 `[T, H, W, 3]`, not compressed; sharp is the middle of
        the exposure.
    """
    scene = Scene.of(seed, size)
    moved = _stop_and_go if kind != "steady" else float
    blurry, sharp = [], []
    for index in range(num_frames):
        if kind == "ghosts":
            group = [index + offset - (_GHOSTS - 1) / 2 for offset in range(_GHOSTS)]
            drawn = np.stack([scene.frame(moved(instant)) for instant in group])
            blurry.append(drawn.mean(0).round().astype(np.uint8))
            sharp.append(scene.frame(moved(index)))
        else:
            frame, middle = _exposed(scene, moved, index)
            blurry.append(frame)
            sharp.append(middle)
    return np.stack(blurry), np.stack(sharp)


def _exposed(
    scene: Scene, moved: Callable[[float], float], index: int
) -> tuple[np.ndarray, np.ndarray]:
    instants = index + (np.arange(_SUB_FRAMES) - _SUB_FRAMES // 2) / _SUB_FRAMES
    drawn = np.stack([scene.frame(moved(instant)) for instant in instants])
    frames = torch.from_numpy(drawn.transpose(0, 3, 1, 2))
    pair = average_frames(frames, _SUB_FRAMES, response=RESPONSES.index("srgb"))
    blurry, sharp = (to_uint8(clip[0].permute(1, 2, 0).numpy()) for clip in pair)
    return blurry, sharp


def _stop_and_go(instant: float) -> float:
    whole, within = divmod(instant, _RESTS + _MOVES)
    share = np.clip((within - _RESTS) / _MOVES, 0, 1)
    return float(_WAY * (whole + share**2 * (3 - 2 * share)))


def _wall(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    wall = np.full((height, width, 3), (150, 120, 105), np.float32)
    for octave in range(2, 7):
        grain = rng.normal(size=(2**octave, 2**octave, 1)).astype(np.float32)
        wall += 9 * cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    wall += rng.normal(size=(height, width, 1)).astype(np.float32) * 5
    for row in range(0, height, 18):
        cv2.line(wall, (0, row), (width, row), (85, 75, 70), 1)
        for column in range(row // 18 % 2 * 20, width, 40):
            cv2.line(wall, (column, row), (column, row + 18), (85, 75, 70), 1)
    return wall.clip(0, 255).astype(np.uint8)


def _card(rng: np.random.Generator, side: int) -> np.ndarray:
    card = np.full((side, side, 4), (235, 225, 200, 255), np.uint8)
    step = max(side // 12, 3)
    for row in range(0, side // 3, step):
        for column in range(0, side, step):
            colour = tuple(int(v) for v in rng.integers(20, 220, 3))
            cv2.rectangle(
                card, (column, row), (column + step - 1, row + step - 1), (*colour, 255), -1
            )
    for line, text in enumerate(("MOVING", "smear", "0123456")):
        place = (side // 16, side // 2 + line * side // 5)
        scale = side / 150
        cv2.putText(
            card,
            text,
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (30, 30, 60, 255),
            1,
            cv2.LINE_AA,
        )
    return card


def _wheel(rng: np.random.Generator, side: int) -> np.ndarray:
    wheel = np.zeros((side, side, 4), np.uint8)
    middle = (side // 2, side // 2)
    cv2.circle(wheel, middle, side // 2 - 2, (50, 90, 130, 255), -1, cv2.LINE_AA)
    for start in range(0, 360, 30):
        colour = tuple(int(v) for v in rng.integers(120, 255, 3))
        axes = (side // 2 - 8, side // 2 - 8)
        cv2.ellipse(wheel, middle, axes, 0, start, start + 12, (*colour, 255), -1, cv2.LINE_AA)
    cv2.circle(wheel, middle, side // 8, (230, 230, 230, 255), -1, cv2.LINE_AA)
    return wheel


def _warp(picture: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.warpAffine(picture, matrix, size[::-1], borderMode=cv2.BORDER_REFLECT)


def measure(
    blurry: np.ndarray, seen: np.ndarray, restored: np.ndarray, sharp: np.ndarray
) -> dict[str, float]:
    """Compare before and after.

    Args:
        blurry: Smeared, uint8 `[T, H, W, 3]`.
        seen: What compression left of it.
        restored: What was made of that.
        sharp: Without smear.

    Returns:
        Means over frames: PSNR in dB and SSIM of whole frames, and PSNR of the pixels that
        smearing changed; "kept", the PSNR in dB of sharp frames against the input, NaN if there
        are none.
    """
    smeared = np.abs(blurry.astype(int) - sharp).max(-1) > _MOVED
    still = [psnr(*pair, data_range=255) > _STILL for pair in zip(blurry, sharp, strict=True)]
    kept = [
        psnr(after, before, data_range=255)
        for after, before in zip(restored[still], seen[still], strict=True)
    ]
    figures = {"sharp frames": float(sum(still))}
    for name, clip in (("before", seen), ("after", restored)):
        both = list(zip(clip, sharp, strict=True))
        figures[f"PSNR {name}"] = _mean(psnr(a, b, data_range=255) for a, b in both)
        figures[f"SSIM {name}"] = _mean(ssim(a, b, data_range=255) for a, b in both)
        figures[f"PSNR {name}, smeared pixels"] = psnr(
            clip[smeared], sharp[smeared], data_range=255
        )
    figures["kept"] = _mean(kept) if kept else float("nan")
    return figures


def _mean(decibels: Iterable[float]) -> float:
    # Equal frames are infinitely close.
    return float(np.mean(np.minimum(list(decibels), 99)))


def restore(engine: Engine, config: Any, blurry: np.ndarray, options: dict) -> np.ndarray:
    """Restore uint8 frames with a preset ("fast" if none is named) and settings."""
    settings = preset_settings(config, **{"preset": "fast", **options})
    return to_uint8(engine.restore(torch.from_numpy(to_float(blurry)), settings).numpy())


def _picture(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    titles = []
    for title in ("smeared", "Video Deblur", "sharp"):
        bar = np.full((24, rows[0][0].shape[1] * 2, 3), 255, np.uint8)
        cv2.putText(
            bar, title, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
        titles.append(bar)
    lines = [np.concatenate(titles, 1)]
    for row in rows:
        large = [np.kron(frame, np.ones((2, 2, 1), np.uint8)) for frame in row]
        lines.append(np.concatenate(large, 1))
    return np.concatenate(lines)


def main() -> None:
    """Render, restore, measure, and write what was asked for."""
    from ..restoration.load import load_deblurrer

    parser = argparse.ArgumentParser(description="Measure rendered clips that smear.")
    parser.add_argument("--frames", type=int, default=27)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 192], help="width, height")
    parser.add_argument("--checkpoint", default=DEFAULT)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--pairs", type=Path, help="write pairs for `evaluate` here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    deblurrer = load_deblurrer(args.checkpoint)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    rows = []
    for kind in KINDS:
        blurry, sharp = smeared_clip(kind, args.frames, tuple(args.size[::-1]))
        seen = compress_h264(blurry, _CRF)
        if args.pairs:
            _write_pairs(args.pairs / kind, seen, sharp)
        figures[kind] = {}
        for name in args.settings:
            restored = restore(deblurrer, deblurrer.config, seen, SETTINGS[name])
            figures[kind][name] = measure(blurry, seen, restored, sharp)
            print(kind, name, json.dumps(figures[kind][name]), flush=True)
            if name == args.settings[0]:
                frame = _smeared_frame(seen, sharp)
                rows.append([seen[frame], restored[frame], sharp[frame]])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.picture:
        quality = [cv2.IMWRITE_JPEG_QUALITY, 80]
        cv2.imwrite(str(args.picture), _picture(rows)[..., ::-1], quality)


def _smeared_frame(seen: np.ndarray, sharp: np.ndarray) -> int:
    """Choose the middle one of the third of all frames that smears most."""
    far = [psnr(*pair, data_range=255) for pair in zip(seen, sharp, strict=True)]
    return int(np.argsort(far)[len(far) // 6])


def _write_pairs(folder: Path, blurry: np.ndarray, sharp: np.ndarray) -> None:
    for name, clip in (("blur", blurry), ("sharp", sharp)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(clip):
            cv2.imwrite(str(folder / name / f"{index:06}.png"), frame[..., ::-1])


if __name__ == "__main__":
    main()
