from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_deblur.images.folders import FrameFolder, FrameFolderWriter
from video_deblur.video.hidden_names import leftovers


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


def test_the_order_of_frames_is_that_of_their_names_whatever_the_disk_lists(
    tmp_path, monkeypatch
):
    for name in ("f1.png", "f01.png", "f001.png"):
        save(tmp_path / name, noise())
    (tmp_path / "f2.png").mkdir()
    listed = sorted(tmp_path.iterdir())
    for order in (listed, listed[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda folder, order=order: iter(order))
        assert FrameFolder(tmp_path).names == ["f001.png", "f01.png", "f1.png"]


def write_two(path):
    with FrameFolderWriter(path) as writer:
        writer.write(noise(), "a.png")
        writer.write(noise(), "b.png")
        yield
    yield


def test_the_current_folder_is_filled_and_stays_the_current_one(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    monkeypatch.chdir(target)
    list(write_two("."))
    assert sorted(os.listdir()) == sorted(os.listdir(target)) == ["a.png", "b.png"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_is_a_disk_of_its_own_is_filled(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    replace = os.replace

    def within_a_disk(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", within_a_disk)
    list(write_two(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "b.png"]
    assert os.listdir(tmp_path) == ["out"]


def test_what_lies_in_the_folder_meanwhile_is_left_alone(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    writing = write_two(target)
    next(writing)
    (target / ".DS_Store").touch()
    next(writing)
    assert sorted(os.listdir(target)) == [".DS_Store", "a.png", "b.png"]


@pytest.mark.parametrize("is_there", [True, False])
def test_finished_frames_that_cannot_be_moved_are_kept_and_it_is_said_where(is_there, tmp_path):
    target = tmp_path / "out"
    if is_there:
        target.mkdir()
    writing = write_two(target)
    next(writing)
    mine = target / "b.png" if is_there else target
    mine.write_bytes(b"mine")
    with pytest.raises(OSError, match=r"out: the finished frames cannot be moved .*finished-"):
        next(writing)
    kept = tmp_path / f".out.finished-{os.getpid()}"
    assert sorted(os.listdir(kept)) == ["a.png", "b.png"]
    assert mine.read_bytes() == b"mine"
    assert not is_there or os.listdir(target) == ["b.png"]
    # The next run leaves them there.
    assert leftovers(target) == []


def test_an_empty_folder_that_cannot_be_written_is_refused_first(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != target)
    with pytest.raises(PermissionError, match="out: cannot be written to"):
        FrameFolderWriter(target)
