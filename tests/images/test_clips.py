"""Animations, pages and folders read as clips, with their times and transparency."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from video_deblur.images.clips import FolderClip, TiffClip, WebpClip, open_animation
from video_deblur.images.facts import image_facts
from video_deblur.images.folders import FrameFolder

from . import image_files
from .image_files import picture


def rgba(pixels: np.ndarray, alpha: int = 255) -> np.ndarray:
    return np.concatenate([pixels, np.full_like(pixels[..., :1], alpha)], axis=2)


def test_frames_of_a_webp_are_put_blended_and_cleared(tmp_path):
    red, blue = np.full((40, 64, 3), (200, 0, 0), "u1"), np.full((10, 8, 3), (0, 0, 200), "u1")
    frames = [
        (rgba(red), 0, 0, 70, 0),
        (rgba(blue, 128), 4, 6, 30, 0),
        (rgba(blue, 128), 20, 6, 0, 2 | 1),
        (rgba(blue), 40, 20, 50, 0),
    ]
    path = tmp_path / "a.webp"
    path.write_bytes(image_files.webp_animation((40, 64), frames))
    facts = image_facts(path)
    assert facts is not None
    assert facts.num_pictures == 4
    with WebpClip(path) as clip:
        assert (clip.info.width, clip.info.height, clip.info.has_alpha) == (64, 40, True)
        shown = list(clip)
    # A frame of no duration is shown for a tenth of a second, as browsers do.
    assert [frame.duration for frame in shown] == [70, 30, 100, 50]
    assert all(b.pts == a.pts + a.duration for a, b in pairwise(shown))
    first, second, third, fourth = (frame.pixels.astype(int) for frame in shown)
    assert (first == [200, 0, 0, 255]).all()
    assert np.abs(second[8, 6] - [100, 0, 100, 255]).max() <= 1
    assert np.abs(third[8, 22] - [0, 0, 200, 128]).max() <= 1
    assert (fourth[8, 22, 3], fourth[8, 6, 3]) == (0, 255)
    assert (fourth[25, 42] == [0, 0, 200, 255]).all()


def test_reading_may_start_at_a_later_frame(tmp_path):
    frames = [(rgba(picture() // (n + 1)), 0, 0, 40, 0) for n in range(4)]
    path = tmp_path / "a.webp"
    path.write_bytes(image_files.webp_animation((40, 64), frames))
    with WebpClip(path) as whole, WebpClip(path) as part:
        assert not whole.info.has_alpha
        part.skip(2)
        for one, other in zip(list(whole)[2:], part, strict=True):
            assert (one.pts, one.duration) == (other.pts, other.duration)
            assert np.array_equal(one.pixels, other.pixels)


def test_a_damaged_frame_is_named(tmp_path):
    path = tmp_path / "a.webp"
    data = image_files.webp_animation((40, 64), [(rgba(picture()), 0, 0, 40, 0)] * 3)
    last = data.rindex(b"VP8")
    path.write_bytes(data[: last + 8] + bytes(20) + data[last + 28 :])
    with (
        pytest.raises(ValueError, match=r"a\.webp: frame 2 cannot be decoded"),
        WebpClip(path) as clip,
    ):
        list(clip)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pages_of_a_tiff_are_frames_and_previews_are_not(order, dtype, tmp_path):
    scale = 257 if dtype == np.uint16 else 1
    pages = [(picture() // (n + 1)).astype(dtype) * scale for n in range(3)]
    path = tmp_path / "a.tif"
    small = pages[0][:20, :32]
    path.write_bytes(image_files.tiff([*pages, small], 6, order, smaller=(3,)))
    facts = image_facts(path)
    assert facts is not None
    with TiffClip(path, facts, Fraction(30000, 1001)) as clip:
        assert (clip.info.width, clip.info.height, clip.info.num_frames) == (40, 64, 3)
        assert clip.info.bit_depth == 8 * np.dtype(dtype).itemsize
        time_base = clip.info.time_base
        shown = list(clip)
    assert [frame.pts * time_base for frame in shown] == [
        n * Fraction(1001, 30000) for n in range(3)
    ]
    for frame, page in zip(shown, pages, strict=True):
        assert np.array_equal(frame.pixels, np.rot90(page, -1))


def test_pages_of_other_sizes_are_refused_by_number(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(image_files.tiff([picture(), picture(), picture(20, 64)]))
    facts = image_facts(path)
    assert facts is not None
    with pytest.raises(ValueError, match=r"a\.tif: page 3 is 64x20, but the first is 64x40"):
        TiffClip(path, facts, Fraction(25))


def test_a_folder_at_a_rate_reads_like_a_video(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(image_files.png(picture() // (index + 1)))
    with FolderClip(FrameFolder(tmp_path), Fraction(24000, 1001)) as clip:
        assert clip.info.average_rate == Fraction(24000, 1001)
        clip.skip(1)
        times = [frame.pts * clip.info.time_base for frame in clip]
    assert times == [Fraction(1001, 24000), Fraction(2002, 24000)]


def write_apng(path, alphas: list[int]) -> None:
    with av.open(str(path), "w", format="apng") as output:
        stream = output.add_stream("apng", rate=10)
        stream.height, stream.width, stream.pix_fmt = 40, 64, "rgba"
        for alpha in alphas:
            pixels = rgba(picture(), alpha)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgba")))
        output.mux(stream.encode(None))


@pytest.mark.parametrize(("alphas", "used"), [([255] * 3, False), ([255, 255, 90], True)])
def test_transparency_that_no_pixel_uses_is_none(alphas, used, tmp_path):
    path = tmp_path / "a.png"
    write_apng(path, alphas)
    facts = image_facts(path)
    assert facts is not None
    assert facts.num_pictures == 3
    with open_animation(path) as clip:
        assert clip.info.has_alpha is used
        corners = [frame.pixels[0, 0] for frame in clip]
    assert len(corners) == 3
    assert not used or [int(corner[3]) for corner in corners] == alphas
