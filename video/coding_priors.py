"""What a video codec knows of a clip: motion, and what motion does not explain.

Motion of frame t points from each of its pixels to where that was in frame t-1: frame t-1,
sampled at `x + motion`, looks like frame t. The residual is the luma of frame t less that.
H.264 and MPEG-4 part 2 bring their motion along; for everything else x264 encodes the frames
once more, in memory. Both come frame after frame, so that clips of any length fit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .frames import VideoFrame
from .motion_vectors import BlockMotion, Sampler, to_pixels
from .pixels import to_float
from .reader import VideoReader
from .scene_cuts import mark_cuts
from .turning import Matrix, turned_back, upright
from .vector_choice import MotionChoice
from .vector_encoder import VectorEncoder

_Frame = TypeVar("_Frame")

_MARK = 8
"""Pixels of the side of the thumbnails that clips are told apart by."""
_ENOUGH = 96
"""Pixels of the shorter side of frames in which cuts are looked for: twice their thumbnail."""
_SAME = 10.0
"""Levels of 255 by which thumbnails of one frame may differ on average: readers that decode its
colours by another matrix are up to 7 apart, other clips tens."""


@dataclass(frozen=True, eq=False)
class FramePriors:
    """What a codec knows of one frame."""

    motion: np.ndarray
    """float32 `[2, H, W]`, x and y in pixels of the frame; 0 where it is not valid."""
    residual: np.ndarray
    """float32 `[1, H, W]`, -1 to 1; 0 where it is not valid."""
    valid: np.ndarray
    """bool `[1, H, W]`: where there is a vector. Nowhere in the first frame of a shot."""
    mark: np.ndarray
    """uint8 `[8, 8]`, a thumbnail of the luma."""


@dataclass(frozen=True, eq=False)
class CodingPriors:
    """What a codec knows of all frames of a clip."""

    motion: np.ndarray
    """float32 `[T, 2, H, W]`, as of `FramePriors`."""
    residual: np.ndarray
    """float32 `[T, 1, H, W]`."""
    valid: np.ndarray
    """bool `[T, 1, H, W]`."""
    marks: np.ndarray
    """uint8 `[T, 8, 8]`, a thumbnail of each frame's luma."""


def gather_priors(frames: Iterable[FramePriors]) -> CodingPriors:
    """Put those of single frames together.

    Args:
        frames: At least one, all of one size.

    Raises:
        ValueError: If there is none.
    """
    every = list(frames)
    if not every:
        raise ValueError("coding priors: there is no frame")
    return CodingPriors(
        np.stack([each.motion for each in every]),
        np.stack([each.residual for each in every]),
        np.stack([each.valid for each in every]),
        np.stack([each.mark for each in every]),
    )


def check_number(priors: CodingPriors, num_frames: int) -> None:
    """Refuse coding priors of a clip of another number of frames.

    Raises:
        ValueError: If they are.
    """
    if len(priors.motion) != num_frames:
        raise ValueError(
            f"{_made_of(priors)}, the clip has {num_frames} frames. {_MAKE_THEM_AGAIN}"
        )


def check_frames(priors: CodingPriors, frames: Iterable[np.ndarray], first: int = 0) -> None:
    """Refuse coding priors of other frames than some in a row.

    Args:
        priors: To be used with the frames.
        frames: `[H, W, 3 or more]`, uint8, uint16 or float32; read only as far as needed.
        first: Index of the first one in the clip.

    Raises:
        ValueError: If size or pictures differ, or there are too few.
    """
    size, apart = priors.motion.shape[2:], []
    for index, frame in enumerate(frames, first):
        if index >= len(priors.marks):
            raise ValueError(f"{_made_of(priors)}, the clip has more. {_MAKE_THEM_AGAIN}")
        if frame.shape[:2] != size:
            other = f"{frame.shape[1]}x{frame.shape[0]}"
            raise ValueError(
                f"{_made_of(priors)}, the clip of {other} pixels. {_MAKE_THEM_AGAIN}"
            )
        mark = priors.marks[index].astype(np.float32)
        apart.append(np.abs(_mark(_luma(frame)) - mark).mean())
    if apart and max(apart) > _SAME:
        index = first + int(np.argmax(apart))
        raise ValueError(
            f"coding priors: are of another clip, frame {index} differs. {_MAKE_THEM_AGAIN}"
        )


def _made_of(priors: CodingPriors) -> str:
    num_frames, _, height, width = priors.motion.shape
    return f"coding priors: are of {num_frames} frames of {width}x{height} pixels"


_MAKE_THEM_AGAIN = "Make them of the frames that they are used with."


def encoded_priors(frames: Iterable[np.ndarray]) -> Iterator[FramePriors]:
    """Yield the priors of frames that have no stream, by encoding them in memory.

    Args:
        frames: `[H, W, 3 or more]`, uint8, uint16, or float32 in 0..1; all of one size.

    Yields:
        Those of each frame, one frame late: whether a shot starts with it shows in the next.

    Raises:
        ValueError: If x264 takes no frames of this size.
    """
    encoder, maker = None, None
    for pixels, cut in _with_cuts(frames, lambda pixels: pixels):
        luma = _luma(pixels)
        if encoder is None or maker is None:
            encoder, maker = VectorEncoder(*luma.shape), _Maker(*luma.shape)
        motion = encoder.add(_levels(luma))
        yield maker.next(luma, None if cut else motion)


