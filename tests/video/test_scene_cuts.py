from __future__ import annotations

import numpy as np
import pytest
from video_deblur.video.scene_cuts import find_cuts, mark_cuts


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture of a few large coloured areas, as scenes are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 16
    base = rng.integers(20, 200, 3)
    waves = np.sin(
        rows[..., None] * rng.uniform(1, 2, 3) + columns[..., None] + rng.uniform(0, 6)
    )
    return np.clip(base + 50 * waves, 0, 255).astype(np.uint8)


def shot(seed: int, num_frames: int, step: int = 2) -> list[np.ndarray]:
    wide = picture(seed, 48, 64 + step * num_frames)
    return [wide[:, step * index : step * index + 64] for index in range(num_frames)]


@pytest.mark.parametrize(
    "lengths", [[6, 6], [1, 5], [5, 1], [4, 1, 4], [1, 1], [20, 2, 3, 9], [1]]
)
def test_every_shot_is_found_however_short(lengths):
    frames = [frame for seed, length in enumerate(lengths) for frame in shot(seed, length)]
    assert find_cuts(frames) == tuple(np.cumsum(lengths)[:-1])


def test_motion_is_no_cut():
    assert find_cuts(shot(0, 12, step=16)) == ()


def test_noise_that_moves_is_no_cut():
    wide = np.random.default_rng(0).integers(0, 255, (16, 40, 3), np.uint8)
    assert find_cuts([wide[:, index : index + 24] for index in range(16)]) == ()


def test_a_flash_is_no_cut():
    frames = shot(0, 8)
    frames[4] = np.minimum(frames[4].astype(int) + 120, 255).astype(np.uint8)
    assert find_cuts(frames) == ()


def test_a_slow_change_of_light_is_no_cut():
    frame = picture(0).astype(float)
    assert (
        find_cuts([(frame * scale).astype(np.uint8) for scale in np.linspace(1, 0, 12)]) == ()
    )


def test_flat_frames_of_other_colours_are_shots():
    flat = [np.full((8, 8, 3), value, np.uint8) for value in (0, 0, 0, 200, 200, 90)]
    assert find_cuts(flat) == (3, 5)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_every_kind_of_pixels_gives_the_same_cuts(dtype):
    frames = [*shot(0, 4), *shot(1, 4)]
    scale = 257 if dtype == np.uint16 else np.float32(1 / 255)
    assert find_cuts(
        [(frame.astype(np.float32) * scale).astype(dtype) for frame in frames]
    ) == (4,)


def test_alpha_and_any_size_are_taken():
    frames = [np.dstack([frame, frame[..., :1]]) for frame in [*shot(0, 3), *shot(1, 3)]]
    assert find_cuts(frames) == (3,)
    assert find_cuts([np.zeros((1, 3000, 3), np.uint8)] * 3) == ()


def test_one_frame_is_read_ahead_and_all_come_out_in_order():
    frames = shot(0, 5)
    read = []

    def source():
        for index, frame in enumerate(frames):
            read.append(index)
            yield frame

    for index, (frame, _) in enumerate(mark_cuts(source())):
        assert frame is frames[index]
        assert read[-1] == min(index + 1, 4)
    assert list(mark_cuts([])) == []


def test_cuts_do_not_depend_on_where_reading_began():
    frames = [f for seed, n in enumerate([5, 1, 7, 2, 6]) for f in shot(seed, n)]
    cuts = find_cuts(frames)
    for start in range(len(frames) - 3):
        later = find_cuts(frames[start:])
        assert [cut + start for cut in later if cut > 2] == [c for c in cuts if c > start + 2]
