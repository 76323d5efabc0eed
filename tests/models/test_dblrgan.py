from __future__ import annotations

import pytest
import torch
from torch import nn
from video_deblur.models.config_fields import ConfigError
from video_deblur.models.dblrgan import Discriminator, DiscriminatorConfig

SMALL = {"channels": (4, 8), "num_convs": (1, 2), "hidden": (6,)}


def test_the_published_layers_are_fourteen_convolutions_in_four_levels():
    config = DiscriminatorConfig(
        channels=(64, 128, 256, 512), hidden=(4096, 4096), batch_norm=True
    )
    with torch.device("meta"):
        network = Discriminator(config)
    convolutions = [part for part in network.features if isinstance(part, nn.Conv2d)]
    widths = [part.out_channels for part in convolutions]
    assert widths == [64] * 2 + [128] * 3 + [256] * 4 + [512] * 5
    strides = [part.stride[0] for part in convolutions]
    assert [index for index, stride in enumerate(strides) if stride == 2] == [1, 4, 8, 13]
    linear = [part for part in network.head if isinstance(part, nn.Linear)]
    assert [part.out_features for part in linear] == [4096, 4096, 1]


def test_the_default_is_smaller_than_what_it_judges():
    network = Discriminator(DiscriminatorConfig())
    assert sum(p.numel() for p in network.parameters()) < 1.2e6


@pytest.mark.parametrize("norms", [{}, {"spectral_norm": True}, {"batch_norm": True}])
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (40, 32)])
def test_frames_of_any_size_get_a_logit_each(norms, size):
    network = Discriminator(DiscriminatorConfig(**SMALL, **norms))
    if norms.get("batch_norm"):
        network.eval()
    logits = network(torch.rand(3, 1, *size) * 2 - 1)
    assert logits.shape == (3,)
    assert logits.isfinite().all()


def test_signals_keep_their_size_through_all_layers():
    network = Discriminator(DiscriminatorConfig())
    with torch.no_grad():
        logits = network(torch.randn(8, 1, 64, 64))
    assert 0.05 < float(logits.square().mean().sqrt()) < 20


def test_spectral_norm_bounds_every_weight():
    network = Discriminator(DiscriminatorConfig(**SMALL, spectral_norm=True))
    for _ in range(30):
        network(torch.randn(2, 1, 16, 16))
    network.eval()
    for part in (*network.features, *network.head):
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            largest = torch.linalg.matrix_norm(part.weight.detach().flatten(1), 2)
            assert float(largest) < 1.05


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": (4,)}, "channels and num_convs must have as many entries, 1 to 8"),
        ({"channels": (), "num_convs": ()}, "as many entries, 1 to 8, got 0 and 0"),
        ({"num_convs": (2, 3, 4, 0)}, "num_convs must be between 1 and 16, got 0"),
        ({"hidden": (0,)}, "hidden must be between 1"),
    ],
)
def test_a_config_is_checked_when_made(values, message):
    with pytest.raises(ConfigError, match=message):
        DiscriminatorConfig(**values)
