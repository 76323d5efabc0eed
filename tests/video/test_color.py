"""Colours of flat bars: through any source and codec, what players show stays the same."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.video.codec_limits import not_kept
from video_deblur.video.color_tags import ColorTags
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

BARS = np.array(
    [
        (192, 192, 192),
        (190, 192, 0),
        (0, 192, 190),
        (0, 190, 0),
        (190, 0, 192),
        (192, 0, 0),
        (0, 0, 192),
        (20, 20, 20),
        (128, 64, 32),
        (255, 255, 255),
    ],
    np.uint8,
)
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Weights of red and blue of the matrices of ITU-T H.273."""
OUTPUTS = [
    ("h264", "mp4"),
    ("h265", "mp4"),
    ("h264", "mkv"),
    ("prores", "mov"),
    ("ffv1", "mkv"),
]


def bars(width: int, height: int) -> np.ndarray:
    """Upright bars, `[H, W, 3]`."""
    return np.repeat(BARS[np.arange(width) * len(BARS) // width][None], height, 0)


def levels(pixels: np.ndarray) -> np.ndarray:
    """Return the mean colour of each bar, away from its edges, 0 to 255."""
    scale = 257.0 if pixels.dtype == np.uint16 else 1.0
    return middles(pixels[..., :3]) / scale


def middles(plane: np.ndarray) -> np.ndarray:
    """Return the means of the bars of a plane, `[bars, ...]`."""
    height, width = plane.shape[:2]
    edges = (np.arange(len(BARS))[:, None] + np.array([0.3, 0.7])) * width / len(BARS)
    rows = plane[height // 4 : -height // 4]
    return np.stack([rows[:, int(a) : int(b)].mean((0, 1)) for a, b in edges])


def as_yuv(rgb: np.ndarray, matrix: int, full: bool, depth: int = 8) -> np.ndarray:
    """Convert `[..., 3]` from 0 to 255 by the formulas of ITU-T H.273."""
    red, blue = LUMA[matrix]
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    top = 2**depth - 1 if full else 255 * 2 ** (depth - 8)
    luma, chroma, low = (top, top, 0) if full else (219 * top / 255, 224 * top / 255, top / 255)
    half = 2 ** (depth - 1)
    values = [16 * low + luma * y, half + chroma * cb, half + chroma * cr]
    return np.stack(values, -1).round().clip(0, 2**depth - 1).astype(int)


def as_shown(path) -> np.ndarray:
    """Return the bars as a player shows them that goes by the tags alone."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
        assert context.color_primaries != 2
        assert context.color_trc != 2
        if frame.format.is_rgb:
            return levels(frame.to_ndarray(format="rgb24"))
        depth = frame.format.components[0].bits
        full, matrix = context.color_range == 2, context.colorspace
        assert context.color_range != 0 or path.suffix == ".mov"
        planes = []
        for plane in frame.planes:
            kind = np.uint8 if depth == 8 else np.dtype("<u2")
            rows = np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
            planes.append(middles(rows))
        y, cb, cr = (plane / 2 ** (depth - 8) for plane in planes)
    if not full:
        y, cb, cr = (y - 16) * 255 / 219, (cb - 128) * 255 / 224, (cr - 128) * 255 / 224
    else:
        cb, cr = cb - 128, cr - 128
    red, blue = LUMA[matrix]
    r, b = y + (2 - 2 * red) * cr, y + (2 - 2 * blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.stack([r, g, b], -1).clip(0, 255)


def encode(path, frame, codec, pix_fmt, options=None, **tags):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
            setattr(frame, name, value)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        for packet in stream.encode(frame) + stream.encode(None):
            container.mux(packet)
    return path


def rgb_clip(path, codec, pix_fmt, size=(1280, 720)):
    frame = av.VideoFrame.from_ndarray(bars(*size), "rgb24").reformat(format=pix_fmt)
    return encode(path, frame, codec, pix_fmt, {"crf": "0"} if "264" in codec else None)


def yuv_frame(pix_fmt, size, matrix, full):
    """Return bars as a picture of a planar YUV format or of grey."""
    layout = av.VideoFormat(pix_fmt, *size)
    depth = layout.components[0].bits
    values = as_yuv(bars(*size), matrix, full, depth)
    frame = av.VideoFrame(*size, pix_fmt)
    for index, plane in enumerate(frame.planes):
        sub = (size[0] // plane.width, size[1] // plane.height)
        samples = values[:: sub[1], :: sub[0], index].astype(np.uint8 if depth == 8 else "<u2")
        raw = np.zeros((plane.height, plane.line_size), np.uint8)
        raw[:, : samples[0].nbytes] = samples.view(np.uint8).reshape(plane.height, -1)
        plane.update(raw.tobytes())
    return frame


def restore(source, target, codec):
    """Copy the pictures as a restoration of strength 0 does."""
    reader = VideoReader(source)
    with reader, VideoWriter.like(target, reader.info, codec=codec) as writer:
        for frame in reader:
            writer.write(frame.pixels[..., : 4 if reader.info.has_alpha else 3], frame.pts)
    return target


def read(path):
    with VideoReader(path) as reader:
        return reader.info, next(reader).pixels


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
@pytest.mark.parametrize(
    ("source", "pix_fmt", "name"),
    [
        ("qtrle", "rgb24", "in.mov"),
        ("png", "rgb24", "in.mov"),
        ("rawvideo", "bgr24", "in.avi"),
        ("ffv1", "bgr0", "in.mkv"),
        ("ffv1", "gbrp10le", "in.mkv"),
        ("libx264rgb", "rgb24", "in.mp4"),
        ("rawvideo", "rgb565le", "in.nut"),
    ],
)
def test_rgb_sources_are_shown_the_same_in_every_codec(
    tmp_path, source, pix_fmt, name, codec, suffix
):
    path = rgb_clip(tmp_path / name, source, pix_fmt, (320, 180))
    expected = levels(read(path)[1])
    assert np.abs(expected - BARS).max() <= (8 if "565" in pix_fmt else 1)
    target = restore(path, tmp_path / f"out.{suffix}", codec)
    assert np.abs(as_shown(target) - expected).max() <= 3


@pytest.mark.parametrize("size", [(1280, 720), (640, 360)])
def test_our_rgb_output_fed_back_in_is_shown_the_same(tmp_path, size):
    path = rgb_clip(tmp_path / "in.mov", "qtrle", "rgb24", size)
    lossless = restore(path, tmp_path / "lossless.mkv", "ffv1")
    again = restore(lossless, tmp_path / "again.mp4", "h264")
    assert np.abs(as_shown(again) - BARS).max() <= 3
    with av.open(str(again)) as container:
        context = container.streams.video[0].codec_context
        # Players that ignore tags go by the size.
        assert context.colorspace == (1 if size[0] == 1280 else 6)
    back = restore(again, tmp_path / "back.mkv", "ffv1")
    assert np.abs(as_shown(back) - BARS).max() <= 3


@pytest.mark.parametrize(("codec", "suffix"), OUTPUTS)
@pytest.mark.parametrize(
    ("size", "matrix", "primaries"),
    [((640, 360), 6, 1), ((720, 480), 6, 6), ((720, 576), 5, 5), ((1280, 720), 1, 1)],
)
def test_what_is_not_named_is_decided_by_size_and_written_down(
    tmp_path, size, matrix, primaries, codec, suffix
):
    frame = yuv_frame("yuv420p", size, matrix, full=False)
    path = encode(tmp_path / "in.mkv", frame, "ffv1", "yuv420p")
    info, _ = read(path)
    assert info.color == ColorTags(space=matrix, range=1, primaries=primaries, transfer=1)
    target = restore(path, tmp_path / f"out.{suffix}", codec)
    assert np.abs(as_shown(target) - BARS).max() <= 3
    after, _ = read(target)
    assert (after.color.primaries, after.color.transfer) == (primaries, 1)


def test_the_size_is_that_of_the_coded_picture_and_not_of_the_upright_one(tmp_path):
    # 360x640 upright would be BT.709 for its lines.
    path = tmp_path / "portrait.mp4"
    encode(path, yuv_frame("yuv420p", (640, 360), 6, full=False), "libx264", "yuv420p")
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    for place, value in zip((0, 1, 3, 4), (0, 1, -1, 0), strict=True):
        entry = (value << 16).to_bytes(4, "big", signed=True)
        data[start + 4 * place : start + 4 * place + 4] = entry
    path.write_bytes(data)
    info, pixels = read(path)
    assert (info.width, info.height, info.color.space) == (360, 640, 6)
    assert np.abs(levels(np.rot90(pixels)) - BARS).max() <= 3
    target = restore(path, tmp_path / "upright.mp4", "h264")
    after, again = read(target)
    assert after.color == info.color
    assert np.abs(levels(np.rot90(again)) - BARS).max() <= 3


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "full", "name"),
    [
        ("yuv420p", "libx264", False, "in.mp4"),
        ("yuv420p10le", "libx264", False, "in.mp4"),
        ("yuv422p", "libx264", False, "in.mkv"),
        ("yuv444p", "libx264", True, "in.mp4"),
        ("yuv420p10le", "libx265", False, "in.mp4"),
        ("yuvj420p", "mjpeg", True, "in.avi"),
        ("yuvj422p", "mjpeg", True, "in.mov"),
        ("yuv411p", "ffv1", False, "in.mkv"),
        ("yuv410p", "ffv1", False, "in.mkv"),
        ("yuv440p", "ffv1", False, "in.mkv"),
        ("yuv422p12le", "ffv1", False, "in.mkv"),
        ("yuv444p16le", "ffv1", True, "in.mkv"),
        ("yuv422p10le", "prores_ks", False, "in.mov"),
    ],
)
def test_yuv_of_every_kind_is_read_right(tmp_path, pix_fmt, codec, full, name):
    frame = yuv_frame(pix_fmt, (640, 320), 6, full)
    options = {"crf": "0"} if "libx26" in codec else {"qmin": "1", "qmax": "1"}
    options |= {"x265-params": "log-level=none:bframes=0"} if codec == "libx265" else {}
    tags = {"colorspace": 6, "color_range": 2 if full else 1}
    path = encode(tmp_path / name, frame, codec, pix_fmt, options, **tags)
    info, pixels = read(path)
    assert info.color.range == (2 if full else 1)
    assert np.abs(levels(pixels) - BARS).max() <= 3
    target = restore(path, tmp_path / "out.mp4", "h265")
    assert np.abs(as_shown(target) - BARS).max() <= 3


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "name"),
    [("gray", "ffv1", "in.mkv"), ("gray10le", "ffv1", "in.mkv"), ("gray", "libx264", "in.mp4")],
)
@pytest.mark.parametrize("full", [False, True])
def test_grey_is_read_over_its_range(tmp_path, pix_fmt, codec, name, full):
    frame = yuv_frame(pix_fmt, (320, 160), 6, full)
    tags = {"color_range": 2 if full else 1}
    path = encode(tmp_path / name, frame, codec, pix_fmt, **tags)
    _, pixels = read(path)
    found = levels(pixels)
    luma = BARS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found - luma[:, None]).max() <= 3
    target = restore(path, tmp_path / "out.mp4", "h264")
    assert np.abs(as_shown(target) - luma[:, None]).max() <= 3


def test_palettes_and_packed_yuv_are_read_right(tmp_path):
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0], palette[: len(BARS), 1:] = 255, BARS
    index = np.repeat(np.arange(320)[None] * len(BARS) // 320, 160, 0).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray((index, palette), "pal8")
    path = encode(tmp_path / "palette.mov", frame, "png", "pal8")
    assert np.abs(levels(read(path)[1]) - BARS).max() <= 1
    for pix_fmt in ("nv12", "uyvy422", "yuyv422"):
        frame = yuv_frame("yuv422p", (320, 160), 6, full=False).reformat(format=pix_fmt)
        path = encode(tmp_path / f"{pix_fmt}.nut", frame, "rawvideo", pix_fmt)
        assert np.abs(levels(read(path)[1]) - BARS).max() <= 3


@pytest.mark.parametrize(
    ("tags", "pix_fmt", "decided"),
    [
        (ColorTags(), "gbrp", ColorTags(space=0, range=2, primaries=1, transfer=13)),
        (ColorTags(space=9), "yuv420p", ColorTags(space=9, range=1, primaries=9, transfer=14)),
        (
            ColorTags(primaries=9, transfer=16),
            "yuv420p10le",
            ColorTags(space=9, range=1, primaries=9, transfer=16),
        ),
        (ColorTags(space=0), "yuvj420p", ColorTags(space=1, range=2, primaries=1, transfer=1)),
        (
            ColorTags(space=5, range=2, primaries=1, transfer=13),
            "yuv420p",
            ColorTags(space=5, range=2, primaries=1, transfer=13),
        ),
    ],
)
def test_named_values_stay_and_decided_ones_stay_decided(tags, pix_fmt, decided):
    assert tags.decided(1920, 1080, pix_fmt) == decided
    assert decided.decided(64, 48, pix_fmt) == decided


@pytest.mark.parametrize(
    ("pix_fmt", "size", "told"),
    [
        ("yuv444p", (64, 48), {"h264": "4:4:4", "h265": "4:4:4", "prores": "4:4:4"}),
        ("yuv422p", (64, 48), {"h264": "4:2:2", "h265": "4:2:2"}),
        ("bgr0", (64, 48), {"h264": "RGB", "h265": "RGB", "prores": "RGB"}),
        ("yuv420p", (64, 48), {}),
        ("gray", (64, 48), {}),
        # Odd sizes are stored as 4:4:4.
        ("yuv444p", (65, 48), {}),
    ],
)
def test_colours_that_are_stored_coarser_are_told(pix_fmt, size, told, tmp_path):
    frame = av.VideoFrame.from_ndarray(bars(*size), "rgb24").reformat(format=pix_fmt)
    path = encode(tmp_path / "in.mkv", frame, "ffv1", pix_fmt)
    with VideoReader(path) as reader:
        info = reader.info
    assert info.pix_fmt == pix_fmt
    for name in ("h264", "h265", "ffv1", "prores"):
        lines = not_kept(info, name)
        assert len(lines) == (name in told)
        if name in told:
            become = "4:2:2" if name == "prores" else "4:2:0"
            assert (
                f"as {told[name]} has them and become {become}, coarser, in {name}" in lines[0]
            )
            others = "ffv1 and prores keep" if told[name] == "4:2:2" else "ffv1 keeps"
            assert lines[0].endswith(f"({others} them)")
