"""Blur synthesised and clips finished on devices that are not there.

On pretended devices. Covered: that no operation mixes devices, that nothing
needs what Apple's GPUs lack, that noise is drawn by the device's generator. Not covered: the
devices' own kernels and random numbers, which differ from the CPU's; memory; H.264, which is
computed in threads that know of no pretended device.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from einops import rearrange
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.synthesis.motion_blur import (
    ShakeConfig,
    average_frames,
    degrade,
    shake_clips,
)
from video_deblur.training.config import DataConfig
from video_deblur.training.data.clips import draw_clip, finish_clips
from video_deblur.training.data.sources import SyntheticSource

KINDS = ["cuda", "mps"]
SHAKE = ShakeConfig(foreground_probability=1.0, sharp_probability=0.0, max_sub_frames=8)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def pixels(*shape: int) -> torch.Tensor:
    """Smooth pictures: devices enlarge in float, the CPU in 8 bits."""
    coarse = torch.rand(*shape[:-2], 4, 4, generator=torch.Generator().manual_seed(3))
    fine = torch.nn.functional.interpolate(coarse.flatten(0, -4), shape[-2:], mode="bilinear")
    return (fine.reshape(shape) * 255).round().byte()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["photos", "clips", "in front"])
def test_clips_are_shaken_about_as_on_the_cpu(case, kind):
    sources = pixels(2, 3 if case == "clips" else 1, 3, 60, 70)
    fronts = pixels(2, 3, 40, 44) if case == "in front" else None
    expected = shake_clips(sources, 3, (32, 36), SHAKE, generators(2), fronts)
    with PretendedDevice(kind) as pretended:
        moved = None if fronts is None else fronts.to(pretended.device)
        found = shake_clips(
            sources.to(pretended.device), 3, (32, 36), SHAKE, generators(2), moved
        )
        assert pretended.counts["downloads"] == pretended.counts["waits"] == 0
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.device == pretended.device
            torch.testing.assert_close(ours.cpu(), theirs, atol=2 / 255, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_averaged_as_on_the_cpu(kind):
    frames = pixels(5, 3, 20, 22)
    expected = average_frames(frames, 3, response=1)
    with PretendedDevice(kind) as pretended:
        found = average_frames(frames.to(pretended.device), 3, response=1)
        assert pretended.counts["downloads"] == pretended.counts["waits"] == 0
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_drawn_where_the_clips_are(kind):
    clips = torch.full((2, 2, 3, 8, 8), 0.5)
    expected = degrade(clips, generators(2), noise_probability=1.0)
    with PretendedDevice(kind) as pretended:
        noisy = degrade(clips.to(pretended.device), generators(2), noise_probability=1.0)
        # The pretended generator draws what the CPU's does.
        assert torch.equal(noisy.cpu(), expected)
        assert pretended.counts == {"uploads": 1, "downloads": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training_clip_is_finished_on_the_device(kind):
    source = SyntheticSource(
        root=Path(),
        weight=1.0,
        photos=tuple(rearrange(pixels(2, 3, 180, 190), "n c h w -> n 1 h w c")),
        runs=(rearrange(pixels(4, 3, 180, 190), "t c h w -> t h w c").contiguous(),),
    )
    config = DataConfig(num_frames=3, crop=32, compressed_share=0.0, noise_share=0.0)
    config = dataclasses.replace(config, shake=SHAKE)
    drawn = [draw_clip(source, config, generator) for generator in generators(8)]
    # Photos with something in front, runs of frames, sharp runs.
    assert len({(c.shot is None, c.foreground is None) for c in drawn}) == 3
    expected = finish_clips(drawn, "cpu")
    with PretendedDevice(kind) as pretended:
        found = finish_clips(drawn, pretended.device)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.device == pretended.device
            torch.testing.assert_close(ours.cpu(), theirs, atol=2 / 255, rtol=0)
