"""Our weights of MAXIM made from those of flax: other layouts, and products of layers in a row.

Kernels are `[h, w, in, out]` or `[in, out]` there. Products are made in double precision.
"""

from __future__ import annotations

from torch import Tensor


def linear_weight(kernel: Tensor) -> Tensor:
    """Return the weight of a linear layer from a kernel over one position."""
    return kernel.flatten(0, -2).T.contiguous()


def convolution_weight(kernel: Tensor) -> Tensor:
    """Return the weight of a convolution."""
    return kernel.permute(3, 2, 0, 1).contiguous()


def mixing_weight(kernel: Tensor) -> Tensor:
    """Return the weight that mixes positions, a convolution here, a linear layer there."""
    return kernel.T[:, :, None, None].contiguous()


def half_of_bias(bias: Tensor, *, half: int) -> Tensor:
    """Return the bias of one of two layers that are one there."""
    return bias.chunk(2)[half].clone()


def half_of_outputs(kernel: Tensor, *, half: int) -> Tensor:
    """Return the weight of the linear layer that gives half of the outputs."""
    return kernel.chunk(2, dim=1)[half].T.contiguous()


def half_of_inputs(kernel: Tensor, *, half: int) -> Tensor:
    """Return the weight of the linear layer that takes half of the inputs."""
    return kernel.chunk(2)[half].T.contiguous()


def halves_added(kernel: Tensor) -> Tensor:
    """Return the weight of a linear layer that gets the same features twice there."""
    first, second = _matrix(kernel).chunk(2)
    return (first + second).T.float()


def product(kernel: Tensor, then: Tensor, *, piece: int) -> Tensor:
    """Return the weight of a projection and the one after it.

    Args:
        kernel: Of the first.
        then: Of the second, which takes the outputs of several side by side.
        piece: Which of them the first one's are.
    """
    return (_matrix(kernel) @ _piece(then, piece)).T.float()


def summed_bias(bias: Tensor, then: Tensor, *biases: Tensor, pieces: list[int]) -> Tensor:
    """Return the bias of all projections whose outputs lie side by side, and the one after.

    Args:
        bias: Of the second.
        then: Its kernel.
        *biases: Of the projections.
        pieces: Where their outputs lie.
    """
    total = bias.double()
    for part, piece in zip(biases, pieces, strict=True):
        total = total + part.double() @ _piece(then, piece)
    return total.float()


def up_weight(kernel: Tensor, then: Tensor) -> Tensor:
    """Return the weight of a transposed convolution and the projection after it.

    Args:
        kernel: `[2, 2, in, out]`, of the first, with a stride of 2.
        then: Of the second; of all that it takes the first one's outputs come first.
    """
    # Flax slides the kernel over spread-out positions: its end meets a position first.
    squares = kernel.flip(0, 1).double() @ _piece(then, 0)
    return squares.permute(0, 1, 3, 2).flatten(0, 2).float()


def up_bias(bias: Tensor, then: Tensor, *after: Tensor) -> Tensor:
    """Return the bias of the two, once for each position of a square.

    Args:
        bias: Of the first.
        then: Kernel of the second.
        *after: Bias of the second, where it is not that of other inputs.
    """
    return sum(after, bias.double() @ _piece(then, 0)).float().repeat(4)


def _matrix(kernel: Tensor) -> Tensor:
    """Return the kernel of a layer over one position as `[in, out]`, float64."""
    return kernel.flatten(0, -2).double()


def _piece(kernel: Tensor, piece: int) -> Tensor:
    """Return the rows of `[pieces * out, out]` that take one of the inputs."""
    matrix = _matrix(kernel)
    size = matrix.shape[1]
    return matrix[piece * size : (piece + 1) * size]
