"""Icon and banner have the sizes of the registry, before on the left and after on the right."""

from __future__ import annotations

import numpy as np
from video_deblur.benchmarks.registry_pictures import BANNER_SIZE, ICON_SIDE, banner, icon

BLURRY = np.full((256, 256, 3), 40, np.uint8)
RESTORED = np.full((256, 256, 3), 200, np.uint8)


def test_the_icon_is_half_and_half():
    picture = icon(BLURRY, RESTORED)
    assert picture.shape == (ICON_SIDE, ICON_SIDE, 3)
    assert (picture[:, :190] == 40).all()
    assert (picture[:, 210:] == 200).all()


def test_the_banner_has_words_left_of_the_picture():
    picture = banner(BLURRY, RESTORED)
    assert picture.shape == (*BANNER_SIZE, 3)
    words, shown = np.split(picture, [BANNER_SIZE[1] - BANNER_SIZE[0]], axis=1)
    assert (words > 200).any()
    assert (words[:, -20:] == words[0, 0]).all()
    assert (shown[:, :260] == 40).all()
    assert (shown[:, 280:] == 200).all()
