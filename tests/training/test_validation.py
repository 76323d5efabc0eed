"""Validation pairs as they lie on disk."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from video_deblur.training.config import DataConfig
from video_deblur.training.validation import ValidationClips

CONFIG = DataConfig(num_frames=3, crop=32)


@pytest.fixture
def pairs(tmp_path):
    for kind in ("blur", "sharp"):
        folder = tmp_path / "pairs" / "street" / kind
        folder.mkdir(parents=True)
        for index in range(3):
            cv2.imwrite(str(folder / f"{index}.png"), np.full((40, 48, 3), 120, np.uint8))
    return tmp_path / "pairs"


def open_clips(pairs):
    return ValidationClips(f"pairs:{pairs}", CONFIG, pairs.parent / "run")


@pytest.mark.parametrize("kind", ["blur", "sharp"])
def test_frames_of_another_size_are_named_before_training(pairs, kind):
    path = pairs / "street" / kind / "1.png"
    cv2.imwrite(str(path), np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"{kind}.1\.png: is of another size than .*0\.png"):
        open_clips(pairs)


def test_damaged_frames_are_named_before_training(pairs):
    path = pairs / "street" / "sharp" / "2.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"sharp.2\.png: is damaged \(its end is missing\)"):
        open_clips(pairs)


def test_frames_of_different_depth_are_equally_bright(pairs):
    path = pairs / "street" / "blur" / "1.png"
    cv2.imwrite(str(path), np.full((40, 48, 3), 120 * 257, np.uint16))
    ((blurry, sharp),) = open_clips(pairs).clips
    assert torch.allclose(blurry, sharp, atol=1e-4)
