"""Pictures of coding priors: motion by the colour wheel of optical flow, residual in grey."""

from __future__ import annotations

import functools

import numpy as np

_ARCS = (
    *((15, (255, 0, 0), (255, 255, 0)), (6, (255, 255, 0), (0, 255, 0))),
    *((4, (0, 255, 0), (0, 255, 255)), (11, (0, 255, 255), (0, 0, 255))),
    *((13, (0, 0, 255), (255, 0, 255)), (6, (255, 0, 255), (255, 0, 0))),
)
"""Colours of each arc of the wheel and between which two they lie: Baker et al., "A Database
and Evaluation Methodology for Optical Flow", IJCV 2011. The eye tells reds apart best."""
_BEYOND = 0.75
"""How bright colours are of motion beyond the scale."""
_OF_SIDE = 40
"""Part of a frame's longer side that motion at full colour covers, unless told otherwise."""


def flow_scale(height: int, width: int) -> float:
    """Return the motion at full colour for frames of this size, all in pixels."""
    return max(1.0, max(height, width) / _OF_SIDE)


def flow_picture(motion: np.ndarray, valid: np.ndarray, scale: float) -> np.ndarray:
    """Draw motion as colours: the hue is its direction, the saturation its length.

    Args:
        motion: `[2, H, W]`, x and y in pixels.
        valid: bool `[1, H, W]`; elsewhere the picture is black.
        scale: Motion at full colour, in pixels; more of it is darker.

    Returns:
        uint8 `[H, W, 3]`, RGB; white where nothing moves.
    """
    x, y = motion.astype(np.float32) / np.float32(scale)
    length = np.hypot(x, y)[..., None]
    wheel = _wheel()
    # The whole way round, not to the last colour alone as in the paper's code: no seam.
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * len(wheel)
    first = place.astype(np.intp)
    between = (place - first)[..., None]
    hue = (1 - between) * wheel[first % len(wheel)]
    hue += between * wheel[(first + 1) % len(wheel)]
    color = np.where(length <= 1, 1 - length * (1 - hue), _BEYOND * hue)
    return (color * valid[0, ..., None] * 255 + 0.5).astype(np.uint8)


def residual_picture(residual: np.ndarray, gain: float = 4.0) -> np.ndarray:
    """Draw a residual in grey: brighter where the frame is brighter than motion explains.

    Args:
        residual: `[1, H, W]`, -1 to 1.
        gain: By how much it is amplified; what goes beyond black and white is clipped.

    Returns:
        uint8 `[H, W, 3]`; 128 is zero.
    """
    grey = np.clip(128 + residual[0] * np.float32(127 * gain) + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


@functools.cache
def _wheel() -> np.ndarray:
    """Return the colours of the wheel, float32 `[55, 3]` in 0..1."""
    arcs = [
        np.linspace(start, stop, count, endpoint=False, dtype=np.float32)
        for count, start, stop in _ARCS
    ]
    return np.concatenate(arcs) / 255
