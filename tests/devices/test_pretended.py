"""The pretended device refuses what a device refuses, and computes what the CPU computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from video_deblur.benchmarks.pretended_device import PretendedDevice


def test_values_are_those_of_the_cpu_and_come_back():
    with PretendedDevice("cuda") as pretended:
        x = torch.arange(6.0, device="cuda").reshape(2, 3)
        assert x.is_cuda
        assert x.device == torch.device("cuda:0") == (x * 2).device
        assert pretended.counts == {}
        assert torch.equal((x * 2).cpu(), torch.arange(6.0).reshape(2, 3) * 2)
        assert float(x.sum()) == 15
        assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert pretended.counts == {"downloads": 1, "waits": 2}


def test_views_and_changes_in_place_reach_the_same_memory():
    with PretendedDevice("cuda"):
        x = torch.zeros(2, 3).to("cuda")
        x[0, 1:] += 1
        x.view(-1)[0].fill_(5)
        x[1].copy_(torch.ones(3))
        assert x.cpu().tolist() == [[5, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(3) + x,
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, 0.0),
        lambda x: x.mul_(torch.ones(3)),
        lambda x: torch.ones(3).mul_(x),
        lambda x: torch.ones(3)[x.long()],
        lambda x: F.linear(x, torch.ones(2, 3)),
        lambda x: nn.Linear(3, 2)(x),
        lambda x: torch.lerp(x, x, torch.ones(3)),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: torch.randn(3, device="cuda", generator=torch.Generator()),
    ],
)
def test_mixing_devices_is_refused(mix):
    with PretendedDevice("cuda"):
        x = torch.ones(3, device="cuda")
        with pytest.raises((RuntimeError, TypeError)):
            mix(x)


def test_what_cuda_takes_from_the_cpu_is_taken():
    with PretendedDevice("cuda") as pretended:
        x = torch.arange(4.0, device="cuda")
        assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3, 4]
        assert x[torch.tensor([0, 2])].tolist() == [0, 2]
        assert x[[1, 3]].tolist() == [1, 3]
        assert torch.tensor([1.0, 2.0], device="cuda").is_cuda
        assert x.new_tensor([1.0]).is_cuda
        assert pretended.counts["uploads"] == 4
        generator = torch.Generator(device="cuda").manual_seed(1)
        assert torch.randn(3, device="cuda", generator=generator).is_cuda


def test_mps_refuses_float64_and_operations_without_a_kernel():
    with PretendedDevice("mps"):
        x = torch.ones(3, device="mps")
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="float64"):
            torch.ones(3, dtype=torch.float64).to("mps")
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(3, dtype=torch.float64, device="mps")
        # Made in float64 on the host, then rounded there: allowed.
        assert torch.ones(3, dtype=torch.float64).float().to("mps").device.type == "mps"
        with pytest.raises(NotImplementedError, match="linalg_eig"):
            torch.linalg.eig(torch.eye(3, device="mps"))
        grid = torch.zeros(1, 2, 2, 2, device="mps")
        picture = torch.zeros(1, 1, 2, 2, device="mps")
        with pytest.raises(RuntimeError, match="border"):
            F.grid_sample(picture, grid, padding_mode="border", align_corners=True)
        with pytest.raises(RuntimeError, match="bicubic"):
            F.grid_sample(picture, grid, "bicubic", align_corners=True)


def test_networks_are_moved_and_learn():
    torch.manual_seed(0)
    network, copy = (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)) for _ in range(2))
    copy.load_state_dict(network.state_dict())
    x = torch.randn(1, 2, 5, 5)
    copy(x).square().sum().backward()
    with PretendedDevice("cuda"):
        network.to("cuda")
        network(x.to("cuda")).square().sum().backward()
        for ours, theirs in zip(network.parameters(), copy.parameters(), strict=True):
            assert ours.grad.is_cuda
            assert torch.equal(ours.grad.cpu(), theirs.grad)
