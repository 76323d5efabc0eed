"""What a camera and a codec add after the blur: noise, 8-bit rounding, JPEG and H.264.

Noise and rounding are torch on the device of their input. JPEG and H.264 run on the CPU, on
uint8 RGB frames `[T, H, W, 3]`: use them for a share of the training clips only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def degrade(
    blurry: Tensor,
    generators: Sequence[torch.Generator],
    *,
    noise_probability: float | Sequence[float] = 0.6,
    max_sigma: float = 0.02,
    round_to_8_bits: bool = True,
) -> Tensor:
    """Add sensor noise and round to 8 bits.

    Variance is a constant plus a part that grows with brightness (read and shot noise); each
    clip gets its own levels, log-uniform, so that most are barely noisy.

    Args:
        blurry: `[B, ..., H, W]` in 0..1.
        generators: B CPU generators; a clip depends on its own alone.
        noise_probability: Share of clips with noise, or how likely each of them has it.
        max_sigma: Largest standard deviation of either part, where white is 1.
        round_to_8_bits: Whether the result holds multiples of 1/255.

    Returns:
        The same shape, in 0..1.

    Raises:
        ValueError: If a number is out of range, or clips and generators differ in number.
    """
    if not isinstance(noise_probability, Sequence):
        noise_probability = [noise_probability] * len(blurry)
    if not all(0 <= p <= 1 for p in noise_probability) or max_sigma < 0:
        raise ValueError(
            "expected noise_probability in 0..1 and max_sigma >= 0, got "
            f"{noise_probability} and {max_sigma}"
        )
    if not len(blurry) == len(generators) == len(noise_probability):
        raise ValueError(
            f"expected one generator and probability for each of {len(blurry)} clips, got "
            f"{len(generators)} and {len(noise_probability)}"
        )
    result = blurry.clone()
    for clip, generator, probability in zip(result, generators, noise_probability, strict=True):
        if float(torch.rand((), generator=generator)) < probability and max_sigma > 0:
            _add_noise(clip, max_sigma, generator)
    result.clamp_(0, 1)
    return result.mul_(255).round_().div_(255) if round_to_8_bits else result


def _add_noise(clip: Tensor, max_sigma: float, generator: torch.Generator) -> None:
    # Log-uniform over a factor of 40, from noise that 8-bit rounding swallows.
    draws = torch.rand(2, generator=generator).tolist()
    read, shot = ((max_sigma * 40 ** (draw - 1)) ** 2 for draw in draws)
    # Drawn on the device of the clip: it takes longer than the blur.
    seed = int(torch.randint(2**62, (), generator=generator))
    local = torch.Generator(device=clip.device).manual_seed(seed)
    noise = torch.randn(clip.shape, generator=local, device=clip.device)
    clip.add_(noise.mul_((clip * shot).add_(read).sqrt_()))


def compress_jpeg(frames: np.ndarray, quality: int) -> np.ndarray:
    """Send each frame through JPEG.

    Args:
        frames: uint8 `[T, H, W, 3]`, RGB.
        quality: 1 (worst) to 100.

    Returns:
        uint8, the same shape.

    Raises:
        ValueError: If the frames or the quality are of the wrong kind.
    """
    _check_frames(frames)
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be between 1 and 100, got {quality}")
    results = []
    for frame in frames:
        options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
        data = cv2.imencode(".jpg", frame[..., ::-1], options)[1]
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        results.append(decoded[..., ::-1])
    return np.stack(results)


def compress_h264(clip: np.ndarray, crf: int, *, frame_rate: int = 30) -> np.ndarray:
    """Send a clip through the H.264 encoder, in memory.

    Args:
        clip: uint8 `[T, H, W, 3]`, RGB. Odd sizes are padded for the codec and cropped back.
        crf: 0 (lossless) to 51 (worst); video on the web has 18 to 28.
        frame_rate: Frames per second, which the rate control looks at.

    Returns:
        uint8, the same shape.

    Raises:
        ValueError: If the clip or the factor is of the wrong kind.
    """
    # Here, so that training runs on machines without PyAV when nothing is to be compressed.
    import av

    _check_frames(clip)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must be between 0 and 51, got {crf}")
    height, width = clip.shape[1:3]
    padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    padded = np.pad(clip, padding, mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = cast(av.VideoStream, container.add_stream("libx264", rate=frame_rate))
        stream.height, stream.width = padded.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: short clips gain nothing from more. No macroblock tree: with B-frames its
        # assembly reads memory that nobody wrote (libx264 of PyAV 18, in widths that are no
        # multiple of 128), and the same clip came out differently from time to time.
        quality = {"crf": str(int(crf)), "preset": "veryfast"}
        stream.options = {**quality, "threads": "1", "mbtree": "0"}
        for frame in padded:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack(frames)[:, :height, :width]


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"expected uint8 frames [T, H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )
