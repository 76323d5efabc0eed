"""MAXIM: one blurry frame in, one sharp frame out, in one pass.

The network of Tu et al., "MAXIM: Multi-Axis MLP for Image Processing" (CVPR 2022, arXiv
2201.02973): a few UNets in a row, each of which sees the frame at several scales and what
the one before made of it. MLPs mix positions within blocks and over the whole frame, so that
every restored pixel depends on every other.

The published layout has convolutions over one position in a row where nothing comes between:
they are one here (`import_weights/maxim.py` multiplies them).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config_fields import ConfigError, check_positive, check_range
from .maxim_blocks import (
    COLORS,
    ChannelMixingBlock,
    ConvolutionBlock,
    CrossGating,
    MultiAxisMlp,
    ScaleFusion,
    Supervision,
    Upsample,
    convolve,
)

_MOST_STAGES = 8
_MOST_LEVELS = 6
_MOST_BLOCKS = 16
_LARGEST_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class MaximConfig:
    """The network; defaults are those of MAXIM-3S."""

    num_stages: int = 3
    """UNets in a row."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Of each level, the frame's size first; each next has half the height and width."""
    sides: tuple[int, ...] = (16, 16, 8)
    """Of the windows that positions are mixed in, at each level."""
    bottleneck_side: int = 8
    """The same below the last level."""
    num_blocks: int = 2
    """Pairs of mixing and convolutions of each level."""
    num_bottlenecks: int = 2
    """Groups of blocks below the last level."""
    reduction: int = 4
    """By what channel attention divides channels inside."""

    @property
    def num_frames(self) -> int:
        """It sees one frame at a time."""
        return 1

    @property
    def size_multiple(self) -> int:
        """Height and width are padded to a multiple of this inside the network."""
        bottom = 2 ** len(self.channels)
        sizes = [side * 2**level for level, side in enumerate(self.sides)]
        return math.lcm(bottom * self.bottleneck_side, *sizes)

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= _MOST_LEVELS or len(self.sides) != len(self.channels):
            raise ConfigError(
                f"channels and sides need one entry per level, at most {_MOST_LEVELS}, got "
                f"{len(self.channels)} and {len(self.sides)}"
            )
        check_range(self, "num_stages", 1, _MOST_STAGES)
        check_positive(self, "channels", "reduction")
        check_range(self, "sides", 1, _LARGEST_SIDE)
        check_range(self, "bottleneck_side", 1, _LARGEST_SIDE)
        check_range(self, "num_blocks", 1, _MOST_BLOCKS)
        check_range(self, "num_bottlenecks", 1, _MOST_BLOCKS)
        if min(self.channels) < self.reduction:
            raise ConfigError(
                f"reduction must be at most the fewest channels ({min(self.channels)}), got "
                f"{self.reduction}"
            )


