from __future__ import annotations

import torch
from video_deblur.benchmarks.activations import Alive, count_activations
from video_deblur.models.config import UNet3DConfig


def test_tensors_count_while_something_refers_to_them():
    given = torch.empty(1000, device="meta")
    with torch.no_grad(), Alive() as alive:
        first = given + 1
        view = first[:10].reshape(2, 5)
        del first
        second = given.view(10, 100) * 2
        assert alive.peak == 2 * 4000
        del view
        third = second + 1
        assert alive.peak == 2 * 4000
        fourth = third + 1
        assert alive.peak == 3 * 4000
    assert fourth.shape == (10, 100)


def test_the_full_size_network_needs_what_the_estimate_of_the_nodes_says():
    config = UNet3DConfig(in_channels=8)
    each = count_activations(config, 16, 32) / (16 * 32 * 32 * 320)
    assert 100 < each < 110
    assert count_activations(config, 2, 32) * 8 == count_activations(config, 16, 32)
