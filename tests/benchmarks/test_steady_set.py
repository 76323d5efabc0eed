"""Pairs in which every frame is blurred: made from sharp frames, alike each time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from video_deblur.benchmarks import steady_set
from video_deblur.benchmarks.steady_set import NUM_FRAMES, SEQUENCES, SIZE, Filmed, Moving, make
from video_deblur.synthesis.camera_response import to_display, to_linear

SPEED = 4


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of noise, and a clip of it that moves `SPEED` pixels per frame to the left."""
    folder = tmp_path_factory.mktemp("pairs")
    noise = np.random.default_rng(3).integers(0, 255, (64, 120, 3)).astype(np.uint8)
    wide = cv2.resize(noise, (480, 256), interpolation=cv2.INTER_CUBIC)
    for name in ("photo_a", "photo_b", "clip"):
        (folder / name / "sharp").mkdir(parents=True)
        for index in range(NUM_FRAMES + 2):
            start = SPEED * index if name == "clip" else 0
            frame = wide[:, start : start + 256]
            cv2.imwrite(str(folder / name / "sharp" / f"{index:06d}.png"), frame)
    return folder


def blur_lengths(blurry: np.ndarray, sharp: np.ndarray) -> list[float]:
    """How much of the horizontal detail each frame lost."""

    def detail(frame: np.ndarray) -> float:
        return float(np.abs(np.diff(frame.astype(np.float64), axis=1)).mean())

    return [detail(b) / detail(s) for b, s in zip(blurry, sharp, strict=True)]


def test_every_frame_of_a_pan_is_blurred_and_the_same_each_time(pairs: Path) -> None:
    pan = Filmed(photo="photo_a", camera=steady_set.pan(6, 0), exposure=1.0)
    blurry, sharp = make(pan, pairs)
    assert blurry.shape == sharp.shape == (NUM_FRAMES, *SIZE, 3)
    assert max(blur_lengths(blurry, sharp)) < 0.85
    again, _ = make(pan, pairs)
    assert np.array_equal(blurry, again)


def test_a_thing_in_front_moves_where_the_ground_rests(pairs: Path) -> None:
    still = steady_set.walk(0, 0)
    scene = Filmed(
        photo="photo_a",
        camera=still,
        exposure=1.0,
        front="photo_b",
        front_motion=steady_set.pan(6, 0),
    )
    blurry, sharp = make(scene, pairs)
    middle, corner = slice(60, 100), slice(0, 20)
    lost = np.abs(blurry.astype(int) - sharp).mean((0, 3))
    assert lost[corner, corner].mean() < 1
    assert lost[middle, 70:120].mean() > 5


def test_a_clip_is_blurred_along_its_own_motion(pairs: Path) -> None:
    blurry, sharp = make(Moving(clip="clip", exposure=1.0), pairs)
    assert blurry.shape == sharp.shape == (NUM_FRAMES, *SIZE, 3)
    # A box as wide as the motion, in linear light.
    response = torch.tensor([0])
    picture = torch.from_numpy(sharp[5]).permute(2, 0, 1).contiguous()[None]
    light = to_linear(picture, response)
    box = torch.full((3, 1, 1, SPEED + 1), 1 / SPEED)
    box[..., 0] = box[..., -1] = 0.5 / SPEED
    mean = F.conv2d(light, box, padding=(0, SPEED // 2), groups=3)
    expected = 255 * to_display(mean, response)[0].permute(1, 2, 0).numpy()
    inside = (slice(10, -10), slice(10, -10))
    assert np.abs(expected - blurry[5])[inside].mean() < 2
    assert np.abs(sharp[5].astype(np.float32) - blurry[5])[inside].mean() > 8


def test_a_clip_that_is_too_short_is_named(pairs: Path) -> None:
    with pytest.raises(ValueError, match=r"has 14 frames, 17 are needed"):
        make(Moving(clip="clip", exposure=1.0, start=3), pairs)


def test_the_set_has_every_kind_of_motion() -> None:
    assert len(SEQUENCES) >= 8
    assert all(0.7 <= sequence.exposure <= 1 for sequence in SEQUENCES.values())
    kinds = {name.split("_")[0] for name in SEQUENCES}
    assert kinds == {"pan", "walk", "object", "moving"}
