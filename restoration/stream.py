"""Restore clips of any length in bounded memory: segments on one grid of windows.

A clip is cut into segments of whole windows that share windows with their neighbours; a
segment keeps the frames whose windows it holds all of. Noise belongs to frames, and the
grid of windows is that of the whole clip, so with one step the result equals restoring
the clip at once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..video.codecs import codec_named
from ..video.frames import FrameFolder, FrameFolderWriter, VideoFrame, read_image
from ..video.pixels import to_float, to_uint8, to_uint16
from ..video.reader import VideoReader
from ..video.source import Source
from ..video.writer import VideoWriter
from .noise import FrameNoise
from .pipeline import Deblurrer
from .settings import RestorationSettings

logger = logging.getLogger(__name__)

FrameCallback = Callable[[float, int | None], None]
"""Called with (frames done, as a fraction where a segment is under way; frames in all or
None); may raise to cancel."""

_SEGMENT_PIXELS = 48 * 1280 * 720
"""Pixels of a segment: float32 frames, latents and noise take about 60 bytes for each."""


def restore_stream(
    frames: Iterable[np.ndarray],
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    callback: FrameCallback | None = None,
    num_frames: int | None = None,
    before_segment: Callable[[], None] | None = None,
) -> Iterator[np.ndarray]:
    """Restore frames as they come.

    Args:
        frames: `[H, W, C]` uint8 or uint16, C = 3 or 4, all of one size.
        deblurrer: The engine.
        settings: What the user chose.
        callback: Progress; may raise to cancel.
        num_frames: Number of frames where it is known, for the callback.
        before_segment: Called before each segment, where ComfyUI loads the models.

    Yields:
        Restored frames, like the inputs, in order.
    """
    hop = settings.window - settings.overlap
    noise_source = FrameNoise(settings.seed)
    source = iter(frames)
    noise: Tensor | None = None
    done = kept = 0
    buffer = _take(source, 1)
    while buffer:
        length = segment_length(settings, *buffer[0].shape[:2])
        # The clip's last window ends at its end, off the grid. Reading a hop ahead keeps it
        # away from the frames that this segment hands out.
        buffer += _take(source, length + hop + 1 - len(buffer))
        ended = len(buffer) <= length + hop
        segment = buffer if ended else buffer[:length]
        noise = _extend(noise, noise_source, deblurrer, segment)
        if before_segment is not None:
            before_segment()
        restored = _restore_segment(
            segment,
            deblurrer,
            settings,
            noise,
            _progress(callback, done, len(segment) - kept, num_frames),
        )
        # Frames before `stop` have all their windows in this segment: a hop after the start
        # of its last one, the next window of the grid begins.
        last_start = length - settings.window
        stop = len(segment) if ended else last_start + hop
        for frame in restored[kept:stop]:
            yield frame
            done += 1
        if ended:
            break
        start = max(0, last_start - _context(settings, hop))
        kept = stop - start
        buffer = buffer[start:]
        noise = noise[:, :, start:]
    if callback is not None:
        callback(done, done)


def segment_length(settings: RestorationSettings, height: int, width: int) -> int:
    """Return the frames of a segment: windows on the grid, within the memory budget."""
    hop = settings.window - settings.overlap
    affordable = _SEGMENT_PIXELS // (height * width)
    fewest = settings.window + 2 * hop + _context(settings, hop)
    count = max(affordable, fewest) - settings.window
    return settings.window + count // hop * hop


def restore_file(
    source: Source,
    output: str | Path,
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    *,
    codec: str = "h264",
    crf: int | None = None,
    callback: FrameCallback | None = None,
    before_segment: Callable[[], None] | None = None,
) -> int:
    """Restore a video file: time stamps and audio packets stay as they are.

    Args:
        source: Path or binary file object.
        output: Target, replaced when complete.
        deblurrer: The engine.
        settings: What the user chose.
        codec: One of `video.codecs.CODECS`.
        crf: Quality of h264 and h265; None: nearly lossless.
        callback: Progress; may raise to cancel, which leaves nothing under `output`.
        before_segment: Called before each segment.

    Returns:
        The number of frames.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used.
        VideoError: If the file ends early; `output` is then not written.
    """
    with VideoReader(source) as reader:
        alpha = reader.info.has_alpha and codec_named(codec).alpha
        if reader.info.has_alpha and not alpha:
            logger.warning(
                "%s: transparency is dropped, %s cannot store it (ffv1 and prores can)",
                reader.name,
                codec,
            )
        info = dataclasses.replace(reader.info, has_alpha=alpha)
        writer = VideoWriter.like(output, info, codec=codec, crf=crf, audio_from=source)
        times: list[VideoFrame] = []

        def pixels() -> Iterator[np.ndarray]:
            for frame in reader:
                times.append(VideoFrame(frame.pixels[:0, :0], frame.pts, frame.duration))
                yield frame.pixels if alpha else frame.pixels[..., :3]

        count = 0
        with writer:
            restored = restore_stream(
                pixels(), deblurrer, settings, callback, info.num_frames, before_segment
            )
            for frame in restored:
                writer.write(frame, times[0].pts, times[0].duration)
                del times[0]
                count += 1
    return count


def restore_folder(
    source: str | Path,
    output: str | Path,
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    callback: FrameCallback | None = None,
) -> int:
    """Restore a folder of images into a folder of PNG files of the same names.

    Returns:
        The number of frames.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used.
    """
    folder = FrameFolder(source)
    with FrameFolderWriter(output) as writer:
        pixels = (frame.pixels for frame in folder)
        restored = restore_stream(pixels, deblurrer, settings, callback, len(folder))
        for name, frame in zip(folder.names, restored, strict=True):
            writer.write(frame, name)
    return len(folder)


def restore_image(
    source: str | Path,
    output: str | Path,
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    callback: FrameCallback | None = None,
) -> int:
    """Restore one image into a PNG file.

    Returns:
        1, the number of frames.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used.
    """
    output = Path(output)
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output}: an image is written as PNG, name the output .png")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"{output}: its folder does not exist, create it")
    pixels = read_image(Path(source))
    # A folder of one frame: written whole beside the target, then moved onto it.
    with tempfile.TemporaryDirectory(prefix=f".{output.stem}.", dir=output.parent) as folder:
        with FrameFolderWriter(Path(folder) / "frames") as writer:
            for frame in restore_stream([pixels], deblurrer, settings, callback, 1):
                writer.write(frame, output.name)
        os.replace(Path(folder) / "frames" / f"{output.stem}.png", output)
    return 1


def _restore_segment(
    segment: list[np.ndarray],
    deblurrer: Deblurrer,
    settings: RestorationSettings,
    noise: Tensor,
    callback: Callable[[int, int], None] | None,
) -> list[np.ndarray]:
    deep = segment[0].dtype == np.uint16
    frames = torch.from_numpy(np.stack([to_float(frame) for frame in segment]))
    restored = deblurrer.restore(frames, settings, callback, noise).numpy()
    quantise = to_uint16 if deep else to_uint8
    return [quantise(frame) for frame in restored]


def _extend(
    noise: Tensor | None,
    source: FrameNoise,
    deblurrer: Deblurrer,
    segment: list[np.ndarray],
) -> Tensor:
    """Draw the noise of the frames that have none yet."""
    height, width = (-(-extent // deblurrer.model.downscale) for extent in segment[0].shape[:2])
    have = 0 if noise is None else noise.shape[2]
    channels = deblurrer.model.config.autoencoder.latent_channels
    fresh = source.draw(len(segment) - have, channels, height, width)
    return fresh if noise is None else torch.cat([noise, fresh], dim=2)


def _context(settings: RestorationSettings, hop: int) -> int:
    """Return how far before its predecessor's last window a segment starts, in frames.

    With one step a frame depends on its own windows alone. More steps carry information
    from window to window; a window more on the side keeps the difference invisible.
    """
    return 0 if settings.steps == 1 else 2 * hop


def _progress(
    callback: FrameCallback | None, done: int, fresh: int, num_frames: int | None
) -> Callable[[int, int], None] | None:
    if callback is None:
        return None
    return lambda part, parts: callback(done + fresh * part / parts, num_frames)


def _take(source: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    taken = []
    while len(taken) < count:
        frame = next(source, None)
        if frame is None:
            break
        taken.append(frame)
    return taken
