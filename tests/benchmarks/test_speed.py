"""What the speed benchmarks compare is the same computation."""

from __future__ import annotations

import torch
from video_deblur.benchmarks.restoration_speed import (
    GUIDANCE,
    build_networks,
    make_config,
    restore_with_diffusers,
)
from video_deblur.benchmarks.unet_speed import PARTS, REST, WHOLE, compare, make_inputs
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import RestorationSettings

CONFIG = make_config((64, 64, 64, 64))


def test_both_loops_give_the_same_clip(assert_same):
    divd, theirs = build_networks(CONFIG, "cpu", torch.float32)
    frames = torch.rand(3, 64, 64, 3)
    # diffusers steps onto other timesteps than it visits where steps do not divide 1000.
    reference = restore_with_diffusers(divd, theirs, frames, 4, torch.float32)
    settings = RestorationSettings(
        steps=4, guidance_scale=GUIDANCE, borrow=False, scene_cuts=False
    )
    restored = Deblurrer(divd).restore(frames, settings)
    assert_same(restored, reference.clamp(0, 1), torch.float16)  # guidance multiplies rounding
    assert (restored - frames).std() > 0.05


def test_the_times_of_all_kinds_of_blocks_add_up_to_the_whole():
    divd, theirs = build_networks(CONFIG, "cpu", torch.float32)
    inputs = make_inputs(CONFIG.unet, 2, 8, "cpu", torch.float32)
    seconds = compare(divd.unet, theirs.unet, inputs, 1)
    assert set(seconds) == {
        "spatial resnet",
        "temporal convolutions",
        "spatial transformer",
        "temporal transformer",
        "down, up sampling",
        *PARTS.values(),
        REST,
        WHOLE,
    }
    blocks = seconds.keys() - {WHOLE, *PARTS.values()}
    for side in (0, 1):
        whole = seconds[WHOLE][side]
        parts = sum(times[side] for kind, times in seconds.items() if kind in blocks)
        assert 0 < seconds[REST][side] < 0.5 * whole
        assert abs(parts - whole) < 1e-6
