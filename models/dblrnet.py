"""DBLRNet: luma of five neighbouring frames in, luma of the middle one out, in one pass.

The generator of Zhang et al., "Adversarial Spatio-Temporal Learning for Video Deblurring"
(arXiv 1804.00533, IEEE TIP 28(1)), put together from two public re-implementations where the
paper's table was not at hand: two 3-D convolutions that use up the time axis, fifteen residual
units with a skip around all of them, three more convolutions, nothing downsampled. A
feed-forward network to compare the diffusion model with.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from .layers import zero_init

NUM_FRAMES = 5
"""Consecutive frames that one is restored from."""
_LUMA = (0.299, 0.587, 0.114)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a skip."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to the same shape."""
        return x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))


class DblrNet(nn.Module):
    """The generator.

    Args:
        channels: Of the residual units (the paper: 64).
        num_units: Residual units (the paper: 15).
        head_channels: Of the two convolutions before the last (the paper: 256).
        input_skip: Add the output to the middle frame, starting from it. The paper has none;
            a short training would spend itself on learning to copy.
    """

    def __init__(
        self,
        channels: int = 64,
        num_units: int = 15,
        head_channels: int = 256,
        *,
        input_skip: bool = False,
    ):
        super().__init__()
        self.input_skip = input_skip
        self.conv1 = nn.Conv3d(1, 16, 3, padding=(0, 1, 1))
        self.conv2 = nn.Conv3d(16, channels, 3, padding=(0, 1, 1))
        self.units = nn.Sequential(*(ResidualUnit(channels) for _ in range(num_units)))
        self.head1 = nn.Conv2d(channels, head_channels, 3, padding=1)
        self.head2 = nn.Conv2d(head_channels, head_channels, 3, padding=1)
        self.head3 = nn.Conv2d(head_channels, 1, 3, padding=1)
        if input_skip:
            zero_init(self.head3)

    def forward(self, luma: Tensor) -> Tensor:
        """Restore the luma of the middle frames.

        Args:
            luma: `[B, 5, H, W]` in 0..1.

        Returns:
            `[B, 1, H, W]`, float32, not clamped.

        Raises:
            ValueError: If there are not five frames.
        """
        if luma.shape[1] != NUM_FRAMES:
            raise ValueError(f"DBLRNet takes {NUM_FRAMES} frames, got {luma.shape[1]}")
        x = self.conv1(rearrange(luma, "b t h w -> b 1 t h w")).relu()
        x = rearrange(self.conv2(x), "b c 1 h w -> b c h w").relu()
        x = x.contiguous(memory_format=torch.channels_last)
        x = x + self.units(x)
        x = self.head3(self.head2(self.head1(x).relu()).relu()).float()
        return x + luma[:, NUM_FRAMES // 2, None] if self.input_skip else x

    def restore(self, frames: Tensor) -> Tensor:
        """Restore a clip; its ends are repeated, chroma is kept.

        Args:
            frames: RGB `[T, H, W, 3]`, float32 in 0..1.

        Returns:
            The same shape, in 0..1.
        """
        luma = to_luma(rearrange(frames, "t h w c -> t c h w"))
        reach = NUM_FRAMES // 2
        last = len(frames) - 1
        restored = []
        for index in range(len(frames)):
            around = [min(max(index + d, 0), last) for d in range(-reach, reach + 1)]
            # With Cb and Cr as they are, a change of Y moves all three colours alike.
            change = self(luma[around][None])[0, 0] - luma[index]
            restored.append((frames[index] + change[..., None]).clamp(0, 1))
        return torch.stack(restored)


def to_luma(colors: Tensor) -> Tensor:
    """Return Y (Rec. 601) of RGB `[..., 3, H, W]`: `[..., H, W]`."""
    weights = torch.tensor(_LUMA).to(colors)
    return (colors * weights[:, None, None]).sum(-3)
