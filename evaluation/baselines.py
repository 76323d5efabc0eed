"""Classical deblurring to compare with: sharpening, and deconvolution of straight motion.

Every frame is restored by itself. Deconvolution guesses one straight motion for the whole
frame (`guess_motion`) and leaves a frame alone where it finds none. Arithmetic is on pixel
values as they are, without the camera's response. Defaults were chosen on training photos
with synthetic straight blur of 5 to 20 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import cv2
import numpy as np

from ..video.pixels import to_float

Plane = np.ndarray
_MARGIN = 48
"""Pixels of reflected picture around a frame, more than any guessed motion."""
_MAX_MOTION = 40
_MIN_MOTION = 3
"""Pixels; nearer to the centre the cepstrum shows the picture, not the blur."""
_MIN_DEPTH = 3.5
"""Standard deviations. 95 % of 41 sharp training photos stayed below it, 93 % of their
copies with synthetic straight blur were above, and no wrong motion was."""


@dataclass(frozen=True, kw_only=True)
class UnsharpMask:
    """Add what a Gaussian blur takes away."""

    sigma: float = 2.0
    """Of the Gaussian, pixels."""
    amount: float = 0.5
    """1 adds all of it."""

    def restore(self, frame: np.ndarray) -> np.ndarray:
        """Sharpen a frame, float32 `[H, W, 3]` in 0..1."""
        soft = cv2.GaussianBlur(frame, (0, 0), self.sigma)
        return np.clip(frame + self.amount * (frame - soft), 0, 1)


@dataclass(frozen=True, kw_only=True)
class RichardsonLucy:
    """scikit-image's `richardson_lucy` with a guessed straight motion."""

    num_iterations: int = 20
    """More is sharper and noisier."""

    def restore(self, frame: np.ndarray) -> np.ndarray:
        """Deconvolve a frame, float32 `[H, W, 3]` in 0..1."""
        richardson_lucy = _restoration().richardson_lucy

        def plane_fn(plane: Plane, kernel: np.ndarray) -> Plane:
            return richardson_lucy(
                plane, kernel, num_iter=self.num_iterations, filter_epsilon=1e-3
            )

        return _deconvolve(frame, plane_fn)


@dataclass(frozen=True, kw_only=True)
class Wiener:
    """scikit-image's `wiener`, Laplacian regularisation, with a guessed straight motion."""

    balance: float = 0.1
    """Weight of smoothness against sharpness."""

    def restore(self, frame: np.ndarray) -> np.ndarray:
        """Deconvolve a frame, float32 `[H, W, 3]` in 0..1."""
        wiener = _restoration().wiener
        return _deconvolve(frame, lambda plane, kernel: wiener(plane, kernel, self.balance))


@dataclass(frozen=True, kw_only=True)
class UnsupervisedWiener:
    """scikit-image's `unsupervised_wiener`, which estimates the balance by sampling.

    It trusts the kernel: with a guessed one it amplifies what the kernel gets wrong.
    """

    max_iterations: int = 100
    """Of the sampler."""
    seed: int = 0
    """Of the sampler."""

    def restore(self, frame: np.ndarray) -> np.ndarray:
        """Deconvolve a frame, float32 `[H, W, 3]` in 0..1."""
        unsupervised = _restoration().unsupervised_wiener
        parameters = {"max_num_iter": self.max_iterations}

        def plane_fn(plane: Plane, kernel: np.ndarray) -> Plane:
            return unsupervised(plane, kernel, user_params=parameters, rng=self.seed)[0]

        return _deconvolve(frame, plane_fn)


Baseline = UnsharpMask | RichardsonLucy | Wiener | UnsupervisedWiener

BASELINES: dict[str, type[Baseline]] = {
    "unsharp": UnsharpMask,
    "richardson_lucy": RichardsonLucy,
    "wiener": Wiener,
    "unsupervised_wiener": UnsupervisedWiener,
}


