"""Spatial and temporal transformers of the 3D-UNet, with diffusers' parameter names.

Tokens are `[N, L, C]`; feature maps are `[N, C, H, W]` with N = B * T.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import make_norm, zero_init

MOST_ENTRIES = 65_535
"""Entries of a batch that one call attends to: CUDA's kernels put them along an axis of their
grid that holds no more (pytorch/pytorch#146704). Over time at each position, the public weights
reach it with a tile of 2048x2048 pixels."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attend, in parts where there are more entries than a device takes at once.

    Args:
        q: Queries `[N, heads, L, D]`.
        k: Keys `[N, heads, M, D]`.
        v: Values, as the keys.
        bias: Added to the scores, `[N or 1, 1 or heads, L, M]`.

    Returns:
        `[N, heads, L, D]`.
    """
    if len(q) <= MOST_ENTRIES:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    parts = []
    for first in range(0, len(q), MOST_ENTRIES):
        part = slice(first, first + MOST_ENTRIES)
        own = bias[part] if bias is not None and len(bias) > 1 else bias
        parts.append(F.scaled_dot_product_attention(q[part], k[part], v[part], attn_mask=own))
    return torch.cat(parts)


class QueryPrior(nn.Module):
    """Modulate what asks in attention by what is known of its position (CPGD-Net).

    The paper adds W_q (x * m) to W_q x, with m a projection of the prior that starts at zero:
    by linearity the query of x * (1 + m).
    """

    def __init__(
        self, prior_channels: int, channels: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        self.proj = operations.Linear(
            prior_channels, channels, bias=False, device=device, dtype=dtype
        )
        zero_init(self.proj)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """Return `[..., C]` modulated by `[..., prior_channels]`."""
        return x * (1 + self.proj(prior))


class Attention(nn.Module):
    """Multi-head attention of tokens to themselves or to a context."""

    def __init__(
        self,
        channels: int,
        inner: int,
        head_dim: int,
        context_dim: int | None,
        prior_channels: int = 0,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.head_dim = head_dim
        source = channels if context_dim is None else context_dim
        self.to_q = operations.Linear(channels, inner, bias=False, **where)
        self.to_k = operations.Linear(source, inner, bias=False, **where)
        self.to_v = operations.Linear(source, inner, bias=False, **where)
        self.to_out = nn.ModuleList([operations.Linear(inner, channels, **where)])
        self.prior = (
            QueryPrior(prior_channels, channels, **where, operations=operations)
            if prior_channels
            else None
        )

    def forward(
        self, tokens: Tensor, context: Tensor | None = None, prior: Tensor | None = None
    ) -> Tensor:
        """Attend from `[N, L, C]` to `context` `[N, M, D]`, or to itself.

        `prior` `[N, L, prior_channels]` modulates the queries.
        """
        source = tokens if context is None else context
        asking = tokens if prior is None or self.prior is None else self.prior(tokens, prior)
        q, k, v = (
            rearrange(x, "n l (heads d) -> n heads l d", d=self.head_dim)
            for x in (self.to_q(asking), self.to_k(source), self.to_v(source))
        )
        out = attend(q, k, v)
        return self.to_out[0](rearrange(out, "n heads l d -> n l (heads d)"))


class GegluProjection(nn.Module):
    """A linear layer whose second half gates the first through GELU."""

    def __init__(self, channels: int, hidden: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        self.proj = operations.Linear(channels, 2 * hidden, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        gate = F.gelu(gate)
        # In place the product needs no new memory, which takes a CPU longer than the product.
        return value * gate if torch.is_grad_enabled() else gate.mul_(value)


class FeedForward(nn.Module):
    """GEGLU feed-forward of four times the width."""

    def __init__(self, channels: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        make = {"device": device, "dtype": dtype}
        self.net = nn.Sequential(
            GegluProjection(channels, 4 * channels, **make, operations=operations),
            nn.Identity(),  # dropout's place in the public weights' names
            operations.Linear(4 * channels, channels, **make),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, a second attention (to the context, or to itself), feed-forward."""

    def __init__(
        self,
        channels: int,
        head_dim: int,
        context_dim: int | None,
        prior_channels: int = 0,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        self.norm1 = operations.LayerNorm(channels, **where)
        self.attn1 = Attention(channels, channels, head_dim, None, prior_channels, **make)
        self.norm2 = operations.LayerNorm(channels, **where)
        self.attn2 = Attention(channels, channels, head_dim, context_dim, **make)
        self.norm3 = operations.LayerNorm(channels, **where)
        self.ff = FeedForward(channels, **make)

    def forward(
        self, tokens: Tensor, context: Tensor | None = None, prior: Tensor | None = None
    ) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens), prior=prior)
        tokens = tokens + self.attn2(self.norm2(tokens), context)
        return tokens + self.ff(self.norm3(tokens))


class Transformer(nn.Module):
    """Normalise, project in, one transformer block, project out, add.

    `spatial` attends within each frame and crosses to the context; otherwise it attends
    over the frames at each position, twice (ModelScopeT2V's temporal transformer).
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        head_dim: int,
        context_dim: int | None,
        norm: str,
        groups: int,
        prior_channels: int = 0,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        self.spatial = context_dim is not None
        self.norm = make_norm(norm, channels, groups, 1e-6, **make)
        self.proj_in = operations.Linear(channels, inner, **where)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(inner, head_dim, context_dim, prior_channels, **make)]
        )
        self.proj_out = operations.Linear(inner, channels, **where)

    def forward(
        self, x: Tensor, num_frames: int, context: Tensor | None, prior: Tensor | None = None
    ) -> Tensor:
        """Apply to `[N, C, H, W]`.

        `context` `[N, M, D]` and `prior` `[N, prior_channels, H, W]` are read when `spatial`.
        """
        height, width = x.shape[-2:]
        if self.spatial:
            tokens = rearrange(self.norm(x), "n c h w -> n (h w) c")
            known = None if prior is None else rearrange(prior, "n c h w -> n (h w) c")
            tokens = self.transformer_blocks[0](self.proj_in(tokens), context, known)
            out = rearrange(self.proj_out(tokens), "n (h w) c -> n c h w", h=height, w=width)
            return x + out
        volume = rearrange(x, "(b t) c h w -> b c t h w", t=num_frames)
        tokens = rearrange(self.norm(volume), "b c t h w -> (b h w) t c").contiguous()
        tokens = self.transformer_blocks[0](self.proj_in(tokens))
        out = rearrange(self.proj_out(tokens), "(b h w) t c -> (b t) c h w", h=height, w=width)
        return x + out
