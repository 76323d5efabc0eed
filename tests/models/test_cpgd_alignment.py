from __future__ import annotations

import pytest
import torch
from torch import nn
from video_deblur.models.cpgd_alignment import (
    Alignment,
    Neighbours,
    agreement,
    deform_conv,
    reversed_motion,
    sample,
)


def constant(x, y, height=8, width=10):
    return torch.tensor([float(x), float(y)])[None, :, None, None].expand(1, 2, height, width)


def test_sampling_along_motion_finds_what_moved():
    before = torch.rand(1, 3, 8, 10)
    # All moved two to the right and one up: what is here was two to the left, one below.
    now = before.roll((-1, 2), (2, 3))
    found = sample(before, constant(-2, 1))
    torch.testing.assert_close(found[..., :7, 2:], now[..., :7, 2:])
    assert torch.equal(found[..., 7, :], torch.zeros(1, 3, 10)), "from outside"
    assert torch.equal(found[..., :2], torch.zeros(1, 3, 8, 2))
    border = sample(before, constant(-2, 1), "border")
    torch.testing.assert_close(border[..., :7, 0], before[..., 1:, 0])


def test_sampling_between_positions_is_bilinear():
    before = torch.arange(10.0).expand(1, 1, 8, 10)
    found = sample(before, constant(0.25, 0))
    torch.testing.assert_close(found[..., :9], before[..., :9] + 0.25)


def test_reversed_motion_leads_back():
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(1, 2, 3, 3, generator=generator)
    motion = nn.functional.interpolate(coarse, size=(48, 48), mode="bilinear")
    back, valid = reversed_motion(motion, torch.ones(1, 1, 48, 48))
    there_and_back = back + sample(motion, back, "border")
    left = there_and_back.square().sum(1, keepdim=True).sqrt()
    inside = valid > 0.99
    assert inside.float().mean() > 0.6
    assert left[inside].median() < 0.01
    assert left[inside].quantile(0.95) < 0.1
    # Close to the motion turned around, but not that.
    assert (back + motion).square().sum(1).sqrt().mean() > 0.1


def test_reversed_motion_is_not_valid_where_motion_is_not():
    valid = torch.ones(1, 1, 8, 10)
    valid[..., :4] = 0
    _, reversed_valid = reversed_motion(constant(-2, 0), valid)
    # Seen from the frame before, the same columns lie two to the left.
    assert torch.equal(reversed_valid[0, 0, 0], torch.tensor([0.0] * 2 + [1.0] * 6 + [0.0] * 2))


