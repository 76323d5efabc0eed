"""Training data as it lies on disk: what is opened, and what is refused by name."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from video_deblur.images import datasets
from video_deblur.training.data.sources import (
    PairedSource,
    SyntheticSource,
    open_sources,
    read_frames,
)


def picture(seed=0, size=(40, 56)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


def write(path, seed=0, size=(40, 56)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(seed, size))
    return path


def write_video(path, num_frames, size=(40, 56)):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30, (size[1], size[0]))
    for index in range(num_frames):
        writer.write(picture(index, size))
    writer.release()
    return path


@pytest.fixture
def pairs(tmp_path):
    """Two sequences of four frames: landscape PNGs and portrait JPEGs."""
    for name, suffix, size in (("a", ".png", (40, 56)), ("b", ".jpg", (60, 44))):
        for index in range(4):
            write(tmp_path / "pairs" / name / "blur" / f"{index}{suffix}", index, size)
            write(tmp_path / "pairs" / name / "sharp" / f"{index}{suffix}", index + 9, size)
    return tmp_path / "pairs"


@pytest.fixture
def sharp(tmp_path):
    write(tmp_path / "sharp" / "photos" / "a.png")
    write(tmp_path / "sharp" / "photos" / "b.jpg", size=(50, 70))
    write_video(tmp_path / "sharp" / "clips" / "film.mp4", 40)
    return tmp_path / "sharp"


def open_one(spec, num_frames=4, crop=32):
    (source,) = open_sources([str(spec)], num_frames=num_frames, crop=crop)
    return source


def test_sources_have_the_weight_behind_their_star(pairs, sharp):
    specs = [f"pairs:{pairs}*0.25", f"synthetic:{sharp}", f"pairs:{pairs}*3"]
    sources = open_sources(specs, num_frames=2, crop=32)
    assert [source.weight for source in sources] == [0.25, 1.0, 3.0]
    assert [type(source) for source in sources] == [PairedSource, SyntheticSource, PairedSource]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("data", "must be given as KIND:PATH or KIND:PATH.WEIGHT with a KIND of synthetic, pa"),
        ("films:data", "got 'films:data'"),
        ("pairs:data*much", "the weight must be a number above 0, got 'much'"),
        ("pairs:data*0", "the weight must be a number above 0, got '0'"),
        ("pairs:data*nan", "the weight must be a number above 0, got 'nan'"),
    ],
)
def test_wrong_specifications_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        open_sources([spec], num_frames=2, crop=32)


def test_no_data_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no training data given"):
        open_sources([], num_frames=2, crop=32)
    for kind in ("synthetic", "pairs", "gopro", "dvd"):
        with pytest.raises(FileNotFoundError, match="none: no such data"):
            open_one(f"{kind}:{tmp_path / 'none'}")


def test_pairs_are_read_when_they_are_needed(pairs):
    source = open_one(f"pairs:{pairs}")
    assert source.sizes == ((40, 56), (60, 44))
    path = source.sequences[0].sharp[2]
    write(path, seed=77)
    (frame,) = read_frames([path], source.sizes[0])
    assert np.array_equal(frame, cv2.cvtColor(picture(77), cv2.COLOR_BGR2RGB))
    write(path, size=(40, 57))
    with pytest.raises(ValueError, match=r"2\.png: has changed its size since"):
        list(read_frames([path], source.sizes[0]))


def test_deep_and_transparent_frames_become_8_bit_rgb(tmp_path):
    deep = np.full((8, 9, 4), 257 * 100, np.uint16)
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    (frame,) = read_frames([tmp_path / "deep.png"], (8, 9))
    assert frame.shape == (8, 9, 3)
    assert frame.dtype == np.uint8
    assert (frame == 100).all()


def test_the_train_split_of_what_is_published_is_taken(pairs, monkeypatch):
    published = {"train": {"a": 4}, "test": {"b": 4}}
    monkeypatch.setattr(datasets, "PUBLISHED", {"gopro": published})
    shutil.move(pairs / "a", pairs / "train" / "a")
    source = open_one(f"gopro:{pairs}*2")
    assert [sequence.name for sequence in source.sequences] == ["a"]
    assert source.weight == 2


def test_sequences_that_are_too_short_are_named(pairs):
    with pytest.raises(ValueError, match="sequence a has 4 frames, but clips have 5"):
        open_one(f"pairs:{pairs}", num_frames=5)


def test_frames_without_partner_are_named(pairs):
    (pairs / "b" / "sharp" / "2.jpg").unlink()
    with pytest.raises(ValueError, match="b: frame 2 is in only one of blur/ and sharp/"):
        open_one(f"pairs:{pairs}")


@pytest.mark.parametrize("place", ["a/sharp/3.png", "b/blur/1.jpg"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_damaged_frames_are_named(pairs, place, damage):
    data = bytearray((pairs / place).read_bytes())
    if damage == "truncated":
        del data[-100:]
    else:
        noise = np.random.default_rng(0).integers(0, 256, 600, dtype=np.uint8)
        data[len(data) // 2 : len(data) // 2 + 600] = noise.tobytes()
    (pairs / place).write_bytes(data)
    with pytest.raises(ValueError, match=r"replace or remove it$") as caught:
        open_one(f"pairs:{pairs}")
    assert str(caught.value).startswith(f"{pairs / place}: ")


def test_frames_of_another_size_are_named(pairs):
    path = write(pairs / "a" / "sharp" / "2.png", size=(40, 58))
    with pytest.raises(ValueError, match=r"2\.png: is 58x40, but .*0\.png is 56x40") as caught:
        open_one(f"pairs:{pairs}")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("size", [(1, 1), (40, 31)])
def test_frames_smaller_than_the_crop_are_named(pairs, size):
    for kind in ("blur", "sharp"):
        write(pairs / "c" / kind / "0.png", size=size)
    message = rf"0\.png: is {size[1]}x{size[0]}, too small for clips of 32x32"
    with pytest.raises(ValueError, match=message):
        open_one(f"pairs:{pairs}", num_frames=1)


def test_photos_and_runs_of_video_are_held_in_memory(sharp):
    source = open_one(f"synthetic:{sharp}", num_frames=8)
    shutil.rmtree(sharp)
    assert [tuple(photo.shape) for photo in source.photos] == [(1, 40, 56, 3), (1, 50, 70, 3)]
    assert np.array_equal(source.photos[0][0], cv2.cvtColor(picture(), cv2.COLOR_BGR2RGB))
    assert [tuple(run.shape) for run in source.runs] == [(16, 40, 56, 3)] * 2


def test_runs_are_as_long_as_clips(sharp):
    source = open_one(f"synthetic:{sharp}", num_frames=20)
    assert [len(run) for run in source.runs] == [20, 20]
    with pytest.raises(ValueError, match=r"film\.mp4: has 40 frames, but clips have 41"):
        open_one(f"synthetic:{sharp}", num_frames=41)


def test_unusable_sharp_files_are_named(sharp):
    with pytest.raises(ValueError, match=r"a\.png: is 56x40, too small for clips of 41x41"):
        open_one(f"synthetic:{sharp}", crop=41)
    (sharp / "clips" / "bad.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"bad\.mp4: cannot be read as a video"):
        open_one(f"synthetic:{sharp}")
    (sharp / "photos" / "bad.jpg").write_text("no photo")
    with pytest.raises(ValueError, match=r"bad\.jpg: cannot be read as an image; replace"):
        open_one(f"synthetic:{sharp}")
    shutil.rmtree(sharp / "photos")
    shutil.rmtree(sharp / "clips")
    with pytest.raises(ValueError, match="sharp: no photos/ or clips/ to train on"):
        open_one(f"synthetic:{sharp}")


def test_files_that_are_left_out_are_said_to_be(sharp, caplog, monkeypatch):
    write(sharp / "photos" / "c.webp")
    write(sharp / "photos" / "holiday" / "d.png")
    (sharp / "photos" / "e.psd").touch()
    (sharp / "photos" / ".DS_Store").touch()
    (sharp / "clips" / "film.mp4").rename(sharp / "clips" / "film.M4V")
    monkeypatch.setenv("HOME", str(sharp))
    source = open_one("synthetic:~")
    assert (len(source.photos), len(source.runs)) == (3, 2)
    # Other tests may have turned on messages of less weight.
    (warning,) = (r.message for r in caplog.records if r.levelname == "WARNING")
    assert "photos: 2 of 5 files and folders are left out, as e.psd is; read are" in warning


def test_a_video_that_is_cut_off_is_named(sharp, caplog):
    writer = cv2.VideoWriter_fourcc(*"MJPG")
    path = sharp / "clips" / "long.avi"
    video = cv2.VideoWriter(str(path), writer, 30, (56, 40))
    for index in range(40):
        video.write(picture(index))
    video.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert len(open_one(f"synthetic:{sharp}").runs) > 2
    assert [m for m in caplog.messages if "long.avi: is cut off or damaged, only" in m]