class Blocks(nn.Module):
    """Pairs of mixing over positions and convolutions, with a skip around all of them."""

    def __init__(
        self, config: MaximConfig, level: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        channels = config.channels[level]
        layers: list[nn.Module] = []
        for _ in range(config.num_blocks):
            layers.append(MultiAxisMlp(channels, config.sides[level], **make))
            layers.append(ConvolutionBlock(channels, config.reduction, **make))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        return x + self.layers(x)


class Bottleneck(nn.Module):
    """Pairs of mixing over positions and over channels below the last level."""

    def __init__(self, config: MaximConfig, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        channels = config.channels[-1]
        self.enter = operations.Linear(channels, channels, device=device, dtype=dtype)
        layers: list[nn.Module] = []
        for _ in range(config.num_blocks):
            layers.append(MultiAxisMlp(channels, config.bottleneck_side, **make))
            layers.append(ChannelMixingBlock(channels, config.reduction, **make))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, H, W, C]` to the same shape."""
        x = self.enter(x)
        return x + self.layers(x)


class JoinedGating(nn.Module):
    """Cross gating of two features after a projection of each."""

    def __init__(
        self, config: MaximConfig, level: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        channels, where = config.channels[level], {"device": device, "dtype": dtype}
        self.project_x = operations.Linear(channels, channels, **where)
        self.project_y = operations.Linear(channels, channels, **where)
        self.gating = CrossGating(channels, config.sides[level], **where, operations=operations)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x `[B, H, W, C]` with y of the same shape in it."""
        return self.gating(self.project_x(x), self.project_y(y))[0]


class Encoder(nn.Module):
    """One level on the way down."""

    def __init__(
        self,
        config: MaximConfig,
        level: int,
        first_stage: bool,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        channels = config.channels[level]
        above = config.channels[level - 1] if level else 0
        self.enter = operations.Linear(above + channels, channels, **where)
        self.blocks = Blocks(config, level, **make)
        self.gating = None if first_stage else JoinedGating(config, level, **make)
        self.down = operations.Conv2d(channels, channels, 4, stride=2, padding=1, **where)

    def forward(
        self, above: Tensor | None, frame: Tensor, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode one level.

        Args:
            above: From the level above, `[B, H, W, C']`; None at the first.
            frame: Features of the frame at this scale, `[B, H, W, C]`.
            before: Of the stage before at this level, `[B, H, W, C]`; None in the first.

        Returns:
            Features `[B, H, W, C]`, and `[B, H / 2, W / 2, C]` for the level below.
        """
        x = frame if above is None else torch.cat((above, frame), dim=-1)
        x = self.blocks(self.enter(x))
        if self.gating is not None:
            x = self.gating(x, before)
        return x, convolve(self.down, x)


class Decoder(nn.Module):
    """One level on the way up."""

    def __init__(
        self, config: MaximConfig, level: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        below = config.channels[min(level + 1, len(config.channels) - 1)]
        self.up = Upsample(below, config.channels[level], **make)
        self.fusion = ScaleFusion(config.channels, level, **make)
        self.blocks = Blocks(config, level, **make)

    def forward(self, below: Tensor, skips: list[Tensor]) -> Tensor:
        """Decode one level: `[B, H / 2, W / 2, C']` of below to `[B, H, W, C]`."""
        return self.blocks(self.up(below) + self.fusion(skips))


class Skip(nn.Module):
    """What the decoders take of the encoders, at one level, gated by the bottleneck."""

    def __init__(
        self, config: MaximConfig, level: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        channels = config.channels[level]
        below = config.channels[min(level + 1, len(config.channels) - 1)]
        self.fusion = ScaleFusion(config.channels, level, **make)
        self.up = Upsample(below, channels, **make)
        self.gating = CrossGating(channels, config.sides[level], **make)

    def forward(self, encoded: list[Tensor], below: Tensor) -> tuple[Tensor, Tensor]:
        """Return the skip, and the gating features for the level above: `[B, H, W, C]`."""
        return self.gating(self.fusion(encoded), self.up(below))


class Stage(nn.Module):
    """One UNet over the frame at several scales."""

    def __init__(
        self,
        config: MaximConfig,
        first: bool,
        last: bool,
        *,
        device: Any,
        dtype: Any,
        operations: Any,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        levels = range(len(config.channels))
        self.inputs = nn.ModuleList(
            operations.Conv2d(COLORS, channels, 3, padding=1, **where)
            for channels in config.channels
        )
        self.joins = nn.ModuleList(
            JoinedGating(config, level, **make) for level in ([] if first else levels)
        )
        self.encoders = nn.ModuleList(Encoder(config, level, first, **make) for level in levels)
        self.bottlenecks = nn.Sequential(
            *(Bottleneck(config, **make) for _ in range(config.num_bottlenecks))
        )
        self.skips = nn.ModuleList(Skip(config, level, **make) for level in levels)
        self.decoders = nn.ModuleList(Decoder(config, level, **make) for level in levels)
        self.supervision = nn.ModuleList(
            Supervision(channels, **make) for channels in ([] if last else config.channels)
        )

    def forward(self, frames: list[Tensor], before: list[Tensor], weighed: list[Tensor]):
        """Run one stage.

        Args:
            frames: The frame at each scale, `[B, H, W, 3]`.
            before: Encoded plus decoded features of the stage before at each level; empty
                in the first.
            weighed: What its supervision gave at each level.

        Returns:
            The same two for the next stage; after the last one, decoded features alone.
        """
        above: Tensor | None = None
        encoded: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            seen = convolve(self.inputs[level], frames[level])
            if before:
                seen = self.joins[level](seen, weighed[level])
            features, above = encoder(above, seen, before[level] if before else None)
            encoded.append(features)
        bottom = self.bottlenecks(above)
        levels = range(len(encoded))
        skips, gate = [bottom] * len(encoded), bottom
        for level in reversed(levels):
            skips[level], gate = self.skips[level](encoded, gate)
        decoded, below = [bottom] * len(encoded), bottom
        for level in reversed(levels):
            decoded[level] = below = self.decoders[level](below, skips)
        if not len(self.supervision):
            return decoded, []
        weighed = [
            supervise(features, frame)
            for supervise, features, frame in zip(
                self.supervision, decoded, frames, strict=True
            )
        ]
        return [e + d for e, d in zip(encoded, decoded, strict=True)], weighed


class Maxim(nn.Module):
    """The whole network, a `registry.FeedForwardNetwork` of single frames."""

    reach: None = None
    """Every pixel depends on all of the frame."""

    def __init__(
        self,
        config: MaximConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.config = config
        make = {"device": device, "dtype": dtype, "operations": operations}
        last = config.num_stages - 1
        self.stages = nn.ModuleList(
            Stage(config, index == 0, index == last, **make)
            for index in range(config.num_stages)
        )
        self.output = operations.Conv2d(
            config.channels[0], COLORS, 3, padding=1, device=device, dtype=dtype
        )

    @property
    def num_frames(self) -> int:
        """Consecutive frames it looks at."""
        return self.config.num_frames

    @property
    def bytes_per_pixel(self) -> int:
        """Working memory per pixel of a frame, float32, in bytes.

        Growth of resident memory in bfloat16, 320x320, at the size of MAXIM-3S: 2040; float32
        is taken as twice that.
        """
        return 128 * self.config.channels[0]

    def forward(self, frames: Tensor) -> Tensor:
        """Restore frames, each by itself.

        Args:
            frames: RGB `[B, 3, H, W]` in 0..1; any H and W.

        Returns:
            The same shape, float32, not clamped.
        """
        padded, top, left = pad_to_multiple(frames, self.config.size_multiple)
        height, width = frames.shape[2:]
        restored = padded.float() + self._change(padded)
        return restored[:, :, top : top + height, left : left + width]

    def _change(self, frames: Tensor) -> Tensor:
        scales = [
            # The centre of a position lies between pixels: the one after it is taken.
            frames[:, :, 2**level // 2 :: 2**level, 2**level // 2 :: 2**level]
            for level in range(len(self.config.channels))
        ]
        channels_last = [
            rearrange(scale, "b c h w -> b h w c").contiguous() for scale in scales
        ]
        before: list[Tensor] = []
        weighed: list[Tensor] = []
        for stage in self.stages:
            before, weighed = stage(channels_last, before, weighed)
        change = convolve(self.output, before[0])
        return rearrange(change, "b h w c -> b c h w").float()

    def restore_frame(self, around: Tensor) -> Tensor:
        """Restore a frame.

        Args:
            around: RGB `[1, 3, H, W]`, float32 in 0..1.

        Returns:
            RGB `[3, H, W]`, float32, not clamped.
        """
        return self(around)[0]


def pad_to_multiple(frames: Tensor, multiple: int) -> tuple[Tensor, int, int]:
    """Pad `[B, C, H, W]` to multiples of a size on all sides, by reflection where it reaches.

    Returns:
        The padded frames, and the rows above and columns left of the frame in them.
    """
    height, width = frames.shape[2:]
    down, across = -height % multiple, -width % multiple
    top, left = down // 2, across // 2
    for size, pads in (
        (height, (0, 0, top, down - top)),
        (width, (left, across - left, 0, 0)),
    ):
        if any(pads):
            mode = "reflect" if max(pads) < size else "replicate"
            frames = F.pad(frames, pads, mode=mode)
    return frames, top, left
