"""CPGD-Net: deblurring along what a video codec knows of a clip.

After "Coding-Prior Guided Diffusion Network for Video Deblurring" (arXiv 2504.12222), from its
description: the official release has no licence. Stage 1 (`cpgd_propagation`) restores a clip
by regression; stage 2 (`cpgd_control`), if there is one, starts from its result and samples
detail.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .cpgd_config import CpgdConfig
from .cpgd_control import Cpc
from .cpgd_priors import ClipPriors
from .cpgd_propagation import Cpfp
from .hardware import UNET_BYTES, decode_bytes, unet_width


class Cpgd(nn.Module):
    """The network, a `registry.ClipNetwork`."""

    def __init__(
        self,
        config: CpgdConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.config = config
        make = {"device": device, "dtype": dtype, "operations": operations}
        self.cpfp = Cpfp(config.cpfp, **make)
        self.cpc = None if config.cpc is None else Cpc(config.cpc, **make)

    @property
    def bytes_per_pixel(self) -> int:
        """Working memory per pixel of a window's frame, in bytes.

        Growth of resident memory in float32: the tiny network 607 (24 frames of 128x128; of 8:
        672) of 832, the full one 4068 (4 frames of 64x64) of 4352. Blocks at full resolution
        hold copies of twice its width. Stage 2 runs after it: its UNet, then its decoder.
        """
        full, half, quarter = self.config.cpfp.channels
        has_blocks = self.config.cpfp.encoder_blocks[0] or self.config.cpfp.decoder_blocks[0]
        first = 4 * ((12 if has_blocks else 6) * full + 2 * half + quarter)
        if self.cpc is None:
            return first
        divd = self.cpc.divd
        unet = UNET_BYTES * unet_width(divd.config.unet) / divd.downscale**2
        # Branch and UNet are run one after the other, but what the branch made is kept.
        return round(max(first, 1.5 * unet, decode_bytes(divd.config.autoencoder, 1)))

    def forward(self, video: Tensor, priors: ClipPriors) -> Tensor:
        """Restore a clip by the first stage; see `Cpfp`."""
        return self.cpfp(video, priors)
