"""The demonstration: restore the bundled clip, show and measure the result.

The clip is REDS training scene 020 (Nah et al., NTIRE 2019, CC BY 4.0), which no bundled
checkpoint was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ..restoration.pipeline import Deblurrer
from ..restoration.settings import RestorationSettings
from ..video.pixels import to_float, to_uint8
from ..video.reader import VideoReader
from ..video.writer import VideoWriter
from .fidelity import psnr, ssim

DEMO_FOLDER = Path(__file__).parent.parent / "restoration" / "demo"

_CROPS = ((200, 30), (85, 150))
"""Left and top of the two zoomed crops, in pixels of the 384x256 clip."""
_CROP_SIZE = (96, 64)
_ZOOM = 4


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demonstration measured and wrote."""

    num_frames: int
    """Frames restored."""
    input_scores: dict[str, float]
    """PSNR in dB and SSIM of the blurry frames, mean."""
    scores: dict[str, float]
    """The same for the restored frames."""
    files: tuple[Path, ...]
    """Restored video, side-by-side video, picture."""


def run_demo(
    folder: str | Path,
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    callback: Callable[[int, int], None] | None = None,
) -> DemoResult:
    """Restore the bundled clip into `folder` (made if missing; files are replaced).

    Raises:
        OSError: If the folder cannot be made or written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with VideoReader(DEMO_FOLDER / "blurry.mp4") as reader:
        info = reader.info
        source = list(reader)
    with VideoReader(DEMO_FOLDER / "sharp.mp4") as reader:
        sharp = [frame.pixels for frame in reader]
    blurry = np.stack([frame.pixels for frame in source])
    frames = deblurrer.restore(torch.from_numpy(to_float(blurry)), settings, callback)
    restored = to_uint8(frames.numpy())

    files = tuple(
        folder / name for name in ("restored.mp4", "side_by_side.mp4", "before_after.png")
    )
    with VideoWriter.like(files[0], info) as writer:
        for pixels, frame in zip(restored, source, strict=True):
            writer.write(pixels, frame.pts, frame.duration)
    with VideoWriter(
        files[1],
        width=2 * info.width,
        height=info.height,
        time_base=info.time_base,
        average_rate=info.average_rate,
        color=info.color,
    ) as writer:
        for pixels, frame in zip(restored, source, strict=True):
            pair = np.concatenate([frame.pixels, pixels], axis=1)
            writer.write(pair, frame.pts, frame.duration)
    index = len(source) // 2
    picture = before_after([blurry[index], restored[index], sharp[index]])
    if not cv2.imwrite(str(files[2]), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{files[2]}: could not be written")
    return DemoResult(
        num_frames=len(source),
        input_scores=_scores(blurry, sharp),
        scores=_scores(restored, sharp),
        files=files,
    )


def before_after(columns: list[np.ndarray]) -> np.ndarray:
    """Put blurry, restored and sharp side by side, with zoomed crops below each.

    Args:
        columns: Frames uint8 `[H, W, 3]` of one size, in this order.

    Returns:
        One picture, uint8 RGB.
    """
    labels = ("blurry", "restored", "sharp")
    width, height = _CROP_SIZE
    stacks = []
    for label, frame in zip(labels, columns, strict=True):
        rows = [_labelled(frame, label)]
        for left, top in _CROPS:
            crop = frame[top : top + height, left : left + width]
            rows.append(np.repeat(np.repeat(crop, _ZOOM, axis=0), _ZOOM, axis=1))
        stacks.append(np.concatenate(rows, axis=0))
    return np.concatenate(stacks, axis=1)


def _labelled(frame: np.ndarray, label: str) -> np.ndarray:
    frame = np.ascontiguousarray(frame)
    place, font = (8, 22), cv2.FONT_HERSHEY_SIMPLEX
    for color, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(frame, label, place, font, 0.6, color, thickness, cv2.LINE_AA)
    return frame


def _scores(frames: np.ndarray, sharp: list[np.ndarray]) -> dict[str, float]:
    pairs = list(zip(frames, sharp, strict=True))
    return {
        "psnr": float(np.mean([psnr(a, b, data_range=255) for a, b in pairs])),
        "ssim": float(np.mean([ssim(a, b, data_range=255) for a, b in pairs])),
    }
