"""Which frames and pixels count, against what the published code does by hand."""

from __future__ import annotations

import numpy as np
import pytest
from video_deblur.evaluation.protocols import PROTOCOLS, Protocol, find_protocol


def counted(name: str, num_frames: int) -> list[tuple[int, int]]:
    return [(g.start, g.stop) for g in PROTOCOLS[name].groups(num_frames)]


@pytest.mark.parametrize(
    ("name", "num_frames", "expected"),
    [
        ("rgb8", 7, [(0, 7)]),
        ("vrt", 100, [(0, 100)]),
        ("cdvd_tsp", 100, [(2, 98)]),
        ("pvdnet_unaligned", 100, [(1, 100)]),
        # GoPro's lengths in Shift-Net: 2 runs of 48, the rest does not count.
        ("shift_net", 100, [(2, 98)]),
        ("shift_net", 134, [(2, 98)]),
        ("shift_net", 77, [(2, 50)]),
        ("shift_net", 17, [(2, 15)]),
        # GoPro's lengths in BSSTNet, whose code names these last windows one by one.
        ("bsstnet", 100, [(2, 46), (46, 90), (90, 98)]),
        ("bsstnet", 134, [(2, 46), (46, 90), (90, 132)]),
        ("bsstnet", 77, [(2, 46), (46, 75)]),
        ("bsstnet", 48, [(2, 46)]),
        ("bsstnet", 20, [(2, 18)]),
    ],
)
def test_the_frames_that_count(name, num_frames, expected):
    assert counted(name, num_frames) == expected


def test_every_window_protocol_counts_a_frame_once():
    for num_frames in range(5, 200):
        indices = [i for group in PROTOCOLS["bsstnet"].groups(num_frames) for i in group]
        assert indices == list(range(2, num_frames - 2))


def test_a_sequence_too_short_is_named():
    with pytest.raises(ValueError, match=r"cdvd_tsp leaves out 4 frames .* has only 4"):
        PROTOCOLS["cdvd_tsp"].groups(4)


def test_results_are_rounded_as_the_protocol_says():
    frames = np.full((1, 4, 4, 3), 100.4 / 255, np.float32)
    frames[0, 0, 0] = 1.5
    rounded = PROTOCOLS["rgb8"].prepare(frames)
    assert rounded.dtype == np.uint8
    assert rounded[0, 1, 1, 0] == 100
    assert rounded[0, 0, 0, 0] == 255
    kept = PROTOCOLS["shift_net"].prepare(frames)
    assert kept.dtype == np.float32
    assert kept[0, 1, 1, 0] == frames[0, 1, 1, 0]
    assert kept[0, 0, 0, 0] == 1
    from_bytes = PROTOCOLS["shift_net"].prepare(np.full((1, 4, 4, 3), 51, np.uint8))
    assert from_bytes == pytest.approx(0.2)
    assert (PROTOCOLS["rgb8"].data_range, PROTOCOLS["shift_net"].data_range) == (255, 1)


def test_the_border_is_cropped_on_all_sides():
    frames = np.zeros((2, 40, 50, 3), np.uint8)
    frames[:, 4:-4, 4:-4] = 9
    cropped = PROTOCOLS["cdvd_tsp"].prepare(frames)
    assert cropped.shape == (2, 32, 42, 3)
    assert (cropped == 9).all()
    with pytest.raises(ValueError, match=r"crops 16 pixels .* leaves nothing of 50x32"):
        PROTOCOLS["pvdnet_unaligned"].prepare(frames[:, :32])


def test_unknown_names_and_contradictions_are_refused():
    with pytest.raises(ValueError, match=r"must be one of rgb8, vrt, .*, got 'gopro'"):
        find_protocol("gopro")
    for wrong, message in (
        ({"average": "pixels"}, "average must be one of frames"),
        ({"ssim": "luma"}, "ssim must be one of window"),
        ({"average": "windows"}, "needs a window"),
        ({"window": 8, "overlap": 8}, "overlap must be 0 to 7, got 8"),
    ):
        with pytest.raises(ValueError, match=message):
            Protocol(name="mine", source="here", **wrong)
