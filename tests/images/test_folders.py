from __future__ import annotations

import cv2
import numpy as np
import pytest
from video_deblur.images.folders import FrameFolder, FrameFolderWriter


def noise(channels=3, dtype=np.uint8, size=(9, 7)):
    peak = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, peak, (*size, channels), dtype=dtype)


def save(path, pixels):
    code = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    assert cv2.imwrite(str(path), cv2.cvtColor(pixels, code))


def test_orders_names_by_their_numbers(tmp_path):
    for name in ("f10.png", "f2.png", "f1.PNG"):
        save(tmp_path / name, noise())
    (tmp_path / "notes.txt").touch()
    folder = FrameFolder(tmp_path)
    assert folder.names == ["f1.PNG", "f2.png", "f10.png"]
    assert [frame.pts for frame in folder] == [0, 1, 2]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip_is_exact_and_keeps_names(tmp_path, channels, dtype):
    (tmp_path / "in").mkdir()
    pixels = noise(channels, dtype)
    for name in ("b.tif", "a.v2.png"):
        save(tmp_path / "in" / name, pixels)
    folder = FrameFolder(tmp_path / "in")
    with FrameFolderWriter(tmp_path / "out") as writer:
        for name, frame in zip(folder.names, folder, strict=True):
            writer.write(frame.pixels, name)
    copy = FrameFolder(tmp_path / "out")
    assert copy.names == ["a.v2.png", "b.png"]
    assert (copy.has_alpha, copy.bit_depth) == (channels == 4, 8 * np.dtype(dtype).itemsize)
    for frame in copy:
        np.testing.assert_array_equal(frame.pixels, pixels)


def test_refuses_folders_that_are_no_clip_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        FrameFolder(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no image"):
        FrameFolder(tmp_path)
    save(tmp_path / "a.png", noise())
    save(tmp_path / "b.png", noise(size=(9, 8)))
    with pytest.raises(ValueError, match=r"b\.png: is 8x9 .* a\.png is 7x9"):
        list(FrameFolder(tmp_path))
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as an image"):
        list(FrameFolder(tmp_path))
    save(tmp_path / "a.bmp", noise())
    with pytest.raises(ValueError, match=r"a\.bmp and a\.png|a\.png and a\.bmp"):
        FrameFolder(tmp_path)


def test_refuses_a_target_that_is_not_empty_and_fills_an_empty_one(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    with FrameFolderWriter(target) as writer:
        writer.write(noise(), "x.jpg")
    with pytest.raises(ValueError, match="is not empty"):
        FrameFolderWriter(target)
    assert [p.name for p in target.iterdir()] == ["x.png"]


def test_an_interrupted_block_leaves_nothing(tmp_path):
    def interrupted():
        with FrameFolderWriter(tmp_path / "out") as writer:
            writer.write(noise(), "x.png")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
