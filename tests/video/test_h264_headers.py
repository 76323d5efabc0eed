"""How many references a stream's header allows, and which pictures are some."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from video_deblur.video.h264_headers import is_reference, length_size, num_references


def coded(
    params: str, *, file_format: str = "mp4", pix_fmt: str = "yuv420p", **options: str
) -> tuple[bytes, list[tuple[bytes, str]]]:
    """Return the header of a stream, and the data and kind of its pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format=file_format) as container:
        options = {**options, "x264-params": f"threads=1:scenecut=0:{params}"}
        stream: Any = container.add_stream("libx264", rate=Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        rng = np.random.default_rng(0)
        picture = rng.integers(0, 255, (48, 80, 3), np.uint8)
        for index in range(12):
            part = np.ascontiguousarray(picture[:, index : index + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, "rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        stream = container.streams.video[0]
        header = bytes(stream.codec_context.extradata)
        packets = [packet for packet in container.demux(stream) if packet.size]
        kinds = {}
        for packet in packets:
            for frame in packet.decode():
                kinds[frame.pts] = frame.pict_type
        for frame in stream.decode(None):
            kinds[frame.pts] = frame.pict_type
    names = {1: "I", 2: "P", 3: "B"}
    return header, [(bytes(p), names[int(kinds[p.pts])]) for p in packets]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("file_format", ["mp4", "matroska", "mpegts"])
def test_the_number_of_references_is_read_from_any_file(count, file_format):
    header, _ = coded(f"bframes=0:ref={count}", file_format=file_format)
    assert num_references(header) == count


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ("bframes=0:ref=3:cqm=jvt", {}),
        ("bframes=0:ref=3:weightp=0:8x8dct=0:cabac=0", {}),
        ("bframes=0:ref=3", {"pix_fmt": "yuv444p"}),
        ("bframes=0:ref=3:cqm=jvt", {"pix_fmt": "yuv444p"}),
        ("bframes=0:ref=3", {"pix_fmt": "yuv422p10le"}),
    ],
)
def test_the_number_of_references_is_read_from_any_profile(params, options):
    assert num_references(coded(params, **options)[0]) == 3


@pytest.mark.parametrize("file_format", ["mp4", "mpegts"])
def test_b_frames_that_nothing_refers_to_are_told(file_format):
    header, pictures = coded(
        "bframes=2:b-adapt=0:b-pyramid=none:ref=2", file_format=file_format
    )
    size = length_size(header)
    assert size == (4 if file_format == "mp4" else 0)
    assert {kind for _, kind in pictures} == {"I", "P", "B"}
    assert [is_reference(data, size) for data, _ in pictures] == [
        kind != "B" for _, kind in pictures
    ]


def test_a_header_that_is_cut_or_missing_says_nothing():
    header, _ = coded("bframes=0:ref=3")
    assert num_references(None) is None
    assert num_references(b"") is None
    for length in range(1, 12):
        assert num_references(header[:length]) is None
    assert num_references(bytes(40)) is None
    assert is_reference(b"", 4)
    assert is_reference(bytes(20), 0)
