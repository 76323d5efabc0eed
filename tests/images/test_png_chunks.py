"""What photos say beside their pixels, in the PNGs that they become."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction

import pytest
from video_deblur.images.facts import image_facts
from video_deblur.images.folders import encode_png
from video_deblur.images.png_chunks import (
    carried_chunks,
    colour_loss,
    video_frame_chunks,
    with_chunks,
)
from video_deblur.images.reading import read_image
from video_deblur.video.color_tags import ColorTags

from . import image_files
from .image_files import chunk, chunks_of, exif, picture, profile

DATE = b"2024:05:06 07:08:09"


def stored(kind: str, orientation: int, order: str) -> bytes:
    block, icc = exif(orientation, order, preview=True), profile()
    if kind == "jpeg":
        return image_files.jpeg(picture(), block, icc, dpi=254)
    if kind == "webp":
        return image_files.webp(picture(), block, icc)
    if kind == "heic":
        coded = image_files.coded(picture(80, 128), "libx265")
        return image_files.heif([coded], (80, 128), icc=icc, exif=block)
    packed = b"A name\0\0" + zlib.compress(icc)
    return image_files.png(picture(), chunk(b"iCCP", packed), chunk(b"eXIf", block))


def restored(path) -> dict[bytes, bytes]:
    """Return the chunks of the PNG that a photo becomes, which must be readable and upright."""
    pixels = read_image(path)
    png = path.with_name("out.png")
    png.write_bytes(with_chunks(encode_png(pixels), carried_chunks(image_facts(path))))
    facts = image_facts(png)
    assert facts is not None
    assert facts.orientation == 1
    assert (read_image(png) == pixels).all()
    return chunks_of(png.read_bytes())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["jpeg", "webp", "png", "heic"])
def test_profile_date_and_camera_go_along(kind, order, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(stored(kind, 6, order))
    chunks = restored(path)
    name, _, packed = chunks[b"iCCP"].partition(b"\0")
    assert 0 < len(name) < 80
    assert zlib.decompress(packed[1:]) == profile()
    block = chunks[b"eXIf"]
    assert b"Tester" in block
    assert DATE in block
    # Only the way up (at 30) and the link to the old preview (at 46) have changed.
    before = exif(6, order, preview=True)
    changed = [at for at in range(len(before)) if block[at] != before[at]]
    assert len(block) == len(before)
    assert changed == ([30, 46] if order == "<" else [31, 49])


def test_density_turns_with_the_picture(tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(image_files.jpeg(picture(), exif(6), dpi=254))
    assert restored(path)[b"pHYs"] == struct.pack(">IIB", 10000, 10000, 1)
    wide = chunk(b"pHYs", struct.pack(">IIB", 1000, 2000, 1))
    path.write_bytes(image_files.png(picture(), wide, chunk(b"eXIf", exif(8))))
    assert restored(path)[b"pHYs"] == struct.pack(">IIB", 2000, 1000, 1)


def test_texts_and_gamma_of_a_png_stay(tmp_path):
    kept = [(b"gAMA", struct.pack(">I", 45455)), (b"tEXt", b"Author\0Someone")]
    path = tmp_path / "photo"
    path.write_bytes(image_files.png(picture(), *(chunk(*each) for each in kept)))
    chunks = restored(path)
    assert {kind: chunks[kind] for kind, _ in kept} == dict(kept)


def test_a_tiff_keeps_date_camera_and_profile(tmp_path):
    more = ((271, 2, 7, b"Tester\0"), (306, 2, 20, DATE + b"\0"))
    path = tmp_path / "photo.tif"
    path.write_bytes(image_files.tiff([picture()], 3, ">", profile(), more))
    chunks = restored(path)
    assert zlib.decompress(chunks[b"iCCP"].partition(b"\0")[2][1:]) == profile()
    assert b"Tester" in chunks[b"eXIf"]
    assert DATE in chunks[b"eXIf"]


def test_a_profile_of_other_pixels_is_named_and_left_out(tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(image_files.jpeg(picture(), icc=profile(b"GRAY")))
    assert b"iCCP" not in restored(path)
    assert "for GRAY pixels" in colour_loss(image_facts(path))
    path.write_bytes(image_files.jpeg(picture(), icc=profile()))
    assert colour_loss(image_facts(path)) == ""


def test_damaged_exif_is_left_out(tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(image_files.jpeg(picture(), exif(6)[:20]))
    assert b"eXIf" not in restored(path)


def test_frames_of_a_video_say_what_is_unusual():
    usual = ColorTags(space=1, range=1, primaries=1, transfer=1)
    assert video_frame_chunks(usual, Fraction(1)) == []
    hdr = ColorTags(space=9, range=1, primaries=9, transfer=16)
    assert video_frame_chunks(hdr, Fraction(4, 3)) == [
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"pHYs", struct.pack(">IIB", 3, 4, 0)),
    ]
