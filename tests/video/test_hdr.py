"""HDR clips: code values, tags and the data of the mastering display stay."""

from __future__ import annotations

import dataclasses
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.video.codec_limits import not_kept
from video_deblur.video.color_tags import ColorTags
from video_deblur.video.hdr import HdrMetadata
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

PQ = ColorTags(space=9, range=1, primaries=9, transfer=16)
HLG = ColorTags(space=9, range=1, primaries=9, transfer=18)
P3_D65 = HdrMetadata(
    primaries=(
        (Fraction(34000, 50000), Fraction(16000, 50000)),
        (Fraction(13250, 50000), Fraction(34500, 50000)),
        (Fraction(7500, 50000), Fraction(3000, 50000)),
    ),
    white=(Fraction(15635, 50000), Fraction(16450, 50000)),
    luminance=(Fraction(1, 10000), Fraction(1000)),
    light_level=(1000, 400),
)
OUTPUTS = [
    ("h265", "mp4"),
    ("h265", "mov"),
    ("h265", "mkv"),
    ("ffv1", "mkv"),
    ("prores", "mov"),
    ("prores", "mkv"),
]


def ramp() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    return ((np.stack([x / 64, y / 48, (x + y) / 112], -1) * 0.8 + 0.1) * 65535).astype(
        np.uint16
    )


def write(path, codec, tags=PQ, hdr: HdrMetadata | None = P3_D65, pixels=None, **changes):
    pixels = ramp() if pixels is None else pixels
    with VideoWriter(
        path,
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        codec=codec,
        bit_depth=10,
        color=tags,
        hdr=hdr,
        **changes,
    ) as writer:
        for index in range(3):
            writer.write(pixels, index)
    return path


def read(path):
    with VideoReader(path) as reader:
        return reader.info, list(reader)


def copy(source, target, codec):
    reader = VideoReader(source)
    with reader, VideoWriter.like(target, reader.info, codec=codec) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.pts, frame.duration)
    return target


def close(found: HdrMetadata, expected: HdrMetadata) -> bool:
    def flat(hdr):
        return [v for point in (*hdr.primaries, hdr.white, hdr.luminance) for v in point]

    same = np.allclose(
        [float(v) for v in flat(found)], [float(v) for v in flat(expected)], rtol=0, atol=1e-5
    )
    return same and found.light_level == expected.light_level


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
def test_pq_is_kept_with_its_mastering_display_and_fed_back_in(tmp_path, codec, suffix):
    path = write(tmp_path / f"a.{suffix}", codec)
    info, frames = read(path)
    assert len(frames) == 3
    assert info.bit_depth >= 10
    assert close(info.hdr, P3_D65)
    expected = ("RGB" if codec == "ffv1" else 9, 9, 16)
    space = "RGB" if info.color.is_rgb else info.color.space
    assert (space, info.color.primaries, info.color.transfer) == expected
    error = frames[0].pixels.astype(int) - ramp()
    assert np.abs(error).mean() < 257
    again = copy(path, tmp_path / "again.mp4", "h265")
    info, _ = read(again)
    assert close(info.hdr, P3_D65)
    assert info.color == PQ


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
def test_hlg_is_kept_without_data_of_a_display(tmp_path, codec, suffix):
    info, _ = read(write(tmp_path / f"a.{suffix}", codec, HLG, hdr=None))
    assert (info.color.primaries, info.color.transfer, info.hdr) == (9, 18, None)


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
@pytest.mark.parametrize("kept", ["light_level", "display"])
def test_what_is_known_in_part_is_kept_in_part(tmp_path, codec, suffix, kept):
    hdr = HdrMetadata(light_level=(600, 90))
    if kept == "display":
        hdr = dataclasses.replace(P3_D65, light_level=None)
    info, _ = read(write(tmp_path / f"a.{suffix}", codec, hdr=hdr))
    assert info.hdr.light_level == hdr.light_level
    assert (info.hdr.primaries is None) == (hdr.primaries is None)


def test_what_the_container_alone_says_is_read(tmp_path):
    # The boxes of an iPhone or an editor: the H.265 stream says nothing.
    path = write(tmp_path / "a.mp4", "h265", hdr=None)
    assert read(path)[0].hdr is None
    level = b"\0\0\0\x0cclli" + struct.pack(">2H", 1000, 400)
    data = path.read_bytes()
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"hvc1"):
        start = data.rindex(name) - 4
        size = int.from_bytes(data[start : start + 4], "big") + len(level)
        data = data[:start] + size.to_bytes(4, "big") + data[start + 4 :]
    end = start + size - len(level)
    path.write_bytes(data[:end] + level + data[end:])
    assert read(path)[0].hdr == HdrMetadata(light_level=(1000, 400))


def test_transparent_prores_keeps_both(tmp_path):
    pixels = np.concatenate([ramp(), ramp()[..., :1]], -1)
    path = write(tmp_path / "a.mov", "prores", pixels=pixels, has_alpha=True)
    info, frames = read(path)
    assert info.has_alpha
    assert close(info.hdr, P3_D65)
    assert np.abs(frames[0].pixels.astype(int) - pixels).mean() < 257
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "ap4h"


def coarse(info):
    """Return what is known of a clip, as if its colours were as coarse as any codec's."""
    return dataclasses.replace(info, pix_fmt="yuv420p10le")


def test_h264_says_which_codecs_keep_it(tmp_path):
    info = coarse(read(write(tmp_path / "a.mkv", "ffv1"))[0])
    (line,) = not_kept(info, "h264")
    assert line.startswith("PQ is stored with 8 bits")
    assert line.endswith("choose h265, ffv1 or prores to keep them")
    assert not not_kept(dataclasses.replace(info, bit_depth=10), "h265")
    plain, _ = read(write(tmp_path / "b.mkv", "ffv1", ColorTags(), hdr=None))
    plain = dataclasses.replace(coarse(plain), bit_depth=8)
    assert not not_kept(plain, "h264")
    (line,) = not_kept(dataclasses.replace(plain, dynamic_hdr=("HDR10+",)), "h265")
    assert "HDR10+" in line
    path = copy(tmp_path / "a.mkv", tmp_path / "a.mp4", "h264")
    assert read(path)[0].color == PQ


def test_a_loss_of_bits_is_told_with_the_codecs_that_keep_them(tmp_path):
    info = coarse(read(write(tmp_path / "a.mkv", "ffv1", ColorTags(), hdr=None))[0])
    ten = dataclasses.replace(info, bit_depth=10)
    (line,) = not_kept(ten, "h264")
    assert line.startswith("its 10 bits per colour become 8")
    assert line.endswith("(h265, ffv1 or prores keep more)")
    assert not any(not_kept(ten, codec) for codec in ("h265", "ffv1", "prores"))
    (line,) = not_kept(info, "h265")
    assert line.startswith("its 16 bits per colour become 10")
    assert line.endswith("(ffv1 keeps more)")
    assert not not_kept(info, "ffv1")


@pytest.mark.parametrize("space", [8, 14])
def test_a_matrix_that_rgb_cannot_be_made_of_is_told_where_it_is_lost(space, tmp_path):
    info = coarse(read(write(tmp_path / "a.mkv", "ffv1", ColorTags(), hdr=None))[0])
    color = dataclasses.replace(info.color, space=space)
    info = dataclasses.replace(info, color=color, bit_depth=8)
    for codec in ("ffv1", "prores"):
        (line,) = not_kept(info, codec)
        assert line.startswith(f"its colours will be wrong: {codec}")
    assert not any(not_kept(info, codec) for codec in ("h264", "h265"))
