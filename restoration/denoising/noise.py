"""Start noise that belongs to frames, not to windows or tiles.

The noise of frame i is the i-th draw from one CPU generator at the untiled, padded size, so
that windows, tiles and segments of a clip all see the same noise at the same place. It
equals ComfyUI's noise for the same seed when `C * h * w` is a multiple of 16 (torch draws
in blocks of that size).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class FrameNoise:
    """Draw noise frame by frame.

    Args:
        seed: Any integer from 0 to 2**64 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator(device="cpu").manual_seed(seed)

    def draw(self, num_frames: int, channels: int, height: int, width: int) -> Tensor:
        """Return noise of the next frames, float32 `[1, C, T, h, w]`."""
        if num_frames == 0:
            return torch.empty(1, channels, 0, height, width)
        frames = [
            torch.randn(1, channels, height, width, generator=self._generator)
            for _ in range(num_frames)
        ]
        return torch.stack(frames, dim=2)

    def skip(self, num_frames: int, channels: int, height: int, width: int) -> None:
        """Pass over frames: their noise is drawn, in memory for one."""
        frame = torch.empty(1, channels, height, width)
        for _ in range(num_frames):
            frame.normal_(generator=self._generator)

    @property
    def state(self) -> bytes:
        """Where the generator stands, for `restore`."""
        return self._generator.get_state().numpy().tobytes()

    def restore(self, state: bytes) -> None:
        """Go back or ahead to where `state` was taken.

        Raises:
            ValueError: If it is no state of a generator.
        """
        try:
            self._generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
        except RuntimeError as error:
            raise ValueError("not the state of a noise generator") from error


class IndexedNoise(FrameNoise):
    """Noise of each frame from a generator of its own: needs no state to begin anywhere.

    Args:
        seed: As of `FrameNoise`, whose noise is another one.
        frame: Index in the clip of the first that is drawn for.
    """

    def __init__(self, seed: int, frame: int) -> None:
        super().__init__(seed)
        self._seed = seed
        self._frame = frame

    def draw(self, num_frames: int, channels: int, height: int, width: int) -> Tensor:
        """See `FrameNoise`."""
        frames = []
        for _ in range(num_frames):
            digest = hashlib.sha256(f"{self._seed} {self._frame}".encode()).digest()
            self._generator.manual_seed(int.from_bytes(digest[:8], "little"))
            frames.append(super().draw(1, channels, height, width))
            self._frame += 1
        return torch.cat(frames, dim=2) if frames else super().draw(0, channels, height, width)

    def skip(self, num_frames: int, channels: int, height: int, width: int) -> None:
        """See `FrameNoise`."""
        self._frame += num_frames

    @property
    def state(self) -> bytes:
        """The frame that is drawn for next."""
        return str(self._frame).encode()

    def restore(self, state: bytes) -> None:
        """See `FrameNoise`."""
        self._frame = int(state)
