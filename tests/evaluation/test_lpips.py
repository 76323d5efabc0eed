"""LPIPS against torchmetrics, with random backbones: the published ones are not shipped."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from video_deblur.evaluation.lpips import NETWORKS, Lpips, read_backbones

models = pytest.importorskip("torchvision").models
reference = pytest.importorskip("torchmetrics.functional.image.lpips")


def random_features(network: str) -> torch.nn.Module:
    """Features as torchvision builds them, without the memory of the classifier."""
    with torch.device("meta"):
        features = getattr(models, NETWORKS[network])(weights=None).features
    features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(3)
    for parameter in features.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return features


def state_dict(features: torch.nn.Module) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in features.state_dict().items()}


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (48, 70, 3)).astype(np.uint8)
    noise = rng.normal(0, 30, target.shape)
    return (target + noise).clip(0, 255).astype(np.uint8), target


@pytest.mark.parametrize("network", NETWORKS)
def test_lpips_equals_torchmetrics(network, pair, monkeypatch):
    features = random_features(network)
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda net, pretrained: features)
    images = [torch.from_numpy(image).movedim(-1, 0)[None] / 255 for image in pair]
    expected = reference.learned_perceptual_image_patch_similarity(
        *images, net_type=network, normalize=True
    )
    assert float(expected) > 1e-3
    lpips = Lpips(network, state_dict(features))
    value = lpips.distance(*pair, data_range=255)
    assert value == pytest.approx(float(expected), rel=1e-5)
    assert lpips.distance(pair[1], pair[1], data_range=255) == 0


def test_the_range_scales_with_the_values(pair):
    lpips = Lpips("squeeze", state_dict(random_features("squeeze")))
    in_bytes = lpips.distance(*pair, data_range=255)
    scaled = [image.astype(np.float32) / 255 for image in pair]
    assert lpips.distance(*scaled, data_range=1) == pytest.approx(in_bytes, rel=1e-5)


def test_files_are_recognised_by_their_weights(tmp_path):
    for network in ("alex", "squeeze"):
        torch.save(state_dict(random_features(network)), tmp_path / f"{network}.pth")
    found = read_backbones([tmp_path / "squeeze.pth", tmp_path / "alex.pth"])
    assert sorted(found) == ["alex", "squeeze"]
    assert found["alex"]["features.0.weight"].shape == (64, 3, 11, 11)


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
        read_backbones([tmp_path / "none.pth"])
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=r"broken\.pth: cannot be read as PyTorch weights"):
        read_backbones([broken])
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: holds no weights of torchvision"):
        read_backbones([tmp_path / "other.pth"])


def test_incomplete_weights_are_refused():
    weights = state_dict(random_features("alex"))
    del weights["features.10.bias"]
    with pytest.raises(ValueError, match="do not fit alexnet"):
        Lpips("alex", weights)


@pytest.mark.parametrize("package", ["torchvision", "torchmetrics"])
def test_a_missing_package_is_named(package, monkeypatch):
    weights = state_dict(random_features("squeeze"))
    for module in ("torchvision.models", "torchmetrics.functional.image"):
        if module.startswith(package):
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"LPIPS needs {package}: pip install {package}"):
        Lpips("squeeze", weights)


def test_frames_too_small_for_the_networks_are_refused(pair):
    lpips = Lpips("squeeze", state_dict(random_features("squeeze")))
    with pytest.raises(ValueError, match="at least 32x32"):
        lpips.distance(pair[0][:20], pair[1][:20], data_range=255)


def test_pairs_are_measured_together_and_may_be_trained_by():
    lpips = Lpips("squeeze", state_dict(random_features("squeeze")))
    pred, target = (torch.rand(3, 3, 40, 48) * 2 - 1 for _ in range(2))
    pred.requires_grad_(True)
    together = lpips(pred, target)
    alone = [lpips(pred[i : i + 1], target[i : i + 1])[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone))
    together.sum().backward()
    assert pred.grad is not None
    assert float(pred.grad.abs().min(dim=0).values.max()) > 0
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
