from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from video_deblur.restoration.borrowing import filters
from video_deblur.restoration.borrowing.candidates import Frame, Passed


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (45, 160), (33, 7)])
@pytest.mark.parametrize("sigma", [0.8, 2.5, 3.0])
def test_blur_is_a_gaussian_that_repeats_the_edges(size, sigma):
    picture = random(2, 3, *size)
    radius = math.ceil(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    line = (line / line.sum()).expand(3, 1, 1, -1)
    padded = F.pad(picture, (radius,) * 4, mode="replicate")
    expected = F.conv2d(F.conv2d(padded, line, groups=3), line.mT, groups=3)
    torch.testing.assert_close(filters.blurred(picture, sigma), expected)


def test_detail_is_the_difference_of_two_blurs():
    picture = random(1, 1, 50, 70)
    expected = filters.blurred(picture, 0.8) - filters.blurred(picture, 2.5)
    torch.testing.assert_close(filters.detail(picture), expected)


def test_energies_are_squared_changes_along_four_directions():
    picture = random(1, 1, 20, 30)
    kernels = torch.tensor(
        [
            [[0, 0, 0], [-1, 0, 1], [0, 0, 0]],
            [[0, -1, 0], [0, 0, 0], [0, 1, 0]],
            [[-0.7, 0, 0], [0, 0, 0], [0, 0, 0.7]],
            [[0, 0, -0.7], [0, 0, 0], [0.7, 0, 0]],
        ]
    )
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    expected = F.conv2d(padded, kernels[:, None]).square()
    torch.testing.assert_close(filters.change_energies(picture), expected)


@pytest.mark.parametrize("size", [(20, 32), (21, 34), (3, 5)])
def test_shrinking_averages_squares_of_pixels(size):
    picture = random(1, 2, *size)
    expected = F.avg_pool2d(picture, 4, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(filters.shrunk(picture), expected)


@pytest.mark.parametrize("size", [(10, 20), (7, 13), (30, 41)])
def test_areas_of_any_size_are_averaged(size):
    picture = random(1, 1, 27, 36)
    expected = F.interpolate(picture, size=size, mode="area")
    torch.testing.assert_close(filters.shrunk_to(picture, size), expected)


def test_rows_of_an_enlarged_picture_are_those_of_the_whole():
    picture = random(1, 2, 9, 16)
    whole = F.interpolate(picture, size=(35, 61), mode="bilinear")
    torch.testing.assert_close(filters.enlarged(picture, (35, 61), 11, 24), whole[:, :, 11:24])


def test_averages_of_nine_positions_repeat_the_edges():
    picture = random(2, 3, 8, 9)
    expected = F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    torch.testing.assert_close(filters.box_averaged(picture), expected)


def test_red_comes_back_from_luma():
    color = random(1, 3, 8, 9)
    luma = filters.to_luma_(color.clone())
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close(luma[:, 0], (color[0] * weights).sum(0, keepdim=True))
    torch.testing.assert_close(filters.to_red_(luma), color)


def test_luma_of_optical_flow_is_that_of_opencv():
    colors = np.random.default_rng(0).integers(0, 256, (500, 400, 3), np.uint8)
    frame = Frame.of(Passed(torch.from_numpy(colors).float() / 255), "cpu")
    assert np.array_equal(frame.luma.numpy(), cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY))
