"""The demonstration: restore the bundled clips, show and measure the result.

No bundled checkpoint saw them in training; `evaluation/demo_clips/README.md` says where they
come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ..restoration.engine import Engine
from ..restoration.settings import RestorationSettings
from ..video.pixels import to_float, to_uint8
from ..video.reader import VideoReader
from ..video.writer import VideoWriter
from .fidelity import psnr, ssim

DEMO_FOLDER = Path(__file__).with_name("demo_clips")

_ZOOM = 4
"""Crops are this much smaller than the frame, and shown at its size."""


@dataclass(frozen=True, kw_only=True)
class DemoClip:
    """A bundled clip and what its picture shows."""

    name: str
    """Of its folder."""
    frame: int
    """Of the picture."""
    crops: tuple[tuple[int, int], ...]
    """Left and top of the zoomed crops, in pixels."""

    def read(self, kind: str) -> VideoReader:
        """Open its "blurry" or "sharp" file."""
        return VideoReader(DEMO_FOLDER / self.name / f"{kind}.mp4")


CLIPS = (
    DemoClip(name="shake", frame=2, crops=((38, 60), (160, 110))),
    DemoClip(name="street", frame=12, crops=((200, 30), (85, 150))),
)
"""A shaking hand: detail is there to be borrowed; and heavy blur in every frame."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demonstration measured and wrote of one clip."""

    num_frames: int
    """Frames restored."""
    before: dict[str, float]
    """PSNR in dB and SSIM of the blurry frames, mean."""
    after: dict[str, float]
    """The same for the restored frames."""
    files: tuple[Path, ...]
    """Restored video, side-by-side video, picture."""


def run_demo(
    clip: DemoClip,
    folder: str | Path,
    deblurrer: Engine,
    settings: RestorationSettings,
    callback: Callable[[int, int], None] | None = None,
) -> DemoResult:
    """Restore a bundled clip into `folder` (made if missing; files are replaced).

    Raises:
        OSError: If the folder cannot be made or written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with clip.read("blurry") as reader:
        info = reader.info
        source = list(reader)
    with clip.read("sharp") as reader:
        sharp = [frame.pixels for frame in reader]
    blurry = np.stack([frame.pixels for frame in source])
    frames = deblurrer.restore(torch.from_numpy(to_float(blurry)), settings, callback)
    restored = to_uint8(frames.numpy())

    names = ("restored.mp4", "side_by_side.mp4", "before_after.png")
    files = tuple(folder / f"{clip.name}_{name}" for name in names)
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
    index = clip.frame
    picture = before_after([blurry[index], restored[index], sharp[index]], clip.crops)
    if not cv2.imwrite(str(files[2]), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{files[2]}: could not be written")
    return DemoResult(
        num_frames=len(source),
        before=_scores(blurry, sharp),
        after=_scores(restored, sharp),
        files=files,
    )


def before_after(columns: Sequence[np.ndarray], crops: Sequence[tuple[int, int]]) -> np.ndarray:
    """Put blurry, restored and sharp side by side, with zoomed crops below each.

    Args:
        columns: Frames uint8 `[H, W, 3]` of one size, in this order.
        crops: Left and top of each crop, in pixels.

    Returns:
        One picture, uint8 RGB.
    """
    labels = ("blurry", "restored", "sharp")
    height, width = (size // _ZOOM for size in columns[0].shape[:2])
    stacks = []
    for label, frame in zip(labels, columns, strict=True):
        rows = [_labelled(frame, label)]
        for left, top in crops:
            crop = frame[top : top + height, left : left + width]
            rows.append(np.repeat(np.repeat(crop, _ZOOM, axis=0), _ZOOM, axis=1))
        stacks.append(np.concatenate(rows, axis=0))
    return np.concatenate(stacks, axis=1)


def _labelled(frame: np.ndarray, label: str) -> np.ndarray:
    frame = frame.copy()
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
