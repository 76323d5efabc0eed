"""The CLIP image tower and the projection of its embedding to tokens.

`VisionTransformer` is the image half of CLIP (arXiv 2103.00020) with open_clip's
parameter names, so that ViT-H-14 weights load as they are; `token_projection` is TF-T2V's
`pre_image_condition` (arXiv 2312.15770).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import ImageEncoderConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class SelfAttention(nn.Module):
    """Multi-head attention with the packed projection of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width, **where))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width, **where))
        self.out_proj = operations.Linear(width, width, **where)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        # Bare parameters are not cast by `operations`: do it here.
        qkv = F.linear(x, self.in_proj_weight.to(x), self.in_proj_bias.to(x))
        q, k, v = rearrange(qkv, "n l (three h d) -> three n h l d", three=3, h=self.heads)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(rearrange(out, "n h l d -> n l (h d)"))


class ResidualAttentionBlock(nn.Module):
    """Pre-norm attention and GELU feed-forward."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        hidden = int(width * mlp_ratio)
        self.ln_1 = operations.LayerNorm(width, **where)
        self.attn = SelfAttention(width, heads, **where, operations=operations)
        self.ln_2 = operations.LayerNorm(width, **where)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=operations.Linear(width, hidden, **where),
                gelu=nn.GELU(),
                c_proj=operations.Linear(hidden, width, **where),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class VisionTransformer(nn.Module):
    """Images `[N, 3, S, S]`, normalised as CLIP does, to embeddings `[N, embedding_dim]`."""

    def __init__(
        self,
        config: ImageEncoderConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        width, scale = config.width, config.width**-0.5
        num_patches = (config.image_size // config.patch_size) ** 2
        self.conv1 = operations.Conv2d(
            3, width, config.patch_size, stride=config.patch_size, bias=False, **where
        )
        self.class_embedding = nn.Parameter(scale * torch.randn(width, **where))
        self.positional_embedding = nn.Parameter(
            scale * torch.randn(num_patches + 1, width, **where)
        )
        self.ln_pre = operations.LayerNorm(width, **where)
        self.transformer = nn.ModuleDict(
            {
                "resblocks": nn.Sequential(
                    *(
                        ResidualAttentionBlock(width, config.heads, config.mlp_ratio, **make)
                        for _ in range(config.layers)
                    )
                )
            }
        )
        self.ln_post = operations.LayerNorm(width, **where)
        self.proj = nn.Parameter(scale * torch.randn(width, config.embedding_dim, **where))

    def forward(self, images: Tensor) -> Tensor:
        x = rearrange(self.conv1(images), "n c h w -> n (h w) c")
        x = torch.cat([self.class_embedding.to(x).expand(x.shape[0], 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding.to(x))
        x = self.transformer["resblocks"](x)
        pooled = self.ln_post(x[:, 0])
        return pooled @ self.proj.to(pooled)


class ImageEncoder(nn.Module):
    """Frames to the tokens that the UNet's cross-attention reads."""

    def __init__(
        self,
        config: ImageEncoderConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.config = config
        self.visual = VisionTransformer(config, **where, operations=operations)
        self.token_projection = nn.Sequential(
            operations.Linear(config.embedding_dim, config.embedding_dim, **where),
            nn.SiLU(),
            operations.Linear(
                config.embedding_dim, config.num_tokens * config.context_dim, **where
            ),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode frames.

        Args:
            images: `[N, 3, H, W]` in -1..1, any size.

        Returns:
            Tokens `[N, num_tokens, context_dim]`.
        """
        embeddings = self.visual(self.preprocess(images))
        tokens = self.token_projection(embeddings)
        return rearrange(tokens, "n (m d) -> n m d", m=self.config.num_tokens)

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize the shorter side, crop the centre and normalise, as CLIP does."""
        side = self.config.image_size
        height, width = images.shape[-2:]
        # Rounded as torchvision does, which prepared CLIP's training images.
        shorter = min(height, width)
        size = (side * height // shorter, side * width // shorter)
        # Antialiasing exists in float32 only on some devices.
        resized = F.interpolate(
            images.float(), size=size, mode="bicubic", antialias=True, align_corners=False
        )
        top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
        resized = resized[..., top : top + side, left : left + side] * 0.5 + 0.5
        mean, std = _statistics(resized.device)
        return ((resized.clamp(0, 1) - mean) / std).to(images.dtype)


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # what restoring puts in the cache must serve training too
def _statistics(device: torch.device) -> Tensor:
    """Return CLIP's mean and standard deviation, `[2, 1, 3, 1, 1]`, kept by device."""
    return torch.tensor([CLIP_MEAN, CLIP_STD]).to(device).reshape(2, 1, 3, 1, 1)
