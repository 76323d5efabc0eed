"""DBLRNet: luma of five neighbouring frames in, luma of the middle one out, in one pass.

The generator of Zhang et al., "Adversarial Spatio-Temporal Learning for Video Deblurring"
(arXiv 1804.00533, IEEE TIP 28(1)), put together from two public re-implementations where the
paper's table was not at hand: two 3-D convolutions that use up the time axis, fifteen residual
units with a skip around all of them, three more convolutions, nothing downsampled. A
feed-forward network to compare the diffusion model with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .config_fields import check_positive, check_range
from .layers import make_batch_norm, zero_init

_LUMA = (0.299, 0.587, 0.114)
_MOST_UNITS = 128


@dataclass(frozen=True, kw_only=True)
class DblrNetConfig:
    """The generator; defaults are the paper's."""

    channels: int = 64
    """Of the residual units."""
    num_units: int = 15
    """Residual units."""
    head_channels: int = 256
    """Of the two convolutions before the last."""
    input_skip: bool = False
    """Add the output to the middle frame, starting from it. The paper has none; a short
    training would spend itself on learning to copy."""
    batch_norm: bool = True
    """Normalise in the residual units, as the paper does. Without, a pixel's result depends
    in training too on what is around it alone, and averaged weights need no other averages."""

    @property
    def num_frames(self) -> int:
        """Fixed by the two convolutions that use up the time axis."""
        return 5

    def __post_init__(self) -> None:
        check_positive(self, "channels", "head_channels")
        check_range(self, "num_units", 1, _MOST_UNITS)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions around a skip, each with batch normalisation or a bias."""

    def __init__(
        self, channels: int, batch_norm: bool, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype}

        def norm() -> nn.Module:
            if not batch_norm:
                return nn.Identity()
            return make_batch_norm(channels, **make, operations=operations)

        same = {"padding": 1, "bias": not batch_norm, **make}
        self.conv1 = operations.Conv2d(channels, channels, 3, **same)
        self.norm1 = norm()
        self.conv2 = operations.Conv2d(channels, channels, 3, **same)
        self.norm2 = norm()

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class DblrNet(nn.Module):
    """The generator, a `registry.FeedForwardNetwork`."""

    def __init__(
        self,
        config: DblrNetConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.config = config
        channels, head_channels = config.channels, config.head_channels
        make = {"device": device, "dtype": dtype}
        self.conv1 = operations.Conv3d(1, 16, 3, padding=(0, 1, 1), **make)
        self.conv2 = operations.Conv3d(16, channels, 3, padding=(0, 1, 1), **make)
        self.units = nn.Sequential(
            *(
                ResidualUnit(channels, config.batch_norm, **make, operations=operations)
                for _ in range(config.num_units)
            )
        )
        same = {"padding": 1, **make}
        self.head1 = operations.Conv2d(channels, head_channels, 3, **same)
        self.head2 = operations.Conv2d(head_channels, head_channels, 3, **same)
        self.head3 = operations.Conv2d(head_channels, 1, 3, **same)
        if config.input_skip:
            zero_init(self.head3)

    @property
    def num_frames(self) -> int:
        """Consecutive frames it looks at."""
        return self.config.num_frames

    @property
    def reach(self) -> int:
        """Pixels in each direction that a restored pixel depends on: one per convolution."""
        return 2 + 2 * self.config.num_units + 3

    @property
    def bytes_per_pixel(self) -> int:
        """Working memory per pixel of a tile, in bytes.

        Growth of resident memory, 512x512, at the paper's size: 2308 (256x256: 3418); the two
        widest layers hold most of it. Where those are narrow, the residual units do: 1076 with
        64 channels, 2077 with 128 (512x512).
        """
        return max(14 * self.config.head_channels, 20 * self.config.channels)

    def forward(self, luma: Tensor) -> Tensor:
        """Restore the luma of every frame that has two others before and two after it.

        The first convolution sees each three frames once, whatever windows they are in.

        Args:
            luma: `[B, T, H, W]` in 0..1, T at least 5.

        Returns:
            `[B, T - 4, H, W]`, float32, not clamped.

        Raises:
            ValueError: If there are fewer than five frames.
        """
        if luma.shape[1] < self.num_frames:
            raise ValueError(f"DBLRNet takes {self.num_frames} frames, got {luma.shape[1]}")
        near = self.num_frames // 2
        x = self.conv1(rearrange(luma, "b t h w -> b 1 t h w")).relu()
        x = rearrange(self.conv2(x), "b c t h w -> (b t) c h w").relu()
        x = x.contiguous(memory_format=torch.channels_last)
        x = x + self.units(x)
        x = self.head3(self.head2(self.head1(x).relu()).relu()).float()
        x = rearrange(x, "(b t) 1 h w -> b t h w", b=len(luma))
        return x + luma[:, near:-near] if self.config.input_skip else x

    def restore_frame(self, around: Tensor) -> Tensor:
        """Restore the middle frame; its chroma is kept.

        Args:
            around: RGB `[5, 3, H, W]`, float32 in 0..1.

        Returns:
            RGB `[3, H, W]`, float32, not clamped.
        """
        return self.restore_frames(around)[0]

    def restore_frames(self, frames: Tensor) -> Tensor:
        """Restore every frame that has two others before and two after it, as `restore_frame`.

        Args:
            frames: RGB `[T, 3, H, W]`, float32 in 0..1.

        Returns:
            RGB `[T - 4, 3, H, W]`, float32, not clamped.
        """
        near = self.num_frames // 2
        luma = to_luma(frames)
        # With Cb and Cr as they are, a change of Y moves all three colours alike.
        change = self(luma[None])[0] - luma[near:-near]
        return frames[near:-near] + change[:, None]


def to_luma(colors: Tensor) -> Tensor:
    """Return Y (Rec. 601) of RGB `[..., 3, H, W]`: `[..., H, W]`."""
    weights = torch.tensor(_LUMA).to(colors)
    return (colors * weights[:, None, None]).sum(-3)
