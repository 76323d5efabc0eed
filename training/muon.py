"""Muon: steps along the orthogonalised momentum of each weight matrix.

After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with
the step size of Liu et al. (arXiv 2502.16982) that lets it share AdamW's learning rate. A
convolution counts as the matrix `[out, in * kernel]`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..models.hardware import multiplies_bfloat16

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration: steep at zero, so that few iterations do; the
singular values end between about 0.7 and 1.2."""
_ADAM_RMS = 0.2
"""Root mean square of a typical AdamW update, which this one is scaled to."""


class Muon(torch.optim.Optimizer):
    """Momentum whose update has all its singular values near one.

    Args:
        params: Parameters of two or more axes, or groups of them.
        lr: Learning rate; the root mean square of an update is about 0.2 of it.
        momentum: Of the running sum of gradients (Nesterov).
        weight_decay: Decoupled, times the learning rate.
        num_iterations: Newton-Schulz iterations.

    Raises:
        ValueError: If a parameter has fewer than two axes.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 4e-4,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        num_iterations: int = 5,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "num_iterations": num_iterations,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(
                        f"Muon updates matrices, got a parameter of shape "
                        f"{tuple(parameter.shape)}; give it to another optimizer"
                    )

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # Matrices of one shape go through the iteration together.
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.flatten(1).shape].append(parameter)
            for shape, members in alike.items():
                directions = torch.stack([self._direction(p, group) for p in members])
                updates = orthogonalise(directions, group["num_iterations"])
                rate = group["lr"] * _ADAM_RMS * max(shape) ** 0.5
                for parameter, update in zip(members, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-rate)
        return loss

    def _direction(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        momentum.mul_(group["momentum"]).add_(parameter.grad)
        return parameter.grad.add(momentum, alpha=group["momentum"]).flatten(1)


def orthogonalise(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Replace the singular values of `matrices` `[N, R, C]` by values near one.

    Computed in bfloat16 where the device multiplies it natively; the result has the input's
    dtype.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.bfloat16() if multiplies_bfloat16(matrices.device) else matrices.float()
    tall = wide.shape[-2] > wide.shape[-1]
    if tall:
        wide = wide.mT
    wide = wide / (torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide.mT if tall else wide).to(matrices.dtype)
