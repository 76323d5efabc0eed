"""LPIPS: distance in the features of a classification network (Zhang et al., CVPR 2018).

"The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", version 0.1. Which
network the features come from is part of a figure's name. Its weights are torchvision's,
read from a file of the user's and never downloaded; the learned weights of the channels come
with torchmetrics.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

NETWORKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""Short names and the names of torchvision's networks."""
_LAYERS = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
"""Layers of torchvision's `features` whose outputs are compared."""
_MIN_SIZE = 32
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, for values in -1..1."""


class Lpips(nn.Module):
    """The distance between frames, in one network's features.

    Args:
        network: A key of `NETWORKS`.
        state_dict: torchvision's weights of that network, or only its `features.`.

    Raises:
        ValueError: If torchvision or torchmetrics is missing, or the weights do not fit.
    """

    def __init__(self, network: str, state_dict: dict[str, Tensor]) -> None:
        super().__init__()
        self.features = _features(network, state_dict)
        self.channel_weights = _channel_weights(network)
        self._layers = _LAYERS[network]
        self.eval().requires_grad_(False)

    def distance(self, pred: np.ndarray, target: np.ndarray, *, data_range: float) -> float:
        """Return the distance of two frames `[H, W, 3]`, 0 for equal ones, mostly below 1.

        Raises:
            ValueError: If they are smaller than 32x32 pixels.
        """
        if min(pred.shape[:2]) < _MIN_SIZE:
            raise ValueError(
                f"LPIPS needs at least {_MIN_SIZE}x{_MIN_SIZE} pixels, got {list(pred.shape)}"
            )
        frames = torch.from_numpy(np.stack([pred, target]).astype(np.float32) / data_range)
        frames = rearrange(2 * frames - 1, "n h w c -> n c h w")
        with torch.inference_mode():
            return float(self(frames[:1], frames[1:]))

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each pair of frames, for training too.

        Args:
            pred: `[N, 3, H, W]` in -1..1.
            target: The same shape.

        Returns:
            `[N]`.
        """
        x = torch.cat([pred, target])
        shift, scale = (x.new_tensor(v)[:, None, None] for v in (_SHIFT, _SCALE))
        x = (x - shift) / scale
        distance = x.new_zeros(len(pred))
        place = 0
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index == self._layers[place]:
                unit = x / torch.sqrt(1e-8 + x.square().sum(dim=1, keepdim=True))
                first, second = unit.chunk(2)
                weights = self.channel_weights[place][:, None, None]
                weighed = weights * (first - second).square()
                distance = distance + weighed.sum(dim=1).mean(dim=(1, 2))
                place += 1
                if place == len(self._layers):
                    break
        return distance


def read_backbones(paths: Iterable[str | Path]) -> dict[str, dict[str, Tensor]]:
    """Read torchvision weight files, each for the network it belongs to.

    Returns:
        From the network's short name to its state dict.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is not a state dict of one of `NETWORKS`.
    """
    found = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of LPIPS weights")
        try:
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read as PyTorch weights") from error
        found[_recognise(path, state_dict)] = state_dict
    return found


def _recognise(path: Path, state_dict: object) -> str:
    # The shape of one layer tells the three networks apart.
    signs = {
        "alex": ("features.0.weight", (64, 3, 11, 11)),
        "vgg": ("features.28.weight", (512, 512, 3, 3)),
        "squeeze": ("features.3.squeeze.weight", (16, 64, 1, 1)),
    }
    if isinstance(state_dict, dict):
        for network, (name, shape) in signs.items():
            if getattr(state_dict.get(name), "shape", None) == shape:
                return network
    names = ", ".join(NETWORKS.values())
    raise ValueError(f"{path}: holds no weights of torchvision's {names}")


def _features(network: str, state_dict: dict[str, Tensor]) -> nn.Sequential:
    models = _import("torchvision.models")
    # On the meta device: the classifier, most of the weights, is never allocated.
    with torch.device("meta"):
        features = getattr(models, NETWORKS[network])(weights=None).features
    weights = {
        name.removeprefix("features."): value.float()
        for name, value in state_dict.items()
        if name.startswith("features.")
    }
    try:
        features.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights for LPIPS do not fit {NETWORKS[network]}") from error
    return features


def _channel_weights(network: str) -> nn.ParameterList:
    folder = Path(str(_import("torchmetrics.functional.image").__file__)).parent
    weights = torch.load(
        folder / "lpips_models" / f"{network}.pth", map_location="cpu", weights_only=True
    )
    names = [f"lin{index}.model.1.weight" for index in range(len(_LAYERS[network]))]
    return nn.ParameterList(weights[name].flatten() for name in names)


def _import(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ValueError(f"LPIPS needs {package}: pip install {package} ({error})") from error
