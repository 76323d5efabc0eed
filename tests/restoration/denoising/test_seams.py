"""No seam where windows and tiles meet, with the bundled checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from video_deblur.benchmarks.seams import border_ratio
from video_deblur.evaluation.demo import DEMO_FOLDER
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import preset_settings
from video_deblur.restoration.streaming.stream import restore_stream
from video_deblur.video.reader import VideoReader


@pytest.fixture(scope="module")
def deblurrer() -> Deblurrer:
    return load_deblurrer("divd-tiny", "cpu", "float32")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """24 frames of 384x256."""
    with VideoReader(DEMO_FOLDER / "street" / "blurry.mp4") as reader:
        return np.stack([frame.pixels for frame in reader])


def test_frames_change_no_more_where_windows_meet_than_elsewhere(deblurrer, clip):
    settings = preset_settings(deblurrer.model.config, "fast", window=8)
    small = clip[:, ::6, ::6]
    moving = np.concatenate([small, small[-2:0:-1]])
    noise = np.random.default_rng(0).normal(0, 2, moving.shape)
    static = np.clip(small[0] + noise, 0, 255).astype(np.uint8)
    for frames in (moving, static):
        restored = np.stack(list(restore_stream(frames, deblurrer, settings)))
        assert border_ratio(restored, 4) <= 1.05 * max(1.0, border_ratio(frames, 4))


def test_tiles_leave_no_grid(deblurrer, clip):
    def both(frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        video = torch.from_numpy(frames.astype(np.float32) / 255)
        whole, tiled = (
            deblurrer.restore(video, preset_settings(deblurrer.model.config, "fast", tile=tile))
            for tile in (16384, 128)
        )
        return whole, tiled

    whole, tiled = both(clip[:1, 32:224, 64:320])
    assert 0 < ((whole - tiled) ** 2).mean() < 10**-4.5
    ramp = np.linspace(60, 190, 256)[None, :, None] + np.zeros((160, 1, 3))
    whole, tiled = both(ramp[None].astype(np.uint8))
    assert (whole - tiled).abs().max() < 1 / 255
