from __future__ import annotations

import pytest
import torch
from torch import nn
from video_deblur.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_singular_values_end_near_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-4, 1.0, 1e3])[:, None, None]
    result = orthogonalise(matrices)
    assert result.dtype == torch.float32
    values = torch.linalg.svdvals(result)
    # A random square matrix has a singular value near zero, which is lifted but not to one.
    assert float(values.median()) == pytest.approx(1.0, abs=0.3)
    assert float(values.max()) < 1.3
    # Same singular vectors: the product with the input's transpose is symmetric.
    product = result @ matrices.mT / matrices.norm(dim=(1, 2), keepdim=True)
    assert float((product - product.mT).abs().max()) < 0.02


def test_an_update_has_the_size_of_adamws():
    torch.manual_seed(0)
    for shape in ((32, 128), (64, 16, 3, 3)):
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape) * 1e-5
        Muon([parameter], lr=0.1).step()
        rms = float(parameter.detach().square().mean().sqrt())
        # The singular values are not one but 0.7 to 1.2.
        assert 0.7 < rms / (0.2 * 0.1) < 1.2


def test_momentum_and_weight_decay():
    torch.manual_seed(0)
    gradients = [torch.randn(6, 10), torch.randn(6, 10)]
    start = torch.randn(6, 10)
    parameter = nn.Parameter(start.clone())
    optimizer = Muon([parameter], lr=0.01, momentum=0.5, weight_decay=0.1)
    expected, momentum = start, torch.zeros(6, 10)
    for gradient in gradients:
        parameter.grad = gradient
        optimizer.step()
        momentum = 0.5 * momentum + gradient
        update = orthogonalise((gradient + 0.5 * momentum)[None])[0]
        expected = expected * (1 - 0.001) - 0.01 * 0.2 * 10**0.5 * update
    assert torch.allclose(parameter.detach(), expected, atol=1e-6)


def test_what_has_no_gradient_stays_and_vectors_are_refused():
    parameter = nn.Parameter(torch.ones(3, 4))
    Muon([parameter]).step()
    assert torch.equal(parameter.detach(), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"matrices.*\(5,\).*another optimizer"):
        Muon([nn.Parameter(torch.ones(5))])


def test_it_learns_where_the_gradient_is_badly_scaled():
    torch.manual_seed(0)
    scales = torch.logspace(0, -1, 16)
    layer, target = nn.Linear(16, 16, bias=False), torch.randn(16, 16)
    inputs = torch.randn(256, 16) * scales
    optimizer = Muon(layer.parameters(), lr=0.5, weight_decay=0.0)
    losses = []
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / 100)
        loss = (layer(inputs) - inputs @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]
