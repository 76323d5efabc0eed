from __future__ import annotations

import pytest
import torch
from torch import nn
from video_deblur.models import inference_layers
from video_deblur.models.checkpoint import load_model
from video_deblur.models.layers import TemporalConvLayer


def same_weights(ours, reference):
    ours.load_state_dict(reference.state_dict())
    return ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (3, 7, 24), (0, 24)])
@torch.no_grad()
def test_linear_layers_give_what_torch_gives(assert_same, dtype, bias, shape):
    reference = nn.Linear(24, 40, bias=bias, dtype=dtype)
    ours = same_weights(inference_layers.Linear(24, 40, bias=bias, dtype=dtype), reference)
    x = torch.randn(shape, dtype=dtype)
    if not x.numel():
        assert ours(x).shape == (0, 40)
        return
    assert_same(ours(x), reference(x))
    strided = torch.randn(*shape, 2, dtype=dtype)[..., 0]
    assert_same(ours(strided), reference(strided))


def test_another_interface_of_pytorch_s_own_parts_is_not_used(monkeypatch):
    def without_arguments():
        raise TypeError

    for other in (without_arguments, lambda x, *_: x.new_zeros(2, 4)):
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", other)
        assert inference_layers._find_onednn_linear() is None
    monkeypatch.setattr(inference_layers, "_ONEDNN_LINEAR", None)
    reference = nn.Linear(8, 8)
    ours = same_weights(inference_layers.Linear(8, 8), reference)
    x = torch.randn(2, 8)
    with torch.no_grad():
        assert torch.equal(ours(x), reference(x))


def test_linear_layers_still_have_gradients_and_follow_autocast():
    ours = inference_layers.Linear(8, 8)
    ours(torch.randn(2, 8)).sum().backward()
    assert ours.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(2, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 1, "stride": 2}])
@pytest.mark.parametrize("size", [(1, 4, 4), (2, 9, 7), (2, 24, 32)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@torch.no_grad()
def test_convolutions_give_what_torch_gives_in_the_same_layout(
    assert_same, dtype, options, size, layout
):
    reference = nn.Conv2d(6, 10, 3, **options, dtype=dtype)
    ours = same_weights(inference_layers.Conv2d(6, 10, 3, **options, dtype=dtype), reference)
    count, *extent = size
    x = torch.randn(count, 6, *extent, dtype=dtype).contiguous(memory_format=layout)
    assert_same(ours(x), reference(x))
    assert ours(x).is_contiguous(memory_format=layout)


def test_checkpoints_are_loaded_into_these_layers(make_checkpoint):
    unet = load_model(make_checkpoint()).unet
    assert isinstance(unet.conv_in, inference_layers.Conv2d)
    assert isinstance(unet.time_embedding.linear_1, inference_layers.Linear)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("norm", ["group", "channel"])
@torch.no_grad()
def test_temporal_convolutions_never_leave_the_channels_last_layout(batch, norm):
    layer = TemporalConvLayer(8, norm, 4, device=None, dtype=None, operations=inference_layers)
    layouts = []
    for module in layer.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(
                lambda module, args, out: layouts.extend(
                    x.permute(0, 2, 3, 1).is_contiguous() and x.stride(0) >= x.stride(2)
                    for x in (*args, out)
                )
            )
    x = torch.randn(batch * 3, 8, 4, 5).contiguous(memory_format=torch.channels_last)
    out = layer(x, 3)
    assert layouts == [True] * 8
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_linear_layer_with_gelu_gives_what_both_give(assert_same, monkeypatch, dtype, bias):
    layer = inference_layers.Linear(24, 40, bias=bias, dtype=dtype)
    x = 3 * torch.randn(5, 7, 24, dtype=dtype)
    expected = nn.functional.gelu(layer(x), approximate="tanh")
    assert_same(layer.with_gelu(x), expected)
    assert layer.with_gelu(x[:0]).shape == (0, 7, 40)
    with torch.autocast("cpu", torch.bfloat16):
        fused = layer.with_gelu(x)
        monkeypatch.setattr(inference_layers, "_ONEDNN_LINEAR", None)
        separate = layer.with_gelu(x)
    # Autocast leaves double precision as it is.
    cast = torch.bfloat16 if dtype == torch.float32 else dtype
    assert fused.dtype == separate.dtype == cast
    assert_same(fused, expected, cast)
    assert_same(separate, expected, cast)


def test_a_linear_layer_with_gelu_has_gradients():
    layer = inference_layers.Linear(8, 8)
    layer.with_gelu(torch.randn(2, 8)).sum().backward()
    assert layer.weight.grad is not None
