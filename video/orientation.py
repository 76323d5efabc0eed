"""Find out how a decoded picture is to be shown: turned upright, around, to two eyes."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.filter import Graph

from .turning import Matrix


def display_matrix(frame: av.VideoFrame) -> Matrix:
    """Return how a decoded picture is to be turned; the identity where it does not say."""
    try:
        data = side_data(frame)["DISPLAYMATRIX"]
    except KeyError:
        return (1, 0, 0, 1)
    a, b, _, c, d = np.sign(np.frombuffer(bytes(data), dtype="<i4"))[:5].tolist()
    if a and d:
        return (a, 0, 0, d)
    return (0, b, c, 0) if b and c else (1, 0, 0, 1)


def views(frame: av.VideoFrame) -> tuple[str, ...]:
    """Name what of a picture's own view a flat copy of it loses."""
    found = side_data(frame)
    # AVStereo3D begins with its kind, of which 0 is an ordinary picture.
    is_stereo = "STEREO3D" in found and any(bytes(found["STEREO3D"])[:4])
    names = {"360°": "SPHERICAL" in found, "stereoscopic": is_stereo}
    return tuple(name for name, is_there in names.items() if is_there)


def side_data(frame: av.VideoFrame) -> Any:
    """Return side data by kind, without the kinds that PyAV has no name for.

    One such kind, EXIF among them (31), and PyAV gives out none.
    """
    while True:
        try:
            return frame.side_data
        except ValueError as error:
            unknown = re.match(r"(\d+) is not a valid", str(error))
            if unknown is None:
                raise
            frame = _without(frame, unknown[1])


def _without(frame: av.VideoFrame, kind: str) -> av.VideoFrame:
    graph = Graph()
    first = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=Fraction(1, 1000),
    )
    delete = graph.add("sidedata", f"mode=delete:type={kind}")
    last = graph.add("buffersink")
    first.link_to(delete)
    delete.link_to(last)
    graph.configure()
    graph.push(frame)
    copy = graph.pull()
    assert isinstance(copy, av.VideoFrame)
    return copy