def test_two_ways_that_do_not_meet_do_not_agree():
    assert agreement(constant(3, 1), constant(-3, -1)).all()
    assert agreement(constant(3, 1), constant(-3, -1.5)).all()
    assert not agreement(constant(3, 1), constant(-3, 1)).any()
    # Long ways may miss each other by more.
    assert agreement(constant(40, 0), constant(-37, 0)).all()
    assert not agreement(constant(2, 0), constant(1, 0)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_convolution_is_torchvision_s(dtype, assert_same):
    ops = pytest.importorskip("torchvision.ops")
    groups, out = 4, 6
    x = torch.randn(2, 8, 7, 9, dtype=dtype)
    # Far beyond the borders too.
    offsets = 3 * torch.randn(2, groups, 9, 2, 7, 9, dtype=dtype)
    weights = torch.rand(2, groups, 9, 7, 9, dtype=dtype)
    kernel, bias = torch.randn(out, 8, 3, 3, dtype=dtype), torch.randn(out, dtype=dtype)
    # There y comes before x.
    expected = ops.deform_conv2d(
        x,
        offsets.flip(3).reshape(2, -1, 7, 9),
        kernel,
        bias,
        padding=1,
        mask=weights.reshape(2, -1, 7, 9),
    )
    # Places are computed in float32 whatever the features are.
    assert_same(deform_conv(x, offsets, weights, kernel, bias), expected, torch.float32)


def test_layers_that_bring_their_weights_as_they_run_are_heeded(assert_same):
    """ComfyUI's do, where networks do not fit the device or a patch changes them."""

    class Doubled(nn.Conv2d):
        def forward(self, input):
            return self._conv_forward(input, 2 * self.weight, self.bias)

    class Operations:
        Conv2d = Doubled

    where = {"device": None, "dtype": None}
    plain, doubled = (
        Alignment(4, 2, 5.0, **where, operations=operations).deform
        for operations in (nn, Operations)
    )
    doubled.load_state_dict(plain.state_dict())
    x, offsets = torch.randn(1, 8, 6, 7), torch.randn(1, 2, 9, 2, 6, 7)
    weights = torch.rand(1, 2, 9, 6, 7)
    with torch.no_grad():
        ours, theirs = (each(x, offsets, weights) for each in (doubled, plain))
        bias = plain.bias[:, None, None]
        assert_same(ours - bias, 2 * (theirs - bias))


def test_without_offsets_it_is_a_plain_convolution():
    x, layer = torch.randn(2, 8, 7, 9), nn.Conv2d(8, 6, 3, padding=1)
    found = deform_conv(
        x, torch.zeros(2, 2, 9, 2, 7, 9), torch.ones(2, 2, 9, 7, 9), layer.weight, layer.bias
    )
    torch.testing.assert_close(found, layer(x))


def known(motion1, motion2, height=8, width=10):
    one = torch.ones(1, 1, height, width)
    return Neighbours((motion1, motion2), (one, one), (0.5 * one,) * 3)


def fresh(channels=4, groups=2):
    make = {"device": None, "dtype": None, "operations": nn}
    return Alignment(channels, groups, 5.0, **make)


def test_a_fresh_alignment_samples_at_the_codec_s_motion():
    alignment = fresh()
    with torch.no_grad():
        # A kernel that adds up the middle samples of both frames.
        alignment.deform.weight.zero_()
        alignment.deform.bias.zero_()
        for channel in range(4):
            alignment.deform.weight[channel, channel, 1, 1] = 1
            alignment.deform.weight[channel, 4 + channel, 1, 1] = 1
        first, second = torch.rand(2, 1, 4, 8, 10)
        ways = constant(-2, 1), constant(1, -1)
        aligned = alignment(torch.rand(1, 4, 8, 10), (first, second), known(*ways))
    # Weights of samples start in the middle of 0..1.
    expected = 0.5 * (sample(first, ways[0]) + sample(second, ways[1]))
    torch.testing.assert_close(aligned, expected)


def test_the_residual_of_a_neighbour_weighs_its_samples():
    alignment = fresh()
    features = torch.rand(1, 4, 8, 10)
    maps = known(constant(0, 0), constant(0, 0))
    one = torch.ones(1, 1, 8, 10)
    with torch.no_grad():
        alignment.deform.bias.zero_()
        alignment.deform.weight[:, 4:].zero_()
        results = [
            alignment(features, (features, features), maps._replace(attention=(one, a, b)))
            for a, b in ((0 * one, one), (one, one), (one, 0 * one))
        ]
    # sigmoid(0.1) over sigmoid(-0.1), in the groups that sample the frame before.
    ratio = torch.sigmoid(torch.tensor(0.1)) / torch.sigmoid(torch.tensor(-0.1))
    torch.testing.assert_close(results[1], results[0] * ratio)
    assert torch.equal(results[2], results[1])


def test_offsets_stay_within_their_bound():
    alignment, seen = fresh(), []
    alignment.deform.forward = lambda x, offsets, weights: seen.append(offsets) or x[:, :4]
    with torch.no_grad():
        alignment.leave.bias.fill_(100)
        alignment(
            torch.rand(1, 4, 8, 10),
            (torch.rand(1, 4, 8, 10),) * 2,
            known(constant(7, -3), constant(0, 0)),
        )
    assert torch.allclose(seen[0][:, 0, :, 0], torch.tensor(12.0))
    assert torch.allclose(seen[0][:, 0, :, 1], torch.tensor(2.0))
    assert torch.allclose(seen[0][:, 1], torch.tensor(5.0))
