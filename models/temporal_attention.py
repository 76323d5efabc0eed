"""DIVD's window-based temporal self-attention (WTSA) with relative positions (MRPE).

A re-implementation from the description in arXiv 2412.00773: the paper's formulas are not
public. Tokens inside a window of `[T_w, H_w, W_w]` positions attend to each other, so that
frames are aligned and fused where motion moved things, not only at the same position.
Every second block shifts its windows by half their extent (as Swin does) so that
information crosses their borders. MRPE is a learned bias per head over the offset
(dt, dy, dx) between two positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import QueryPrior, attend
from .layers import make_norm, zero_init

Extent = tuple[int, int, int]


class WindowAttention(nn.Module):
    """Pre-norm window attention and feed-forward, each with a zero-initialised output."""

    def __init__(
        self,
        channels: int,
        head_dim: int,
        window: Extent,
        shifted: bool,
        norm: str,
        groups: int,
        *,
        relative_positions: bool = True,
        prior_channels: int = 0,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.head_dim = head_dim
        self.window = window
        self.shifted = shifted
        num_offsets = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.norm1 = make_norm(norm, channels, groups, 1e-6, **where, operations=operations)
        self.to_qkv = operations.Linear(channels, 3 * channels, **where)
        # An embedding rather than a bare parameter, so that ComfyUI can stream it.
        self.relative_position = (
            operations.Embedding(num_offsets, channels // head_dim, **where)
            if relative_positions
            else None
        )
        self.to_out = operations.Linear(channels, channels, **where)
        self.prior = (
            QueryPrior(prior_channels, channels, **where, operations=operations)
            if prior_channels
            else None
        )
        self.norm2 = make_norm(norm, channels, groups, 1e-6, **where, operations=operations)
        self.ff_in = operations.Linear(channels, 2 * channels, **where)
        self.ff_out = operations.Linear(2 * channels, channels, **where)
        if self.relative_position is not None:
            weight = self.relative_position.weight
            with torch.no_grad():  # 8-bit floats have no random numbers of their own
                start = torch.empty(weight.shape, device=weight.device)
                weight.copy_(nn.init.trunc_normal_(start, std=0.02))
        zero_init(self.to_out)
        zero_init(self.ff_out)

    def forward(self, x: Tensor, num_frames: int, prior: Tensor | None = None) -> Tensor:
        """Apply to `[N, C, H, W]` with N = B * num_frames.

        `prior` `[N, prior_channels, H, W]` modulates the queries.
        """
        x = x + self._attend(self.norm1(x), num_frames, prior)
        h = rearrange(self.norm2(x), "n c h w -> n h w c")
        h = self.ff_out(F.gelu(self.ff_in(h)))
        return x + rearrange(h, "n h w c -> n c h w")

    def _attend(self, x: Tensor, num_frames: int, prior: Tensor | None = None) -> Tensor:
        volume = rearrange(x, "(b t) c h w -> b t h w c", t=num_frames)
        size = _extent(volume.shape[1:4])
        window, shift = window_and_shift(size, self.window, self.shifted)
        tokens, padded = partition(volume, window, shift)
        bias = self._bias(window, window_mask(size, window, shift, x.device), tokens)
        q, k, v = rearrange(
            self.to_qkv(tokens),
            "n l (three heads d) -> three n heads l d",
            three=3,
            d=self.head_dim,
        )
        if self.prior is not None and prior is not None:
            known = rearrange(prior, "(b t) c h w -> b t h w c", t=num_frames)
            asking, _ = partition(self.prior(volume, known), window, shift)
            q = self.to_qkv(asking)[..., : x.shape[1]]
            q = rearrange(q, "n l (heads d) -> n heads l d", d=self.head_dim)
        bias = None if bias is None else bias.to(q.dtype)
        out = attend(q, k, v, bias)
        out = self.to_out(rearrange(out, "n heads l d -> n l (heads d)"))
        return rearrange(merge(out, window, shift, padded, size), "b t h w c -> (b t) c h w")

    def _bias(self, window: Extent, mask: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Return what is added to the scores: by offset and head, and by what is allowed.

        Broadcasts to `[windows, heads, L, L]`; None where nothing is to be added.
        """
        if mask is not None:
            mask = mask[:, None].to(tokens).repeat(tokens.shape[0] // mask.shape[0], 1, 1, 1)
        if self.relative_position is None:
            return mask
        index = relative_position_index(window, self.window, tokens.device)
        length = window[0] * window[1] * window[2]
        # 8-bit weights come as they are stored, and cannot be added to.
        table = self.relative_position(index).to(tokens.dtype)
        # In four axes: given three, CPUs take PyTorch's slow way, at half the speed.
        bias = rearrange(table, "(q k) heads -> 1 heads q k", q=length, k=length)
        return bias if mask is None else mask.to(bias) + bias


def window_and_shift(size: Extent, window: Extent, shifted: bool) -> tuple[Extent, Extent]:
    """Shrink a window to the volume, and shift only along axes it does not span."""
    extent = _extent([min(w, s) for w, s in zip(window, size, strict=True)])
    shift = _extent(
        [w // 2 if shifted and s > w else 0 for w, s in zip(extent, size, strict=True)]
    )
    return extent, shift


def partition(volume: Tensor, window: Extent, shift: Extent) -> tuple[Tensor, Extent]:
    """Cut `[B, T, H, W, C]` into windows `[B * n, L, C]`; pads at the far ends with zeros.

    Returns:
        The windows, and the padded size `[T, H, W]` that `merge` needs.
    """
    size = _extent(volume.shape[1:4])
    padded = _padded(size, window)
    if padded != size:
        pads = [padded[axis] - size[axis] for axis in (2, 1, 0)]
        volume = F.pad(volume, (0, 0, 0, pads[0], 0, pads[1], 0, pads[2]))
    if any(shift):
        volume = volume.roll([-s for s in shift], dims=(1, 2, 3))
    tokens = rearrange(
        volume,
        "b (nt wt) (nh wh) (nw ww) c -> (b nt nh nw) (wt wh ww) c",
        wt=window[0],
        wh=window[1],
        ww=window[2],
    )
    return tokens, padded


def merge(
    tokens: Tensor, window: Extent, shift: Extent, padded: Extent, size: Extent
) -> Tensor:
    """Undo `partition`: windows `[B * n, L, C]` back to `[B, T, H, W, C]`."""
    volume = rearrange(
        tokens,
        "(b nt nh nw) (wt wh ww) c -> b (nt wt) (nh wh) (nw ww) c",
        nt=padded[0] // window[0],
        nh=padded[1] // window[1],
        nw=padded[2] // window[2],
        wt=window[0],
        wh=window[1],
        ww=window[2],
    )
    if any(shift):
        volume = volume.roll(shift, dims=(1, 2, 3))
    return volume[:, : size[0], : size[1], : size[2]]


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what restoring puts in the cache must serve training too
def relative_position_index(
    window: Extent, table_window: Extent, device: torch.device
) -> Tensor:
    """Index of each (query, key) offset in the bias table, kept by device.

    Args:
        window: Extent in use, at most `table_window`.
        table_window: Extent the table was made for.
        device: Where it is read.

    Returns:
        int64 `[L * L]`, L = T_w * H_w * W_w of `window`, query-major.
    """
    axes = torch.meshgrid(*(torch.arange(extent) for extent in window), indexing="ij")
    coordinates = torch.stack([axis.flatten() for axis in axes], dim=-1)
    offsets = coordinates[:, None] - coordinates[None, :]
    limits = torch.tensor(table_window)
    offsets = offsets + limits - 1
    spans = 2 * limits - 1
    index = (offsets[..., 0] * spans[1] + offsets[..., 1]) * spans[2] + offsets[..., 2]
    return index.flatten().to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def window_mask(
    size: Extent, window: Extent, shift: Extent, device: torch.device
) -> Tensor | None:
    """Mask that keeps tokens from seeing padding and what a shift wrapped around.

    Returns:
        float32 `[windows, L, L]`, 0 where allowed and -inf where not; None when all is
        allowed.
    """
    padded = _padded(size, window)
    if padded == size and not any(shift):
        return None
    regions = []
    for length, full, extent, offset in zip(size, padded, window, shift, strict=True):
        region = torch.zeros(full, dtype=torch.long)
        if offset:
            region[full - extent :] = 1
            region[full - offset :] = 2
        # Padding is a region of its own: real tokens never see it. The ids are those of
        # the rolled volume, as the windows cut it.
        region[(torch.arange(full) + offset) % full >= length] = 3
        regions.append(region)
    ids = regions[0][:, None, None] * 16 + regions[1][:, None] * 4 + regions[2]
    tokens, _ = partition(ids[None, ..., None], window, (0, 0, 0))
    ids = tokens[..., 0]
    allowed = ids[:, :, None] == ids[:, None, :]
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
    return mask.to(device)


def _padded(size: Extent, window: Extent) -> Extent:
    return _extent([-(-s // w) * w for s, w in zip(size, window, strict=True)])


def _extent(values: Any) -> Extent:
    extent = tuple(int(value) for value in values)
    assert len(extent) == 3
    return extent
