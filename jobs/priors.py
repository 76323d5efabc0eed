"""Write the coding priors of a clip into a folder: pictures to look at, arrays to work with."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..images.folders import FrameFolder, FrameFolderWriter
from ..images.reading import read_image
from ..video.coding_priors import FramePriors, file_priors
from ..video.frames import VideoFrame
from ..video.output_lock import output_lock
from ..video.output_place import check_place, made_folder
from ..video.prior_pictures import flow_picture, flow_scale, residual_picture
from ..video.reader import VideoReader
from .clip_ends import open_clip
from .kinds import input_kind


@dataclass(frozen=True, kw_only=True)
class PriorsReport:
    """What was written."""

    source: str
    """"stream" or "encoded"."""
    scale: float
    """Motion at full colour, pixels."""
    frames: list[dict[str, float]]
    """Of each frame: the share of pixels with a vector, the mean length of vectors in pixels,
    and the mean size of the residual, 0 to 1."""


def write_priors(
    source: Path,
    output: Path,
    *,
    motion_from: str = "auto",
    scale: float | None = None,
    callback: Callable[[float, float | None], None] = lambda done, total: None,
) -> PriorsReport:
    """Write flow and residual pictures and an npz of each frame.

    Args:
        source: Video, folder of images, animation or photo.
        output: A new or empty folder; it appears when all is written.
        motion_from: "stream" or "encoded"; "auto": the stream where it brings motion along.
        scale: Motion at full colour, in pixels; None: see `flow_scale`.
        callback: Called with (frames done, all frames or None).

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used.
    """
    if scale is not None and not scale > 0:
        raise ValueError(f"scale must be above 0 pixels, got {scale:g}")
    check_place(output)
    with contextlib.ExitStack() as stack:
        clip = _Clip(source, stack)
        from_stream = clip.uses_stream(motion_from)
        stack.enter_context(made_folder(output.absolute().parent))
        writer = FrameFolderWriter(output)
        stack.enter_context(output_lock(output))
        writer.remove_leftovers(source)
        stack.enter_context(writer)
        frames, shown = [], scale or 0.0
        for index, (_, priors) in enumerate(file_priors(clip.frames, from_stream)):
            shown = shown or flow_scale(*priors.motion.shape[1:])
            _write_frame(writer, clip.name(index), priors, shown)
            frames.append(_figures(priors))
            callback(index + 1, clip.num_frames)
    return PriorsReport(
        source="stream" if from_stream else "encoded", scale=shown, frames=frames
    )


class _Clip:
    """The frames of any input, and what their files are called."""

    frames: VideoReader | Iterable[VideoFrame]
    num_frames: int | None

    def __init__(self, source: Path, stack: contextlib.ExitStack) -> None:
        self._source = source
        self._names: list[str] | None = None
        kind, _ = input_kind(source)
        if kind == "image":
            self.frames, self.num_frames = [VideoFrame(read_image(source), 0, 1)], 1
            self._names = [source.name]
            return
        if kind == "folder":
            self._names = FrameFolder(source).names
        reader = stack.enter_context(
            VideoReader(source, vectors=True) if kind == "video" else open_clip(source)
        )
        self.frames, self.num_frames = reader, reader.info.num_frames

    def uses_stream(self, motion_from: str) -> bool:
        """Tell whether motion comes from the stream.

        Raises:
            ValueError: If it has to, and cannot.
        """
        has_vectors = isinstance(self.frames, VideoReader) and self.frames.has_vectors
        if motion_from == "stream" and not has_vectors:
            raise ValueError(
                f"{self._source}: brings no motion along that can be used; progressive H.264 "
                "and MPEG-4 part 2 without B-frames do. Leave --source out"
            )
        return has_vectors and motion_from != "encoded"

    def name(self, index: int) -> str:
        """Return the name of the files of a frame, without what follows the last dot."""
        return Path(self._names[index]).stem if self._names else f"frame_{index + 1:06d}"


def _write_frame(
    writer: FrameFolderWriter, name: str, priors: FramePriors, scale: float
) -> None:
    flow = flow_picture(priors.motion, priors.valid, scale)
    writer.write(flow, f"{name}_flow.png")
    writer.write(residual_picture(priors.residual), f"{name}_residual.png")
    arrays = io.BytesIO()
    np.savez_compressed(
        arrays, motion=priors.motion, residual=priors.residual, valid=priors.valid
    )
    writer.write_file(arrays.getvalue(), f"{name}.npz")


def _figures(priors: FramePriors) -> dict[str, float]:
    valid = priors.valid[0]
    lengths = np.hypot(*priors.motion)[valid]
    return {
        "valid": float(valid.mean()),
        "mean_motion": float(lengths.mean()) if lengths.size else 0.0,
        "mean_residual": float(np.abs(priors.residual).mean()),
    }
