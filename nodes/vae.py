"""The autoencoder as a native VAE of ComfyUI, and as the decoder of our own node."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.taesd.taesd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.autoencoder import Autoencoder, make_encoder
from ..models.config import DivdConfig
from ..models.divd import Divd
from ..models.hardware import decode_bytes, encode_bytes
from .memory import make_patcher


class DeblurVaeNetwork(Autoencoder):
    """The autoencoder as a VAE holds it, with all that residual decoding needs."""

    def __init__(self, config: DivdConfig, *, device: Any, dtype: Any, operations: Any) -> None:
        make = {"device": device, "dtype": dtype, "operations": operations}
        super().__init__(config.autoencoder, **make)
        self.deblur_config = config
        # The detail skip takes features of the blurry frames while decoding.
        self.blur_encoder = (
            make_encoder(config.autoencoder, **make) if config.autoencoder.detail_skip else None
        )

    def decode(self, latents: Tensor, **options: Any) -> Tensor:
        """Decode plainly: `[N, C, h, w]` to `[N, 3, H, W]`."""
        return super().decode(latents)


class DeblurVae(comfy.sd.VAE):
    """A native VAE around our autoencoder, in float32.

    Residual decoding subtracts two nearly equal pictures: half precision would show.
    """

    def __init__(self, network: DeblurVaeNetwork) -> None:
        # A VAE recognises its network by the names of the weights. Starting from the
        # smallest known one sets every attribute that this version of ComfyUI reads.
        super().__init__(sd=comfy.taesd.taesd.TAESD().state_dict())
        config = network.deblur_config.autoencoder
        scale = config.downscale
        self.latent_channels = config.latent_channels
        self.downscale_ratio = self.upscale_ratio = scale
        self.memory_used_encode = lambda shape, dtype: encode_bytes(
            config, shape[2] * shape[3], dtype
        )
        self.memory_used_decode = lambda shape, dtype: decode_bytes(
            config, shape[2] * shape[3] * scale**2, dtype
        )
        self.process_input = lambda image: image * 2.0 - 1.0
        # In place: newer versions pass over what it returns.
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.working_dtypes = [torch.float32]
        self.vae_dtype = torch.float32
        self.first_stage_model = network
        self.patcher = make_patcher(
            network, self.device, comfy.model_management.vae_offload_device()
        )

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """Pad `[N, H, W, C]` to the latents' grid where other VAEs crop."""
        multiple = self.first_stage_model.deblur_config.autoencoder.downscale
        height, width = pixels.shape[1:3]
        pad = (0, -width % multiple, 0, -height % multiple)
        padded = F.pad(pixels[..., :3].movedim(-1, 1), pad, mode="replicate")
        return padded.movedim(1, -1)


class AssembledDivd(Divd):
    """A `Divd` of networks that live in ComfyUI's patchers; parts may be missing."""

    def __init__(self, config: DivdConfig, **parts: nn.Module | None) -> None:
        nn.Module.__init__(self)
        self.config = config
        for name, part in parts.items():
            setattr(self, name, part)


def decoding_divd(vae: Any) -> AssembledDivd:
    """Return the part of the model that decodes, from a VAE of ours.

    Raises:
        ValueError: If it is another VAE.
    """
    network = getattr(vae, "first_stage_model", None)
    if not isinstance(network, DeblurVaeNetwork):
        raise ValueError(
            "vae must come from Load Deblur Checkpoint: this one decodes other latents"
        )
    return AssembledDivd(
        network.deblur_config, autoencoder=network, blur_encoder=network.blur_encoder
    )


def build_vae(config: DivdConfig, state_dict: dict[str, Tensor]) -> DeblurVae:
    """Build the VAE of a checkpoint."""
    weights = part_of(state_dict, "autoencoder.")
    if config.autoencoder.detail_skip:
        weights.update(
            (f"blur_encoder.{name}", tensor)
            for name, tensor in part_of(state_dict, "blur_encoder.").items()
        )
    network = DeblurVaeNetwork(
        config,
        device=comfy.model_management.vae_offload_device(),
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    network.load_state_dict(weights, strict=True)
    return DeblurVae(network.eval().requires_grad_(False))


def part_of(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights under a prefix of the checkpoint, by their names in the network."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state_dict.items()
        if name.startswith(prefix)
    }
