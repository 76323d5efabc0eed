"""Frames on their way to the device and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.restoration import frames as module
from video_deblur.restoration.frames import ArrayFrames, TensorFrames, rounded, to_array
from video_deblur.video.pixels import to_float, to_uint8, to_uint16

CPU = torch.device("cpu")


@pytest.mark.parametrize(("dtype", "quantise"), [(np.uint8, to_uint8), (np.uint16, to_uint16)])
def test_every_integer_comes_back_as_it_was(dtype, quantise):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    pixels = np.stack([levels, levels[::-1], levels], axis=-1)[None]
    colors = ArrayFrames([pixels], CPU).colors(0, 1)
    assert colors.dtype == torch.float32
    assert np.array_equal(colors[0].numpy(), to_float(pixels))
    back = to_array(rounded(colors[0], np.dtype(dtype)))
    assert back.dtype == dtype
    assert np.array_equal(back, pixels)
    values = torch.rand(50, 60, 3)
    difference = to_array(rounded(values, np.dtype(dtype))).astype(int)
    difference -= quantise(values.numpy())
    # Halfway between two levels of 16 bits, float32 may take the other one.
    assert np.abs(difference).max() <= (dtype == np.uint16)
    assert np.mean(difference != 0) < 0.01


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("most", [0, 2**29])
def test_frames_of_files_go_up_once_unless_they_are_too_many(monkeypatch, dtype, most):
    monkeypatch.setattr(module, "_MOST_KEPT_BYTES", most)
    arrays = [np.full((8, 6, 4), index, dtype) for index in range(5)]
    with PretendedDevice("cuda") as device:
        frames = ArrayFrames(arrays, device.device)
        assert (len(frames), frames.size) == (5, (8, 6))
        for _ in range(2):
            colors = frames.colors(1, 4)
        assert colors.device.type == "cuda"
        assert colors.shape == (3, 8, 6, 3)
        assert device.counts["uploads"] == (3 if most else 6)
        # As the integers they are, without alpha.
        each = 8 * 6 * 3 * np.dtype(dtype).itemsize / 1e6
        assert device.megabytes["uploads"] == pytest.approx(each * device.counts["uploads"])


def test_frames_in_memory_are_read_where_they_are():
    clip = torch.rand(4, 5, 6, 4)
    frames = TensorFrames(clip, CPU)
    assert torch.equal(frames.colors(1, 3), clip[1:3, ..., :3])
    assert (len(frames), frames.size) == (4, (5, 6))
