"""CPFP, the first stage of CPGD-Net: features of a clip, propagated along the codec's motion.

After arXiv 2504.12222, from its description; the blocks are our own: those of NAFNet (arXiv
2204.04676) without its attention over channels, whose mean over the picture would make every
pixel depend on how frames are cut into tiles. Layer normalisation and a gate in place of an
activation train at large learning rates, and all but a small depthwise convolution are matrix
products.

Clips are `[B, C, T, H, W]`. Passes go through a clip in turn: backward, forward, backward,
forward; each frame takes from the two before it (in that order) what the pass found there, and
all that earlier passes found in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .cpgd_alignment import Alignment, Neighbours, sample
from .cpgd_config import CpfpConfig
from .cpgd_priors import SCALE, ClipPriors, Links, check_priors, make_links
from .layers import make_norm, zero_init

NUM_PASSES = 4


class Block(nn.Module):
    """Mix the neighbourhood of each position, then its channels, each around a skip."""

    def __init__(self, channels: int, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        wide = 2 * channels
        self.norm1 = make_norm("channel", channels, 1, 1e-6, **make)
        self.expand = operations.Conv2d(channels, wide, 1, **where)
        self.around = operations.Conv2d(wide, wide, 3, padding=1, groups=wide, **where)
        self.project = operations.Conv2d(channels, channels, 1, **where)
        self.norm2 = make_norm("channel", channels, 1, 1e-6, **make)
        self.mix = operations.Conv2d(channels, wide, 1, **where)
        self.unmix = operations.Conv2d(channels, channels, 1, **where)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C, H, W]` to the same shape."""
        value, gate = self.around(self.expand(self.norm1(x))).chunk(2, dim=1)
        x = x + self.project(value * gate)
        value, gate = self.mix(self.norm2(x)).chunk(2, dim=1)
        return x + self.unmix(value * gate)


def _blocks(count: int, channels: int, **make: Any) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, **make) for _ in range(count)))


