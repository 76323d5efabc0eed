from __future__ import annotations

import pytest
import torch
from video_deblur.models.dblrnet import DblrNet, to_luma


def small(**changes):
    torch.manual_seed(0)
    return DblrNet(**{"channels": 8, "num_units": 2, "head_channels": 16, **changes}).eval()


def test_the_paper_s_size_has_as_many_values_as_its_layers_add_up_to():
    convolutions = {name: p for name, p in DblrNet().named_parameters() if "norm" not in name}
    # With their biases; here those before a normalisation have none.
    expected = 448 + 27_712 + 30 * 36_928 + 147_712 + 590_080 + 2_305
    assert sum(p.numel() for p in convolutions.values()) == expected - 30 * 64


def test_one_frame_comes_out_of_five():
    assert small()(torch.rand(2, 5, 20, 24)).shape == (2, 1, 20, 24)
    with pytest.raises(ValueError, match="takes 5 frames, got 4"):
        small()(torch.rand(2, 4, 20, 24))


def test_every_frame_of_the_five_counts():
    network, luma = small(), torch.rand(1, 5, 20, 24)
    whole = network(luma)
    for index in range(5):
        changed = luma.clone()
        changed[:, index] += 0.1
        assert not torch.allclose(network(changed), whole)


def test_with_the_skip_an_untrained_network_returns_its_input():
    frames = torch.rand(3, 20, 24, 3)
    with torch.no_grad():
        restored = small(input_skip=True).restore(frames)
    torch.testing.assert_close(restored, frames, atol=1e-6, rtol=0)


def test_restoring_keeps_chroma():
    network = small(input_skip=True)
    torch.nn.init.constant_(network.head3.bias, 0.1)
    frames = 0.3 + 0.3 * torch.rand(3, 20, 24, 3)
    with torch.no_grad():
        restored = network.restore(frames)
    torch.testing.assert_close(restored - frames, torch.full_like(frames, 0.1))


def test_luma_of_grey_is_grey():
    torch.testing.assert_close(
        to_luma(torch.full((2, 3, 4, 4), 0.4)), torch.full((2, 4, 4), 0.4)
    )
