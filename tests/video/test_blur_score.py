from __future__ import annotations

import cv2
import numpy as np
import pytest
from video_deblur.video.blur_score import SHARP_BELOW, measure_blur


def sharp_picture(height: int = 120, width: int = 160) -> np.ndarray:
    """Overlapping discs with clean edges, float32 in 0..1."""
    rng = np.random.default_rng(0)
    canvas = np.full((2 * height, 2 * width, 3), 0.5, np.float32)
    for _ in range(150):
        centre = [int(rng.integers(extent)) for extent in (2 * width, 2 * height)]
        color = [float(value) for value in rng.uniform(0.1, 0.9, 3)]
        cv2.circle(canvas, centre, int(rng.integers(8, 40)), color, -1)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def moved(picture: np.ndarray, pixels: int, *, upright: bool = False) -> np.ndarray:
    return cv2.blur(picture, (1, pixels) if upright else (pixels, 1))


def test_the_score_grows_with_the_motion():
    picture = sharp_picture()
    scores = [measure_blur(moved(picture, pixels)) for pixels in (1, 2, 3, 5, 9)]
    assert scores == sorted(scores)
    assert scores[0] < SHARP_BELOW < scores[2]


@pytest.mark.parametrize("upright", [False, True])
def test_blur_along_one_direction_is_seen(upright):
    assert measure_blur(moved(sharp_picture(), 7, upright=upright)) > 0.8


def test_one_blurry_region_is_seen():
    picture = sharp_picture()
    picture[40:80, 53:107] = moved(picture, 9)[40:80, 53:107]
    assert measure_blur(picture) > SHARP_BELOW


@pytest.mark.parametrize("pixels", [1, 7])
def test_noise_is_not_taken_for_sharpness(pixels):
    picture = moved(sharp_picture(), pixels)
    noise = np.random.default_rng(1).normal(0, 0.02, picture.shape).astype(np.float32)
    assert abs(measure_blur(picture + noise) - measure_blur(picture)) < 0.2


def test_every_kind_of_pixels_gives_the_same_score():
    picture = np.round(sharp_picture() * 255).astype(np.uint8)
    score = measure_blur(picture)
    assert measure_blur(picture.astype(np.uint16) * 257) == pytest.approx(score, abs=1e-5)
    assert measure_blur(picture.astype(np.float32) / 255) == pytest.approx(score, abs=1e-5)
    assert measure_blur(np.dstack([picture, picture[..., :1]])) == score


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (64, 64)])
def test_where_there_is_nothing_to_tell_a_frame_counts_as_blurry(size):
    assert measure_blur(np.full((*size, 3), 90, np.uint8)) == 1
