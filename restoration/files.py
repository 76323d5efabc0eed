"""Restore files: a video, a folder of images, an image."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..video.codecs import codec_named
from ..video.frames import FrameFolder, FrameFolderWriter, VideoFrame, read_image
from ..video.reader import VideoReader
from ..video.source import Source
from ..video.writer import VideoWriter
from .pipeline import Deblurrer
from .settings import RestorationSettings
from .stream import FrameCallback, restore_stream

logger = logging.getLogger(__name__)


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