class Encoder(nn.Module):
    """From frames to features at 1, 1/2 and 1/4."""

    def __init__(self, config: CpfpConfig, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        widths = (3, *config.channels)
        self.enter = nn.ModuleList(
            operations.Conv2d(*pair, 3, stride=1 if level == 0 else 2, padding=1, **where)
            for level, pair in enumerate(pairwise(widths))
        )
        self.blocks = nn.ModuleList(
            _blocks(count, width, **where, operations=operations)
            for count, width in zip(config.encoder_blocks, config.channels, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Encode `[N, 3, H, W]`, H and W multiples of 4."""
        features, x = [], images
        for enter, blocks in zip(self.enter, self.blocks, strict=True):
            x = blocks(enter(x))
            features.append(x)
        return features


class Decoder(nn.Module):
    """From features at 1/4, with those of the encoder, to what is added to the frames."""

    def __init__(self, config: CpfpConfig, *, device: Any, dtype: Any, operations: Any):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        full, half, quarter = config.channels
        counts = config.decoder_blocks
        make = {**where, "operations": operations}
        self.join = operations.Conv2d((1 + NUM_PASSES) * quarter, quarter, 1, **where)
        self.blocks = nn.ModuleList(
            _blocks(count, width, **make)
            for count, width in zip(counts, config.channels, strict=True)
        )
        self.to_half = operations.Conv2d(quarter, 4 * half, 1, **where)
        self.to_full = operations.Conv2d(half, 4 * full, 1, **where)
        self.leave = operations.Conv2d(full, 3, 3, padding=1, **where)
        # So that an untrained network returns its input.
        zero_init(self.leave)

    def forward(self, found: Sequence[Tensor], encoded: Sequence[Tensor]) -> Tensor:
        """Decode.

        Args:
            found: Features `[N, C, H / 4, W / 4]` of the encoder and of each pass.
            encoded: Features of the encoder at 1 and 1/2.

        Returns:
            `[N, 3, H, W]`.
        """
        x = self.blocks[2](self.join(torch.cat(list(found), dim=1)))
        x = self.blocks[1](F.pixel_shuffle(self.to_half(x), 2) + encoded[1])
        x = self.blocks[0](F.pixel_shuffle(self.to_full(x), 2) + encoded[0])
        return self.leave(x)


class PropagationPass(nn.Module):
    """One way through a clip."""

    def __init__(
        self, config: CpfpConfig, index: int, *, device: Any, dtype: Any, operations: Any
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        make = {**where, "operations": operations}
        channels = config.channels[-1]
        self.alignment = Alignment(channels, config.offset_groups, config.max_offset, **make)
        self.join = operations.Conv2d((2 + index) * channels, channels, 1, **where)
        self.blocks = _blocks(config.pass_blocks, channels, **make)

    def forward(self, earlier: Sequence[Sequence[Tensor]], links: Links) -> list[Tensor]:
        """Go through a clip.

        Args:
            earlier: Features `[B, C, h, w]` per frame, in the order of this pass: of the
                encoder, then of each earlier pass.
            links: In the same order.

        Returns:
            Features of this pass per frame.
        """
        found: list[Tensor] = []
        for index, known in enumerate(zip(*earlier, strict=True)):
            aligned = self._aligned(known[0], found, links, index)
            joined = self.join(torch.cat([*known, aligned], dim=1))
            found.append(aligned + self.blocks(joined))
        return found

    def _aligned(
        self, current: Tensor, found: Sequence[Tensor], links: Links, index: int
    ) -> Tensor:
        """Bring what was found in the two frames before to a frame; across a cut nothing."""
        if index == 0:
            return torch.zeros_like(current)
        # The first two frames lack one or both: zeros, as after a cut.
        if index == 1:
            before = (found[0], torch.zeros_like(current))
            second = [torch.zeros_like(part[0]) for part in (links.motion, links.valid)]
            older = torch.zeros_like(links.attention[0])
        else:
            before = (found[index - 1], found[index - 2] * links.linked[index - 1].to(current))
            second = [links.motion[index - 1], links.valid[index - 1]]
            older = links.attention[index - 2]
        first = links.motion[index]
        motion = (first, first + sample(second[0], first, "border"))
        valid = (links.valid[index], links.valid[index] * sample(second[1], first))
        attention = (
            links.attention[index],
            sample(links.attention[index - 1], motion[0]) * valid[0],
            sample(older, motion[1]) * valid[1],
        )
        aligned = self.alignment(current, before, Neighbours(motion, valid, attention))
        return aligned * links.linked[index].to(current)


class Cpfp(nn.Module):
    """The network of stage 1."""

    def __init__(
        self,
        config: CpfpConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        self.config = config
        self.encoder = Encoder(config, **make)
        self.passes = nn.ModuleList(
            PropagationPass(config, index, **make) for index in range(NUM_PASSES)
        )
        self.decoder = Decoder(config, **make)

    def forward(self, video: Tensor, priors: ClipPriors) -> Tensor:
        """Restore a clip.

        Args:
            video: `[B, 3, T, H, W]` in -1..1; any T, H and W from 1 up.
            priors: Of the same clips.

        Returns:
            The same shape, float32, not clamped.

        Raises:
            ValueError: If the priors are of another clip.
        """
        check_priors(video, priors)
        batch, height, width = video.shape[0], *video.shape[3:]
        images = rearrange(video, "b c t h w -> (b t) c h w")
        pad = (0, -width % SCALE, 0, -height % SCALE)
        images = F.pad(images, pad, mode="replicate") if any(pad) else images
        encoded = self.encoder(images.contiguous(memory_format=torch.channels_last))
        forward, backward = make_links(priors, self.config.priors)
        earlier = [_frames_of(encoded[-1], batch)]
        for index, one_pass in enumerate(self.passes):
            step, links = (1, forward) if index % 2 else (-1, backward)
            earlier.append(one_pass([each[::step] for each in earlier], links)[::step])
        added = self.decoder([_flat(each) for each in earlier], encoded)
        added = rearrange(added[..., :height, :width], "(b t) c h w -> b c t h w", b=batch)
        return video.float() + added.float()


def _frames_of(features: Tensor, batch: int) -> list[Tensor]:
    """Split `[(B T), C, h, w]` into frames `[B, C, h, w]`."""
    return list(rearrange(features, "(b t) c h w -> t b c h w", b=batch).unbind())


def _flat(frames: Sequence[Tensor]) -> Tensor:
    """Join frames `[B, C, h, w]` to `[(B T), C, h, w]`."""
    return rearrange(torch.stack(list(frames), dim=1), "b t c h w -> (b t) c h w")
