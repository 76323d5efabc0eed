"""What is counted and how it is averaged: the conventions of published code, by name.

The same results differ by tenths of a dB between code bases, so a figure compares with a
paper's only under its protocol. Each is read from the code that the authors published.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..video.pixels import to_float, to_uint8

AVERAGES = ("frames", "sequences", "windows")
SSIM_KINDS = ("window", "across_channels")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which pixels and frames count. Colour is RGB throughout."""

    name: str
    """What `--protocol` takes."""
    source: str
    """Whose convention it is, and what it does not reproduce."""
    rounded: bool = True
    """Results are clipped and rounded to 8 bits first; otherwise they stay float."""
    border: int = 0
    """Pixels cropped from each side."""
    skip_first: int = 0
    """Frames left out at the start of each sequence (or window)."""
    skip_last: int = 0
    """Frames left out at the end of each sequence (or window)."""
    chunk: int = 0
    """Only whole runs of this many frames count, what is left over does not; a sequence
    too short for one counts whole. 0: every frame counts."""
    window: int = 0
    """Frames of a window that is averaged by itself; 0: no windows."""
    overlap: int = 0
    """Frames shared by neighbouring windows."""
    average: str = "frames"
    """Which mean the authors report: over `frames`, `sequences` or `windows`."""
    ssim: str = "window"
    """`window`: 11x11 pixels per channel, inside. `across_channels`: see `fidelity`."""

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(AVERAGES)}: {self.average!r}")
        if self.ssim not in SSIM_KINDS:
            raise ValueError(f"ssim must be one of {', '.join(SSIM_KINDS)}: {self.ssim!r}")
        if self.average == "windows" and not self.window:
            raise ValueError("average over windows needs a window of at least 1 frame")
        if self.window and not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap must be 0 to {self.window - 1}, got {self.overlap}")

    @property
    def data_range(self) -> int:
        """Difference between white and black in prepared frames."""
        return 255 if self.rounded else 1

    def groups(self, num_frames: int) -> list[range]:
        """Return the indices that count: one run per sequence, or one per window.

        Raises:
            ValueError: If no frame is left.
        """
        skipped = self.skip_first + self.skip_last
        if num_frames <= skipped:
            raise ValueError(
                f"protocol {self.name} leaves out {skipped} frames of a sequence, "
                f"which has only {num_frames}"
            )
        if self.window:
            return self._windows(num_frames)
        count = num_frames - skipped
        if self.chunk and count >= self.chunk:
            count -= count % self.chunk
        return [range(self.skip_first, self.skip_first + count)]

    def _windows(self, num_frames: int) -> list[range]:
        last = max(num_frames - self.window, 0)
        starts = [*range(0, last, self.window - self.overlap), last]
        groups, done = [], 0
        for start in starts:
            end = min(start + self.window, num_frames) - self.skip_last
            group = range(max(start + self.skip_first, done), end)
            if group:
                groups.append(group)
                done = group.stop
        return groups

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """Crop and round a clip.

        Args:
            frames: `[T, H, W, 3]`, uint8, or float in 0..1.

        Returns:
            uint8, or float32 in 0..1 where the protocol does not round.

        Raises:
            ValueError: If the border leaves nothing.
        """
        height, width = frames.shape[1:3]
        if min(height, width) <= 2 * self.border:
            raise ValueError(
                f"protocol {self.name} crops {self.border} pixels from each side, which "
                f"leaves nothing of {width}x{height}"
            )
        inner = frames[:, self.border : height - self.border, self.border : width - self.border]
        if inner.dtype == np.uint8:
            return inner if self.rounded else to_float(inner)
        # Frame by frame: rounding works on copies of 8 bytes per value.
        convert = to_uint8 if self.rounded else _clip_float
        return np.stack([convert(frame) for frame in inner])

    def to_dict(self) -> dict[str, Any]:
        """Return all that is applied, for the report."""
        return asdict(self)


def _clip_float(frame: np.ndarray) -> np.ndarray:
    return np.clip(frame, 0, 1).astype(np.float32)


_RGB8 = Protocol(
    name="rgb8",
    source="RGB of 8 bits, all frames, no border, mean over frames: DSTNet, DSTNet+, and "
    "the recommended one where no paper is compared with",
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _RGB8,
        Protocol(
            name="vrt",
            source="VRT, RVRT and KAIR (the Python figures): as rgb8, mean over sequences",
            average="sequences",
        ),
        Protocol(
            name="shift_net",
            source="Shift-Net: results are not rounded, the first and last 2 frames and "
            "what is left of runs of 48 do not count, SSIM filters across channels",
            rounded=False,
            skip_first=2,
            skip_last=2,
            chunk=48,
            ssim="across_channels",
        ),
        Protocol(
            name="cdvd_tsp",
            source="CDVD-TSP without --border: 2 frames at each end and 4 pixels at each "
            "side do not count",
            border=4,
            skip_first=2,
            skip_last=2,
        ),
        Protocol(
            name="pvdnet_unaligned",
            source="PVDNet's border of 16 pixels and its missing first frame, without its "
            "alignment of brightness and position (Köhler et al.), which can only raise "
            "figures; its SSIM is another one",
            border=16,
            skip_first=1,
        ),
        Protocol(
            name="bsstnet",
            source="BSSTNet and CPGD-Net: windows of 48 frames that share 4, without their "
            "first and last 2 frames, each frame counted once; mean over windows however "
            "short; SSIM filters across channels",
            skip_first=2,
            skip_last=2,
            window=48,
            overlap=4,
            average="windows",
            ssim="across_channels",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]