def restore_clip(baseline: Baseline, frames: np.ndarray) -> np.ndarray:
    """Restore each frame of a clip.

    Args:
        baseline: The method.
        frames: uint8 `[T, H, W, 3]`.

    Returns:
        float32 in 0..1, the same shape.

    Raises:
        ValueError: If the method needs scikit-image and it is missing.
    """
    return np.stack([baseline.restore(to_float(frame)) for frame in frames])


def guess_motion(frame: np.ndarray) -> tuple[float, float] | None:
    """Guess one straight motion of a whole frame, 3 to 40 pixels long.

    The spectrum of a smeared picture has zeros at equal distances across the motion. In
    the cepstrum, the transform of the logarithm of the power spectrum, they become a
    negative peak at the motion itself.

    Args:
        frame: `[H, W, 3]` RGB, float.

    Returns:
        The motion (x, y) in whole pixels, up to its sign; None where no peak stands out.
    """
    luma = cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY)
    height, width = luma.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    power = np.abs(np.fft.fft2((luma - luma.mean()) * window)) ** 2
    if not power.any():
        return None
    logarithm = np.log(power + 1e-3 * np.median(power) + np.finfo(float).tiny)
    cepstrum = np.fft.fftshift(np.fft.ifft2(logarithm).real)
    # The peak of a motion between whole pixels is spread over its neighbours.
    cepstrum = cv2.GaussianBlur(cepstrum, (0, 0), 0.7)

    y, x = np.mgrid[:height, :width]
    y, x = y - height // 2, x - width // 2
    length = np.hypot(x, y)
    # Half a plane: the cepstrum is symmetric.
    candidates = (length >= _MIN_MOTION) & (length <= _MAX_MOTION) & ((y > 0) | (x > 0))
    candidates &= y >= 0
    values = cepstrum[candidates]
    lowest = int(np.argmin(values))
    if values.mean() - values[lowest] < _MIN_DEPTH * values.std():
        return None
    return float(x[candidates][lowest]), float(y[candidates][lowest])


def motion_kernel(motion: tuple[float, float]) -> np.ndarray:
    """Return the blur of a straight motion (x, y) in pixels; odd sides, sums to one."""
    reach = math.ceil(max(map(abs, motion)) / 2)
    kernel = np.zeros((2 * reach + 3, 2 * reach + 3))
    count = 8 * reach + 9
    for step in range(count):
        share = (step + 0.5) / count - 0.5
        x, y = (reach + 1 + share * way for way in motion)
        column, row = int(x), int(y)
        for place_y, weight_y in ((row, row + 1 - y), (row + 1, y - row)):
            for place_x, weight_x in ((column, column + 1 - x), (column + 1, x - column)):
                kernel[place_y, place_x] += weight_y * weight_x
    return kernel / kernel.sum()


def _deconvolve(
    frame: np.ndarray, plane_fn: Callable[[Plane, np.ndarray], Plane]
) -> np.ndarray:
    motion = guess_motion(frame)
    if motion is None:
        return frame
    kernel, padded = motion_kernel(motion), _taper(frame)
    planes = [plane_fn(padded[..., channel], kernel) for channel in range(3)]
    restored = np.stack(planes, axis=-1)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return np.clip(restored, 0, 1).astype(np.float32)


def _taper(frame: np.ndarray) -> np.ndarray:
    """Add a margin that lets opposite sides meet smoothly.

    Deconvolution takes a picture to be periodic: a step between its sides rings far into it.
    """
    around = [(_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)]
    padded = np.pad(frame.astype(np.float64), around, mode="symmetric")
    soft = cv2.GaussianBlur(np.pad(padded, around, mode="wrap"), (0, 0), _MARGIN / 6)
    soft = soft[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    y, x = (np.minimum(np.arange(size), np.arange(size)[::-1]) for size in padded.shape[:2])
    weight = np.clip(y / _MARGIN, 0, 1)[:, None] * np.clip(x / _MARGIN, 0, 1)
    return soft + weight[..., None] * (padded - soft)


def _restoration() -> ModuleType:
    try:
        return import_module("skimage.restoration")
    except ImportError as error:
        raise ValueError(
            f"this method needs scikit-image: pip install scikit-image ({error})"
        ) from error
