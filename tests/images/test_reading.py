"""Photos of each kind come out upright, whole, and in their colours."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from video_deblur.images.facts import image_facts
from video_deblur.images.folders import FrameFolder
from video_deblur.images.reading import read_image

from . import image_files
from .image_files import TURNS, box, picture

needs_av1 = pytest.mark.skipif(
    "libsvtav1" not in av.codecs_available, reason="this PyAV has no encoder for AV1"
)


def stored(kind: str, orientation: int) -> bytes:
    pixels, order = picture(), "<>"[orientation % 2]
    block = image_files.exif(orientation, order)
    if kind == "jpeg":
        return image_files.jpeg(pixels, block)
    if kind == "webp":
        return image_files.webp(pixels, block)
    if kind == "png":
        return image_files.png(pixels, image_files.chunk(b"eXIf", block))
    if kind == "late png":
        return image_files.png(pixels, behind=image_files.chunk(b"eXIf", block))
    deep = pixels.astype(np.uint16) * 257 if kind == "deep tiff" else pixels
    return image_files.tiff([deep], orientation, order)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "webp", "png", "late png", "tiff", "deep tiff"])
def test_photos_are_turned_upright(kind, orientation, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(stored(kind, orientation))
    pixels = read_image(path)
    expected = TURNS[orientation](picture()).astype(int)
    facts = image_facts(path)
    assert facts is not None
    assert facts.shown_size == pixels.shape[:2] == expected.shape[:2]
    found = pixels.astype(int) // (257 if kind == "deep tiff" else 1)
    assert np.abs(found - expected).mean() < 2


@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_a_folder_of_turned_photos_is_one_clip(orientation, tmp_path):
    for kind in ("jpeg", "webp", "late png"):
        (tmp_path / f"{kind[-3:]}.{kind[-4:].strip()}").write_bytes(stored(kind, orientation))
    folder = FrameFolder(tmp_path)
    folder.check_files()
    assert len(list(folder)) == 3


def test_formats_go_by_their_contents_not_by_their_names(tmp_path):
    path = tmp_path / "from_a_chat.jpg"
    path.write_bytes(stored("webp", 8))
    assert read_image(path).shape == (64, 40, 3)


def four_tiles(encoder: str = "libx265"):
    whole, pix_fmt = picture(160, 256), "yuv444p" if encoder == "libx265" else "yuv420p"
    places = [(y, x) for y in (0, 80) for x in (0, 128)]
    pieces = [whole[y : y + 80, x : x + 128].copy() for y, x in places]
    return whole, [image_files.coded(piece, encoder, pix_fmt) for piece in pieces]


@pytest.mark.parametrize(
    "encoder", ["libx265", pytest.param("libsvtav1", marks=needs_av1)], ids=["heic", "avif"]
)
def test_all_tiles_of_a_heif_are_put_together(encoder, tmp_path):
    whole, tiles = four_tiles(encoder)
    path = tmp_path / "photo.heic"
    # The last tiles reach over the edge.
    path.write_bytes(
        image_files.heif(tiles, (80, 128), grid=(2, 2, 150, 250), av1=encoder != "libx265")
    )
    pixels = read_image(path)
    assert pixels.shape == (150, 250, 3)
    assert np.abs(pixels.astype(int) - whole[:150, :250].astype(int)).mean() < 3


@pytest.mark.parametrize(
    ("turned", "orientation"),
    [
        ((), 1),
        ((box(b"irot", b"\1"),), 8),
        ((box(b"irot", b"\2"),), 3),
        ((box(b"irot", b"\3"),), 6),
        ((box(b"imir", b"\1"),), 2),
        ((box(b"imir", b"\0"),), 4),
        ((box(b"irot", b"\3"), box(b"imir", b"\1")), 5),
    ],
)
def test_a_heif_is_turned_by_its_own_boxes_and_not_by_exif(turned, orientation, tmp_path):
    coded = image_files.coded(picture(80, 128), "libx265")
    path = tmp_path / "photo.heic"
    block = image_files.exif(6)
    path.write_bytes(image_files.heif([coded], (80, 128), turned=turned, exif=block))
    expected = TURNS[orientation](picture(80, 128)).astype(int)
    pixels = read_image(path).astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 3


def test_transparency_of_a_heif_is_kept(tmp_path):
    coded = image_files.coded(picture(80, 128), "libx265")
    level = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 80, 0)
    alpha = image_files.coded(np.repeat(level, 3, 2), "libx265", "gray")
    path = tmp_path / "photo.heic"
    path.write_bytes(image_files.heif([coded], (80, 128), alpha=alpha))
    pixels = read_image(path)
    assert pixels.shape == (80, 128, 4)
    assert np.abs(pixels[..., 3:].astype(int) - level.astype(int)).mean() < 2


def test_a_heif_that_lacks_a_tile_is_refused(tmp_path):
    _, tiles = four_tiles()
    path = tmp_path / "photo.heic"
    path.write_bytes(image_files.heif(tiles[:3], (80, 128), grid=(2, 2, 160, 256)))
    with pytest.raises(ValueError, match=r"photo\.heic: is damaged \(3 of 4 tiles"):
        read_image(path)
    path.write_bytes(image_files.heif(tiles, (80, 128), grid=(2, 2, 160, 256))[:-400])
    with pytest.raises(ValueError, match=r"photo\.heic: is damaged \(its end is missing"):
        read_image(path)


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png", "tiff"])
def test_files_that_are_cut_off_are_found_by_their_headers(kind, tmp_path):
    path = tmp_path / "photo"
    data = stored(kind, 1)
    # The directory of this TIFF lies behind its pixels, as cameras write it.
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=r"photo: is damaged \(its end is missing"):
        image_facts(path)


def test_several_pictures_in_a_file_are_not_one_photo(tmp_path):
    path = tmp_path / "pages.tif"
    path.write_bytes(image_files.tiff([picture()] * 3))
    with pytest.raises(ValueError, match=r"pages\.tif: holds 3 pictures"):
        read_image(path)
    path.write_bytes(image_files.tiff([picture(), picture(20, 32)], smaller=(1,)))
    assert read_image(path).shape == (40, 64, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("compression", [1, 5, 8])
def test_headers_of_a_tiff_say_what_is_read(dtype, channels, compression, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, channels)).astype(dtype)
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    facts, found = image_facts(path), read_image(path)
    assert (facts.channels, facts.depth) == (found.shape[2], 8 * found.dtype.itemsize)
