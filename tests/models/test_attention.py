from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models import attention
from video_deblur.models.unet3d import UNet3D


@pytest.mark.parametrize("shape", [None, (7, 1), (7, 2), (1, 2)])
def test_a_batch_too_large_for_a_device_is_attended_in_parts(monkeypatch, shape):
    q, k, v = (torch.randn(7, 2, length, 4) for length in (3, 5, 5))
    bias = None if shape is None else torch.randn(*shape, 3, 5)
    whole = attention.attend(q, k, v, bias)
    sizes = []
    real = attention.F.scaled_dot_product_attention

    def watched(q, *rest, **options):
        sizes.append(len(q))
        return real(q, *rest, **options)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(attention, "MOST_ENTRIES", 3)
    assert torch.equal(attention.attend(q, k, v, bias), whole)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("kind", ["frame", "window", "both"])
def test_a_unet_attends_in_parts_wherever_batches_grow_with_the_tile(
    monkeypatch, small_unet_config, randomise, kind
):
    config = dataclasses.replace(small_unet_config, temporal_attention=kind)
    unet = randomise(UNet3D(config), 0.05, add=True).eval().requires_grad_(False)
    inputs = (torch.randn(1, 8, 6, 20, 20), torch.tensor([500]), torch.randn(1, 2, 16))
    whole = unet(*inputs)
    real, sizes = attention.F.scaled_dot_product_attention, []

    def watched(q, *rest, **options):
        sizes.append(len(q))
        return real(q, *rest, **options)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(attention, "MOST_ENTRIES", 4)
    torch.testing.assert_close(unet(*inputs), whole)
    assert max(sizes) == 4
