from __future__ import annotations

import pytest
import torch
from torch import nn
from video_deblur.models.config_fields import ConfigError
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig, to_luma


def small(**changes):
    torch.manual_seed(0)
    values = {"channels": 8, "num_units": 2, "head_channels": 16, **changes}
    return DblrNet(DblrNetConfig(**values)).eval()


def test_the_paper_s_size_has_as_many_values_as_its_layers_add_up_to():
    network = DblrNet(DblrNetConfig(), device="meta")
    convolutions = {name: p for name, p in network.named_parameters() if "norm" not in name}
    # With their biases; here those before a normalisation have none.
    expected = 448 + 27_712 + 30 * 36_928 + 147_712 + 590_080 + 2_305
    assert sum(p.numel() for p in convolutions.values()) == expected - 30 * 64


@pytest.mark.parametrize(("channels", "head_channels"), [(64, 32), (128, 16), (16, 128)])
def test_memory_is_reserved_for_the_widest_layers(grown_memory_bytes, channels, head_channels):
    setup = (
        "import torch\n"
        "from video_deblur.models.dblrnet import DblrNet, DblrNetConfig\n"
        "config = DblrNetConfig(\n"
        "    channels=int(sys.argv[1]), head_channels=int(sys.argv[2]), num_units=2\n"
        ")\n"
        "network = DblrNet(config).eval().requires_grad_(False)\n"
        "frames = torch.rand(5, 3, 512, 512)\n"
        "network.restore_frames(frames[..., :16, :16])"
    )
    arguments = (channels, head_channels)
    (grown,) = grown_memory_bytes(
        "network.restore_frames(frames)", arguments=arguments, setup=setup
    )
    config = DblrNetConfig(channels=channels, head_channels=head_channels)
    estimate = DblrNet(config, device="meta").bytes_per_pixel * 512 * 512
    assert estimate / 2 < grown < estimate


def test_one_frame_comes_out_of_five():
    assert small()(torch.rand(2, 5, 20, 24)).shape == (2, 1, 20, 24)
    with pytest.raises(ValueError, match="takes 5 frames, got 4"):
        small()(torch.rand(2, 4, 20, 24))


@pytest.mark.parametrize("input_skip", [False, True])
def test_a_run_of_frames_equals_its_windows(randomise, input_skip):
    network = randomise(small(input_skip=input_skip), 0.1, add=True)
    luma = torch.rand(2, 9, 20, 24)
    with torch.no_grad():
        windows = [network(luma[:, i : i + 5]) for i in range(5)]
        torch.testing.assert_close(network(luma), torch.cat(windows, dim=1), atol=1e-5, rtol=0)


def test_without_batch_normalisation_training_and_evaluation_are_one(randomise):
    network = randomise(small(batch_norm=False), 0.1, add=True)
    assert not any("norm" in name for name in network.state_dict())
    luma = torch.rand(2, 5, 20, 24)
    with torch.no_grad():
        assert torch.equal(network.train()(luma), network.eval()(luma))


def test_every_frame_of_the_five_counts():
    network, luma = small(), torch.rand(1, 5, 20, 24)
    whole = network(luma)
    for index in range(5):
        changed = luma.clone()
        changed[:, index] += 0.1
        assert not torch.allclose(network(changed), whole)


def test_with_the_skip_an_untrained_network_returns_its_input():
    around = torch.rand(5, 3, 20, 24)
    with torch.no_grad():
        restored = small(input_skip=True).restore_frame(around)
    torch.testing.assert_close(restored, around[2], atol=1e-6, rtol=0)


def test_restoring_keeps_chroma():
    network = small(input_skip=True)
    torch.nn.init.constant_(network.head3.bias, 0.1)
    around = 0.95 + 0.05 * torch.rand(5, 3, 20, 24)
    with torch.no_grad():
        restored = network.restore_frame(around)
    # Above 1 too: whoever writes the frame clamps it.
    torch.testing.assert_close(restored - around[2], torch.full((3, 20, 24), 0.1))


def test_luma_of_grey_is_grey():
    torch.testing.assert_close(
        to_luma(torch.full((2, 3, 4, 4), 0.4)), torch.full((2, 4, 4), 0.4)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 0}, "channels must be between 1 and 65536, got 0"),
        ({"head_channels": 10**6}, "head_channels must be between"),
        ({"num_units": 0}, "num_units must be between 1 and 128, got 0"),
        ({"num_units": 129}, "num_units must be between 1 and 128, got 129"),
    ],
)
def test_a_config_is_checked_when_made(values, message):
    with pytest.raises(ConfigError, match=message):
        DblrNetConfig(**values)


def test_batch_normalisation_is_pytorch_s_where_the_operations_have_none():
    class Operations:
        Conv2d, Conv3d = nn.Conv2d, nn.Conv3d

    network = DblrNet(DblrNetConfig(channels=8, num_units=1), operations=Operations)
    assert type(network.units[0].norm1) is nn.BatchNorm2d
