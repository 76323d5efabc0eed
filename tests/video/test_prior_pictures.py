"""The colour wheel of motion and the grey of the residual."""

from __future__ import annotations

import numpy as np
import pytest
from video_deblur.video.prior_pictures import flow_picture, flow_scale, residual_picture


def color_of(x: float, y: float, scale: float = 10.0, valid: bool = True) -> list[int]:
    motion = np.array([x, y], np.float32).reshape(2, 1, 1)
    return flow_picture(motion, np.full((1, 1, 1), valid), scale)[0, 0].tolist()


@pytest.mark.parametrize(
    ("motion", "color"),
    [
        # As the code of the paper draws them, whose wheel has a seam of one of 55 colours.
        ((10, 0), (255, 0, 0)),
        ((-10, 0), (0, 208, 255)),
        ((0, 10), (255, 229, 0)),
        ((0, -10), (88, 0, 255)),
    ],
)
def test_the_hue_is_the_direction(motion, color):
    assert np.abs(np.array(color_of(*motion)) - color).max() <= 20


def test_the_saturation_is_the_length():
    assert color_of(0, 0) == [255, 255, 255]
    half, full, beyond = color_of(5, 0), color_of(10, 0), color_of(30, 0)
    assert half == [255, pytest.approx(128, abs=1), pytest.approx(128, abs=1)]
    assert full[0] == 255
    assert beyond[0] == pytest.approx(0.75 * 255, abs=1)
    assert max(beyond[1:]) <= max(full[1:])


def test_what_is_not_known_is_black():
    assert color_of(5, 5, valid=False) == [0, 0, 0]


def test_colours_turn_without_a_jump():
    angles = np.linspace(-np.pi, np.pi, 721)
    motion = np.stack([np.cos(angles), np.sin(angles)])[:, None].astype(np.float32)
    row = flow_picture(motion, np.ones((1, 1, 721), bool), 1.001)[0].astype(int)
    assert np.abs(np.diff(row, axis=0)).max() < 10
    assert np.abs(row[0] - row[-1]).max() < 10


def test_full_colour_follows_the_size_of_frames():
    assert flow_scale(720, 1280) == flow_scale(1280, 720) == 32
    assert flow_scale(1, 1) == 1


def test_no_residual_is_grey_and_more_is_brighter():
    residual = np.array([[[0.0, 0.1, -0.1, 1.0, -1.0]]], np.float32)
    grey = residual_picture(residual)
    assert grey.shape == (1, 5, 3)
    assert (grey == grey[..., :1]).all()
    zero, more, less, most, least = grey[0, :, 0].tolist()
    assert (zero, most, least) == (128, 255, 0)
    assert more - zero == pytest.approx(0.1 * 4 * 127, abs=1)
    assert zero - less == pytest.approx(0.1 * 4 * 127, abs=1)
