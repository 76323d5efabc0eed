from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from video_deblur.training.config import DataConfig
from video_deblur.training.data import TrainingData

CONFIG = DataConfig(num_frames=3, crop=32, compressed_share=0.0)


def write(path, size=(48, 56), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.GaussianBlur(pixels, (5, 5), 0))


@pytest.fixture
def folder(tmp_path):
    for seed in range(2):
        write(tmp_path / "photos" / f"{seed}.png", seed=seed)
    for index in range(4):
        for kind in ("blur", "sharp"):
            write(tmp_path / "pairs" / "a" / kind / f"{index}.png", seed=index)
    return tmp_path


def test_the_same_generator_draws_the_same_batch(folder):
    data = TrainingData(folder)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed + torch.randint(1000, ()).item())
        return (*data.clips(3, CONFIG, generator), data.images(2, 32, generator))

    first, again, other = draw(1), draw(1), draw(2)
    for one, two, three in zip(first, again, other, strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_batches_have_the_promised_form(folder):
    data = TrainingData(folder)
    generator = torch.Generator().manual_seed(0)
    blurry, sharp = data.clips(2, CONFIG, generator)
    for clips in (blurry, sharp):
        assert clips.shape == (2, 3, 3, 32, 32)
        assert clips.min() >= 0
        assert clips.max() <= 1
    images = data.images(5, 40, generator)
    assert images.shape == (5, 3, 40, 40)
    assert (len(data.photos), len(data.runs), len(data.pairs)) == (2, 0, 1)


def test_folders_without_data_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such data folder"):
        TrainingData(tmp_path / "none")
    with pytest.raises(ValueError, match="no photos/ or clips/ to train on"):
        TrainingData(tmp_path)


@pytest.mark.parametrize("place", ["photos/bad.png", "pairs/a/blur/1.png"])
def test_files_that_are_no_images_are_named(folder, place):
    (folder / place).write_text("no image")
    with pytest.raises(ValueError, match=r"cannot be read as an image; remove") as caught:
        TrainingData(folder)
    assert str(folder / place) in str(caught.value)


def test_videos_that_cannot_be_read_are_named(folder):
    (folder / "clips").mkdir()
    (folder / "clips" / "bad.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"bad\.mp4: cannot be read as a video"):
        TrainingData(folder)


def test_frames_without_partner_are_named(folder):
    (folder / "pairs" / "a" / "sharp" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"a: blur/ and sharp/ do not match \(2\.png\)"):
        TrainingData(folder)


def test_pairs_of_different_size_are_named(folder):
    write(folder / "pairs" / "a" / "sharp" / "2.png", size=(20, 20))
    with pytest.raises(ValueError, match=r"pairs.a.*size"):
        TrainingData(folder)
