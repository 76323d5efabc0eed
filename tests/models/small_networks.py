"""A small network of every architecture, for tests that hold for all of them."""

from __future__ import annotations

import pytest
import torch
from video_deblur.models.checkpoint import save_checkpoint
from video_deblur.models.registry import ARCHITECTURES, architecture_of

from ..conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG, SMALL_DBLRNET_CONFIG, SMALL_MAXIM_CONFIG

SMALL = {
    "divd": SMALL_CONFIG,
    "dblrnet": SMALL_DBLRNET_CONFIG,
    "maxim": SMALL_MAXIM_CONFIG,
    "cpgd": SMALL_CPGD_CONFIG,
}
every_architecture = pytest.mark.parametrize("name", list(ARCHITECTURES))


def build(config, **options):
    """Build a network in which every weight and statistic does something."""
    network = architecture_of(type(config)).build(config, **options)
    generator = torch.Generator().manual_seed(1)
    for value in (*network.parameters(), *network.buffers()):
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.data = value.data + 0.1 * noise.abs()
    return network.eval().requires_grad_(False)


def write(folder, config, state_dict=None, dtype=torch.float32):
    path = folder / "network.safetensors"
    weights = build(config).state_dict() if state_dict is None else state_dict
    save_checkpoint(path, weights, config, provenance={"steps": 3}, dtype=dtype)
    return path


def first_weight(config):
    return next(iter(build(config).state_dict()))
