"""Transparency beside the pictures, as in WebM."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.video.codec_limits import not_kept
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter


def pixels(index: int) -> np.ndarray:
    rgba = np.full((48, 64, 4), 120, np.uint8)
    rgba[..., 3] = 3 * np.arange(64) + 5 * index
    return rgba


def write(path, encoder):
    options = {"auto-alt-ref": "0", "crf": "4", "b": "2M"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for index in range(6):
            frame = av.VideoFrame.from_ndarray(pixels(index), "rgba")
            frame = frame.reformat(format="yuva420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path):
    with VideoReader(path) as reader:
        return reader.info, list(reader)


@pytest.mark.parametrize("encoder", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("suffix", ["webm", "mkv"])
def test_transparency_of_webm_is_read_and_kept(tmp_path, encoder, suffix):
    path = write(tmp_path / f"in.{suffix}", encoder)
    info, frames = read(path)
    assert info.has_alpha
    assert (info.codec, len(frames)) == ({"libvpx": "vp8"}.get(encoder, "vp9"), 6)
    for index, frame in enumerate(frames):
        assert frame.pts * info.time_base == Fraction(index, 25)
        difference = np.abs(frame.pixels.astype(int) - pixels(index))
        assert difference.mean((0, 1)).max() < 3
    for codec, name in (("ffv1", "out.mkv"), ("prores", "out.mov")):
        reader = VideoReader(path)
        with reader, VideoWriter.like(tmp_path / name, reader.info, codec=codec) as writer:
            for frame in reader:
                writer.write(frame.pixels, frame.pts, frame.duration)
        after, kept = read(tmp_path / name)
        assert after.has_alpha
        alpha = kept[3].pixels[..., 3] / (257 if kept[3].pixels.dtype == np.uint16 else 1)
        assert np.abs(alpha - frames[3].pixels[..., 3]).max() <= 1
    assert not_kept(info, "h264") == [
        "transparency is dropped, h264 cannot store it (ffv1 and prores can)"
    ]


def test_a_damaged_packet_costs_no_transparency(tmp_path):
    path = write(tmp_path / "in.webm", "libvpx-vp9")
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    data = path.read_bytes()
    start = data.index(packets[3])
    size = len(packets[3])
    path.write_bytes(data[:start] + b"\xff" * size + data[start + size :])
    info, frames = read(path)
    assert info.has_alpha
    assert len(frames) == 6


def test_streams_without_it_keep_their_decoder(tmp_path):
    with av.open(str(tmp_path / "in.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25, options={"crf": "4", "b": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(pixels(0)[..., :3].copy(), "rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    info, frames = read(tmp_path / "in.webm")
    assert not info.has_alpha
    assert len(frames) == 1
