"""Damaged files of each kind, made from good ones."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from video_deblur.images.check import check_image
from video_deblur.images.folders import read_image


def encoded(suffix, height=120, width=160, options=()):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return cv2.imencode(suffix, picture, options)[1].tobytes()


def png_chunk(kind, contents=b""):
    checksum = zlib.crc32(kind + contents)
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", checksum)


@pytest.fixture
def check(tmp_path):
    def run(data, suffix=".png"):
        path = tmp_path / f"frame{suffix}"
        path.write_bytes(data)
        return check_image(path)

    return run


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_whole_files_give_their_size(check, suffix):
    assert check(encoded(suffix, 33, 47), suffix) == (33, 47)


@pytest.mark.parametrize(
    "options",
    [
        (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        (cv2.IMWRITE_JPEG_RST_INTERVAL, 3),
        (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        (cv2.IMWRITE_JPEG_QUALITY, 3),
    ],
)
def test_no_kind_of_whole_jpeg_is_refused(check, options):
    assert check(encoded(".jpg", 61, 75, options), ".jpg") == (61, 75)
    grey = np.full((20, 30), 90, np.uint8)
    assert check(cv2.imencode(".jpg", grey)[1].tobytes() + b"a trailer", ".jpg") == (20, 30)


def test_the_size_of_a_turned_jpeg_is_the_one_it_is_shown_at(check):
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    data = encoded(".jpg", 40, 60)
    assert check(data[:2] + segment + data[2:], ".jpg") == (60, 40)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("missing", [1, 2, 9, 40, 0.5, 0.9])
def test_files_without_their_end_are_named(check, suffix, missing):
    data = encoded(suffix)
    kept = len(data) - (missing if missing >= 1 else int(len(data) * missing))
    with pytest.raises(ValueError, match=rf"frame\{suffix}: .*; replace or remove it$"):
        check(data[:kept], suffix)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".png", "random"),
        (".png", "zeros"),
        (".png", "hole"),
        (".jpg", "random"),
        (".jpg", "hole"),
    ],
)
def test_files_damaged_in_the_middle_are_named(check, suffix, damage):
    data, length = bytearray(encoded(suffix)), 3000
    middle = len(data) // 2
    noise = np.random.default_rng(1).integers(0, 256, length, dtype=np.uint8).tobytes()
    part = {"random": noise, "zeros": bytes(length), "hole": b""}[damage]
    data[middle : middle + length] = part
    with pytest.raises(ValueError, match=rf"frame\{suffix}: is damaged"):
        check(bytes(data), suffix)


@pytest.mark.parametrize("byte", [8, 20, 45, 5000, -1, -10])
def test_one_wrong_byte_of_a_png_is_found(check, byte):
    data = bytearray(encoded(".png"))
    data[byte] ^= 4
    with pytest.raises(ValueError, match="is damaged"):
        check(bytes(data))


def test_a_png_without_a_picture_is_named(check):
    data = encoded(".png")[:33] + png_chunk(b"IEND")
    with pytest.raises(ValueError, match="it holds no picture"):
        check(data)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8", b"\xff\xd8\xff\xd9"])
def test_files_that_are_no_images_are_named(check, data):
    with pytest.raises(ValueError, match=r"frame\.jpg: .*; replace or remove it$"):
        check(data, ".jpg")


def test_a_size_that_no_reader_takes_is_no_crash(tmp_path):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND")
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    with pytest.raises(ValueError, match=r"huge\.png: cannot be read as an image"):
        read_image(path)
