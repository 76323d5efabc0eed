"""Interlaced pictures: two fields, half a frame apart in time, in alternating lines."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError
from av.filter import Graph

from .info import FieldOrder, VideoInfo
from .places import Picture
from .turning import Matrix, swaps_axes

DEINTERLACE = ("off", "frame", "field")
"""What is done with interlaced video: nothing, or a frame is made of each frame or field."""

# Which field is shown first, by FFmpeg's AVFieldOrder.
_ORDERS: dict[int, FieldOrder] = {2: "top", 3: "bottom", 4: "bottom", 5: "top"}


def field_order(first: av.VideoFrame, context: Any) -> FieldOrder | None:
    """Return which field of a stream comes first; None for progressive video.

    Args:
        first: A decoded picture, which has the last word.
        context: The decoder; PyAV tells of its field order from 15 on.
    """
    if first.interlaced_frame:
        return "top" if _is_top_first(first) else "bottom"
    return _ORDERS.get(int(getattr(context, "field_order", 0)))


def upright_order(order: FieldOrder | None, matrix: Matrix, height: int) -> FieldOrder | None:
    """Return the order of the fields of pictures that are turned.

    Args:
        order: As coded.
        matrix: How pictures are turned.
        height: Pixels; of an even number of lines, mirrored, the last one is the first.
    """
    if order is None or swaps_axes(matrix):
        return None
    if matrix[3] < 0 and height % 2 == 0:
        return "bottom" if order == "top" else "top"
    return order


def check_deinterlace(choice: str) -> str:
    """Return the choice.

    Raises:
        ValueError: If there is none of that name.
    """
    if choice not in DEINTERLACE:
        raise ValueError(f"deinterlace is {', '.join(DEINTERLACE)}, got {choice!r}")
    return choice


def deinterlaced_info(info: VideoInfo, choice: str) -> VideoInfo:
    """Return what is known of the progressive video that is made of an interlaced one."""
    if choice == "field":
        count = info.num_frames
        info = replace(
            info,
            average_rate=2 * info.average_rate,
            time_base=info.time_base / 2,
            num_frames=None if count is None else 2 * count,
        )
    return replace(info, fields=None)


def deinterlaced(
    pictures: Generator[Picture], info: VideoInfo, order: FieldOrder, choice: str
) -> Generator[Picture]:
    """Yield progressive pictures, in the time base of `deinterlaced_info`.

    Args:
        pictures: As decoded; closed at the end.
        info: Of the source.
        order: Of the fields, for pictures that do not say.
        choice: "frame" or "field".
    """
    step = max(1, round(1 / (info.average_rate * info.time_base)))
    kind, run = None, None
    try:
        for picture in pictures:
            frame = picture.frame
            found = (frame.width, frame.height, frame.format.name)
            if run is None or found != kind:
                if run is not None:
                    yield from run.flush()
                kind, run = found, _Run(frame, order, choice, step)
            yield from run.add(picture)
        if run is not None:
            yield from run.flush()
    finally:
        pictures.close()


class _Run:
    """Pictures of one size and format on their way through the filter."""

    def __init__(self, first: av.VideoFrame, order: FieldOrder, choice: str, step: int) -> None:
        self._step = step
        self._doubles = choice == "field"
        # Where pictures say whether they are interlaced, each is asked: films on DVD change.
        self._asks = first.interlaced_frame
        parity = "auto" if self._asks else {"top": "tff", "bottom": "bff"}[order]
        mode = "send_field" if self._doubles else "send_frame"
        which = "interlaced" if self._asks else "all"
        self._graph = _chain(first, ("bwdif", f"mode={mode}:parity={parity}:deint={which}"))
        self._pending: dict[int, Picture] = {}
        self._count = 0

    def add(self, picture: Picture) -> Iterator[Picture]:
        self._pending[self._count] = picture
        frames = _filtered(self._graph, picture.frame, self._count)
        self._count += 1
        return map(self._timed, frames)

    def flush(self) -> Iterator[Picture]:
        return map(self._timed, _filtered(self._graph, None, 0))

    def _timed(self, frame: av.VideoFrame) -> Picture:
        """Give a frame of the filter the time of the picture that it comes from."""
        assert frame.pts is not None
        # The filter doubles time stamps, and adds one for second fields.
        index, is_second = divmod(frame.pts, 2)
        for done in [each for each in self._pending if each < index]:
            del self._pending[done]
        source = self._pending[index]
        # Where each field has a packet of its own, its duration is half a frame.
        duration = source.duration if source.duration > self._step // 2 else self._step
        pts = source.pts
        if self._doubles:
            if pts is not None:
                pts = 2 * pts + (duration if is_second else 0)
            if self._asks and not source.frame.interlaced_frame:
                duration *= 2
        return Picture(frame, pts, duration, source.is_repeat)


def _filtered(graph: Graph, frame: av.VideoFrame | None, index: int) -> Iterator[av.VideoFrame]:
    """Push a frame with an index for its time stamp, or the end; yield what comes out."""
    if frame is not None:
        frame.pts, frame.time_base = index, Fraction(1)
    graph.push(frame)
    while True:
        try:
            filtered = graph.pull()
        except (BlockingIOError, FFmpegError):
            return
        assert isinstance(filtered, av.VideoFrame)
        yield filtered


def _is_top_first(frame: av.VideoFrame) -> bool:
    """Tell which field of an interlaced picture comes first: PyAV does not show the flag."""
    graph = _chain(frame, ("select", "eq(interlace_type\\,TOPFIRST)"))
    pts, time_base = frame.pts, frame.time_base
    try:
        return any(True for _ in _filtered(graph, frame, 0))
    finally:
        frame.pts = pts
        if time_base is not None:
            frame.time_base = time_base


def _chain(first: av.VideoFrame, *filters: tuple[str, str]) -> Graph:
    graph = Graph()
    nodes: list[Any] = [
        graph.add_buffer(
            width=first.width,
            height=first.height,
            format=av.VideoFormat(first.format.name),
            time_base=Fraction(1),
        )
    ]
    nodes += [graph.add(*each) for each in filters]
    nodes.append(graph.add("buffersink"))
    for before, after in itertools.pairwise(nodes):
        before.link_to(after)
    graph.configure()
    return graph
