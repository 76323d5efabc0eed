"""The whole model: image encoders, conditioned 3D-UNet and decoder.

After "Deblurring via Video Diffusion Models" (Wang & Long) and DIVD (arXiv 2412.00773); a
re-implementation, with the choices the papers leave open recorded in docs/decisions.md.

Clips are `video` `[B, 3, T, H, W]` in -1..1, H and W multiples of `downscale`; latents are
`[B, C, T, h, w]`, normalised. The class only encodes and decodes; sampling is in
`restoration`.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor, nn

from .autoencoder import (
    Autoencoder,
    Encoder,
    denormalise_latents,
    make_encoder,
    normalise_latents,
)
from .config import DivdConfig
from .image_encoder import ImageEncoder
from .precision import exact_float32
from .unet3d import UNet3D


class Divd(nn.Module):
    """Hold the four networks under the key prefixes of the checkpoint."""

    def __init__(
        self,
        config: DivdConfig,
        *,
        device: Any = None,
        dtype: Any = None,
        operations: Any = nn,
    ):
        super().__init__()
        make = {"device": device, "dtype": dtype, "operations": operations}
        self.config = config
        self.unet = UNet3D(config.unet, config.schedule, **make)
        self.autoencoder = Autoencoder(config.autoencoder, **make)
        self.blur_encoder = make_encoder(config.autoencoder, **make)
        self.image_encoder = ImageEncoder(config.image_encoder, **make)

    @property
    def downscale(self) -> int:
        """Pixels per latent position."""
        return self.config.autoencoder.downscale

    @exact_float32()
    def encode_sharp(self, video: Tensor) -> Tensor:
        """Encode with the sharp encoder: the space that is denoised."""
        return self._per_frame(self._normalised(self.autoencoder.encoder), video)

    @exact_float32()
    def encode_blur(self, video: Tensor) -> Tensor:
        """Encode blurry frames with the trained blur encoder: the condition."""
        return self._per_frame(self._normalised(self.blur_encoder), video)

    def encode_tokens(self, images: Tensor) -> Tensor:
        """Encode frames `[N, 3, H, W]` to image tokens `[N, M, D]`."""
        return self.image_encoder(images)

    @exact_float32()
    def decode(self, latents: Tensor, detail_video: Tensor | None = None) -> Tensor:
        """Decode latents to video, not clamped.

        Args:
            latents: `[B, C, T, h, w]`, normalised.
            detail_video: Blurry clip whose features the decoder may take; read only with
                `detail_skip`.
        """
        latents = denormalise_latents(self.config.autoencoder, latents)
        flat = rearrange(latents, "b c t h w -> (b t) c h w")
        detail = []
        if detail_video is not None and self.config.autoencoder.detail_skip:
            assert isinstance(self.blur_encoder, Encoder), "the config refuses it otherwise"
            images = rearrange(detail_video, "b c t h w -> (b t) c h w")
            detail = [self.blur_encoder.features(images)]
        images = self.autoencoder.decoder(flat, *detail)
        return rearrange(images, "(b t) c h w -> b c t h w", b=latents.shape[0])

    def decode_restored(self, latents: Tensor, blurry: Tensor) -> Tensor:
        """Decode the latents of a restored clip, given the blurry one.

        With residual decoding this is `blurry + D(z) - D(E_sharp(blurry))`: nothing is
        lost where nothing is to be done, whatever the autoencoder loses.

        Args:
            latents: `[B, C, T, h, w]`, normalised.
            blurry: `[B, 3, T, H, W]` in -1..1.

        Returns:
            `[B, 3, T, H, W]`, not clamped.
        """
        restored = self.decode(latents, blurry)
        if not self.config.residual_decoding:
            return restored
        return blurry + (restored - self.decode(self.encode_sharp(blurry)))

    def _normalised(self, encoder: nn.Module):
        def encode(images: Tensor) -> Tensor:
            return normalise_latents(self.config.autoencoder, encoder(images))

        return encode

    @staticmethod
    def _per_frame(function: Any, video: Tensor) -> Tensor:
        images = rearrange(video, "b c t h w -> (b t) c h w")
        return rearrange(function(images), "(b t) c h w -> b c t h w", b=video.shape[0])
