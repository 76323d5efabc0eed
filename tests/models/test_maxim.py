from __future__ import annotations

import pytest
import torch
from video_deblur.models import inference_layers
from video_deblur.models.config_fields import ConfigError
from video_deblur.models.maxim import Maxim, MaximConfig, pad_to_multiple
from video_deblur.models.maxim_blocks import PositionMixing

from ..conftest import SMALL_MAXIM_CONFIG


def build(**options):
    torch.manual_seed(0)
    return Maxim(SMALL_MAXIM_CONFIG, **options).eval().requires_grad_(False)


def test_the_default_has_as_many_values_as_maxim_3s():
    network = Maxim(MaximConfig(), device="meta")
    # 22.2 million in the paper (22_207_605 published); fewer where layers in a row are one.
    assert sum(p.numel() for p in network.parameters()) == 21_687_765
    assert network.config.size_multiple == 64


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (20, 24), (1, 3), (9, 70)])
def test_frames_of_any_size_are_restored(height, width):
    network = build()
    frames = torch.rand(2, 3, height, width)
    restored = network(frames)
    assert (restored.shape, restored.dtype) == (frames.shape, torch.float32)
    assert restored.isfinite().all()
    assert not torch.allclose(restored, frames)


def test_each_frame_is_restored_by_itself(assert_same):
    network, frames = build(), torch.rand(3, 3, 16, 24)
    together = network(frames)
    for index in range(3):
        alone = network.restore_frame(frames[index : index + 1])
        assert_same(alone, together[index])


def test_the_same_frame_gives_the_same_result():
    network, frames = build(), torch.rand(1, 3, 16, 24)
    assert torch.equal(network(frames), network(frames))


def test_every_pixel_depends_on_the_farthest_one():
    network = build()
    assert network.reach is None
    frames = torch.rand(1, 3, 64, 64)
    changed = frames.clone()
    changed[..., -1, -1] += 1
    assert not torch.equal(network(changed)[..., 0, 0], network(frames)[..., 0, 0])


def test_every_weight_learns():
    network = build().requires_grad_(True)
    for name, parameter in network.named_parameters():
        if name.endswith("squeeze.bias"):
            parameter.data.fill_(1)  # no ReLU that is never on
    network(torch.rand(1, 3, 16, 24)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_it_learns_to_undo_a_known_change():
    torch.manual_seed(0)
    network = Maxim(SMALL_MAXIM_CONFIG)
    sharp = torch.rand(2, 3, 16, 16)
    blurry = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1, count_include_pad=False)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        loss = (network(blurry) - sharp).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * float((blurry - sharp).square().mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype, assert_same):
    network = build(operations=inference_layers)
    frames = torch.rand(1, 3, 16, 24)
    exact = network(frames) - frames
    with torch.autocast("cpu", dtype):
        assert_same(network(frames) - frames, exact, dtype)


def test_the_layers_of_inference_give_the_same(assert_same):
    plain = build()
    fast = build(operations=inference_layers)
    frames = torch.rand(1, 3, 16, 24)
    assert_same(fast(frames), plain(frames))


def test_blocks_mix_neighbours_and_the_grid_mixes_parts_of_the_frame():
    make = {"device": None, "dtype": None, "operations": torch.nn}
    features = torch.zeros(1, 12, 8, 3)
    for axis, rows, columns in (
        ("block", range(4, 8), range(4)),
        ("grid", range(1, 12, 3), range(0, 8, 2)),
    ):
        mixing = PositionMixing(4, axis, **make)
        changed = features.clone()
        changed[0, 4, 2, 1] = 1
        difference = (mixing(changed) - mixing(features)).abs()
        expected = torch.zeros(12, 8, dtype=torch.bool)
        expected[torch.tensor([*rows])[:, None], torch.tensor([*columns])] = True
        assert torch.equal(difference[0, ..., 1] > 0, expected)
        assert not difference[..., [0, 2]].any()


def test_padding_reflects_where_the_frame_is_large_enough():
    frames = torch.arange(30.0).reshape(1, 1, 5, 6)
    padded, top, left = pad_to_multiple(frames, 8)
    assert (padded.shape[2:], top, left) == ((8, 8), 1, 1)
    assert torch.equal(padded[0, 0, 0, 1:7], frames[0, 0, 1])
    assert torch.equal(padded[0, 0, 1:6, 7], frames[0, 0, :, 4])
    line, _, _ = pad_to_multiple(torch.tensor([[[[1.0, 2.0]]]]), 8)
    assert line[0, 0].tolist() == [[1, 1, 1, 1, 2, 2, 2, 2]] * 8
    whole, top, left = pad_to_multiple(torch.rand(1, 3, 16, 8), 8)
    assert (whole.shape[2:], top, left) == ((16, 8), 0, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_stages": 0}, "num_stages must be between 1 and 8, got 0"),
        ({"channels": ()}, "one entry per level, at most 6, got 0 and 3"),
        ({"channels": (8,) * 7, "sides": (2,) * 7}, "at most 6, got 7 and 7"),
        ({"sides": (16, 16)}, "one entry per level, at most 6, got 3 and 2"),
        ({"channels": (32, 64, 10**6)}, "channels must be between 1 and 65536"),
        ({"sides": (16, 16, 128)}, "sides must be between 1 and 64, got 128"),
        ({"bottleneck_side": 0}, "bottleneck_side must be between 1 and 64"),
        ({"num_blocks": 17}, "num_blocks must be between 1 and 16, got 17"),
        ({"num_bottlenecks": 0}, "num_bottlenecks must be between 1 and 16"),
        ({"reduction": 33}, r"reduction must be at most the fewest channels \(32\), got 33"),
    ],
)
def test_a_config_is_checked_when_made(values, message):
    with pytest.raises(ConfigError, match=message):
        MaximConfig(**values)
