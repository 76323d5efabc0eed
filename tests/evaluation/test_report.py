"""Paired folders and the averages over them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from video_deblur.evaluation.report import evaluate_sequences, read_predictions
from video_deblur.video.datasets import load_dataset


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A sequence of one frame 10 levels off, and one of three frames 5 levels off."""
    for name, count, offset in (("short", 1, 10), ("long", 3, 5)):
        for index in range(count):
            for kind, value in (("sharp", 100), ("blur", 100 + offset)):
                path = tmp_path / name / kind / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), np.full((16, 16, 3), value, np.uint8))
    return tmp_path


def level_psnr(offset: float) -> float:
    return 20 * np.log10(255 / offset)


def test_means_over_frames_and_over_sequences_differ(dataset):
    sequences = load_dataset(f"pairs:{dataset}")
    report = evaluate_sequences(sequences, lambda _, blurry: blurry - 2)
    expected = {"short": level_psnr(8), "long": level_psnr(3)}
    for name, value in expected.items():
        assert report["sequences"][name]["mean"]["psnr"] == pytest.approx(value)
    frames = (expected["short"] + 3 * expected["long"]) / 4
    assert report["mean"]["psnr"] == pytest.approx(frames)
    both = (expected["short"] + expected["long"]) / 2
    assert report["mean_of_sequences"]["psnr"] == pytest.approx(both)
    assert report["mean_of_sequences"]["input_psnr"] == pytest.approx(
        (level_psnr(10) + level_psnr(5)) / 2
    )


def test_a_result_of_another_size_is_named(dataset):
    sequences = load_dataset(f"pairs:{dataset}")
    with pytest.raises(ValueError, match="result is"):
        evaluate_sequences(sequences, lambda _, blurry: blurry[:, :8])


def test_a_missing_result_is_named(dataset, tmp_path):
    (sequence, _) = load_dataset(f"pairs:{dataset}")
    with pytest.raises(FileNotFoundError, match="no result for frame 0"):
        read_predictions(tmp_path / "results", sequence)