def file_priors(
    reader: VideoReader | Iterable[VideoFrame], from_stream: bool = True
) -> Iterator[tuple[VideoFrame, FramePriors]]:
    """Yield the frames of a clip, each with its priors.

    Args:
        reader: Of a video, opened with `vectors=True`: its window and orientation are
            respected; or any frames.
        from_stream: Whether to use the stream's own vectors where it has them; else, and for
            streams without, frames are encoded in memory.

    Raises:
        VideoError: If the file is damaged or ends early, after the last good frame.
    """
    if from_stream and isinstance(reader, VideoReader) and reader.has_vectors:
        yield from _stream_priors(reader)
        return
    held: deque[VideoFrame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in reader:
            held.append(frame)
            yield frame.pixels

    for priors in encoded_priors(pixels()):
        yield held.popleft(), priors


def _stream_priors(reader: VideoReader) -> Iterator[tuple[VideoFrame, FramePriors]]:
    """Yield frames and priors by the stream's own vectors, which are not turned upright."""
    back = turned_back(reader.matrix)
    maker, choice, before, was_lost = None, None, None, False
    for frame, cut in _with_cuts(reader, lambda frame: frame.pixels):
        luma = upright(_luma(frame.pixels)[..., None], back)[..., 0]
        if maker is None or choice is None:
            maker, choice = _Maker(*luma.shape), MotionChoice(*luma.shape)
        small, motion = choice.shrunk(_levels(luma)), None
        if before is not None and not cut:
            if frame.is_repeat:
                motion = choice.still()
            elif frame.coded is not None and not was_lost:
                motion = choice.motion(frame.coded, before[0], before[1], small)
        pts = frame.pts if frame.coded is None else frame.coded.pts
        # Vectors to a lost frame do not lead to what is shown in its place.
        before, was_lost = (pts, small), frame.is_repeat
        priors = maker.next(luma, motion)
        yield frame, _turned(priors, reader.matrix)


def _with_cuts(
    frames: Iterable[_Frame], pixels_of: Callable[[_Frame], np.ndarray]
) -> Iterator[tuple[_Frame, bool]]:
    """Yield frames with whether a shot starts with them."""
    held: deque[_Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in frames:
            held.append(frame)
            yield _shrunk(pixels_of(frame))

    for _, cut in mark_cuts(pixels()):
        yield held.popleft(), cut


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """Return a frame small enough that looking for cuts costs little."""
    import cv2

    factor = min(pixels.shape[:2]) // _ENOUGH
    if factor < 2:
        return pixels
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    # OpenCV is several times as fast where each pixel covers as many whole ones.
    color = np.ascontiguousarray(pixels[: size[1] * factor, : size[0] * factor, :3])
    return cv2.resize(color, size, interpolation=cv2.INTER_AREA)


class _Maker:
    """Makes priors of the motion of blocks, one frame after the other."""

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        self._sample = Sampler(height, width)
        self._before: np.ndarray | None = None

    def next(self, luma: np.ndarray, blocks: BlockMotion | None) -> FramePriors:
        """Return those of the next frame; `blocks` is None where it has no motion."""
        before, self._before = self._before, luma
        height, width = self._size
        if before is None or blocks is None:
            motion = np.zeros((2, height, width), np.float32)
            valid = np.zeros((1, height, width), bool)
            return FramePriors(motion, np.zeros_like(motion[:1]), valid, _mark(luma))
        motion = to_pixels(blocks.motion, blocks.cell, height, width)
        valid = to_pixels(blocks.known[None], blocks.cell, height, width)
        residual = self._sample(before, motion)[None]
        np.subtract(luma, residual, out=residual)
        residual *= valid
        return FramePriors(motion, residual, valid, _mark(luma))


def _luma(pixels: np.ndarray) -> np.ndarray:
    """Return float32 `[H, W]` in 0..1, by the weights of BT.601."""
    import cv2

    gray = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    return gray if gray.dtype == np.float32 else to_float(gray)


def _levels(luma: np.ndarray) -> np.ndarray:
    return np.clip(luma * 255 + 0.5, 0, 255).astype(np.uint8)


def _mark(luma: np.ndarray) -> np.ndarray:
    import cv2

    return _levels(cv2.resize(luma, (_MARK, _MARK), interpolation=cv2.INTER_AREA))


def _turned(priors: FramePriors, matrix: Matrix) -> FramePriors:
    """Turn what was made of a coded picture as the picture is turned."""
    if matrix == (1, 0, 0, 1):
        return priors
    a, b, c, d = matrix
    x, y = priors.motion
    motion = np.stack([a * x + c * y, b * x + d * y])
    return FramePriors(
        _upright_planes(motion, matrix),
        _upright_planes(priors.residual, matrix),
        _upright_planes(priors.valid, matrix),
        _upright_planes(priors.mark[None], matrix)[0],
    )


def _upright_planes(planes: np.ndarray, matrix: Matrix) -> np.ndarray:
    return np.stack([upright(plane[..., None], matrix)[..., 0] for plane in planes])
