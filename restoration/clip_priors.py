"""Coding priors of frames at hand, as networks read them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..models.cpgd_priors import SCALE, ClipPriors, pool_priors
from .ensemble import Orientation

if TYPE_CHECKING:
    from ..video.coding_priors import CodingPriors, FramePriors


def priors_of_frames(frames: Iterable[np.ndarray]) -> ClipPriors:
    """Encode frames in memory and return what the codec found.

    Args:
        frames: uint8 `[H, W, 3]`, at least one, all of one size.

    Returns:
        `[1, ., T, H / 4, W / 4]`, float32, on the CPU.

    Raises:
        ValueError: If PyAV, which encodes them, is not installed, or cannot.
    """
    # Not at the top: ComfyUI loads the engines at start-up and needs PyAV later.
    try:
        from ..video.coding_priors import encoded_priors
    except ModuleNotFoundError as error:
        raise ValueError(
            "CPGD-Net finds motion by encoding frames, which needs PyAV: install it (pip "
            "install av), or choose another checkpoint, such as divd-tiny"
        ) from error

    try:
        # Frame by frame: at full size they are three times as large as the frames.
        return _joined([_pooled(known) for known in encoded_priors(frames)])
    except ValueError as error:
        raise ValueError(
            f"{error}. CPGD-Net finds motion by encoding frames: choose another checkpoint, "
            f"such as divd-tiny"
        ) from error


class GivenPriors:
    """Coding priors of a whole clip, made beforehand, for the windows it is cut into.

    Args:
        priors: Of every frame. They may be of the clip's stream, which no encoder makes again.
    """

    def __init__(self, priors: CodingPriors) -> None:
        self.priors = priors
        self._clip = _joined([_pooled(known) for known in _frames_of(priors)])

    def __len__(self) -> int:
        return len(self.priors.motion)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What results depend on, as JSON values."""
        digest = hashlib.sha256()
        for part in self._clip:
            digest.update(repr(list(part.shape)).encode())
            digest.update(part.numpy().tobytes())
        return {"coding_priors": digest.hexdigest()}

    def of_window(
        self, first: int, frames: Sequence[np.ndarray], padded: Sequence[int]
    ) -> ClipPriors:
        """Return those of a window.

        Args:
            first: Index of its first frame in the clip.
            frames: Its frames, uint8 `[H, W, 3]`.
            padded: Height and width that the frames are padded to, multiples of `SCALE`.

        Returns:
            `[1, ., T, padded height / 4, padded width / 4]`, float32, on the CPU.

        Raises:
            ValueError: If the priors are of another clip.
        """
        from ..video.coding_priors import check_frames

        check_frames(self.priors, frames, first)
        rows, columns = (side // SCALE for side in padded)
        return ClipPriors(
            *(
                _window(part[:, :, first : first + len(frames)], rows, columns)
                for part in self._clip
            )
        )


def _window(part: Tensor, rows: int, columns: int) -> Tensor:
    below, right = rows - part.shape[3], columns - part.shape[4]
    window = F.pad(part, (0, right, 0, below, 0, 0), mode="replicate").clone()
    # As when a window is encoded by itself: nothing is known of what came before it.
    window[:, :, 0] = 0
    return window


def _frames_of(priors: CodingPriors) -> Iterator[FramePriors]:
    from ..video.coding_priors import FramePriors

    for each in zip(priors.motion, priors.residual, priors.valid, priors.marks, strict=True):
        yield FramePriors(*each)


def _pooled(known: FramePriors) -> ClipPriors:
    """Return those of a frame, `[1, ., h, w]`."""
    arrays = (known.motion, known.residual, known.valid)
    return pool_priors(*(torch.from_numpy(array)[None] for array in arrays))


def _joined(parts: Sequence[ClipPriors]) -> ClipPriors:
    """Join those of frames to a clip's, `[1, ., T, h, w]`."""
    joined = (torch.cat(part) for part in zip(*parts, strict=True))
    return ClipPriors(*(rearrange(part, "t c h w -> 1 c t h w") for part in joined))


def laid_priors(priors: ClipPriors, orientation: Orientation) -> ClipPriors:
    """Return the priors of clips as they lie in an orientation."""
    return ClipPriors(
        orientation.laid_motion(priors.motion),
        orientation.laid(priors.attention),
        orientation.laid(priors.valid),
    )


def batched(priors: Sequence[ClipPriors]) -> ClipPriors:
    """Join the priors of clips of one size."""
    return ClipPriors(*(torch.cat(part) for part in zip(*priors, strict=True)))


def as_pictures(video: Tensor) -> Iterator[np.ndarray]:
    """Yield the frames of `[3, T, H, W]` in -1..1 as uint8 `[H, W, 3]`."""
    for frame in rearrange(video, "c t h w -> t h w c"):
        yield (frame * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu().numpy()
