"""The steps of the full-size test; each runs in a process whose memory is measured."""

from __future__ import annotations

from pathlib import Path

import published
import torch
from safetensors.torch import save_file
from video_deblur.models.checkpoint import load_model, read_info, save_checkpoint
from video_deblur.models.import_weights.convert import convert_weights
from video_deblur.models.schedule import clean_from_velocity
from video_deblur.restoration.load import load_deblurrer

UNET = "tft2v_t2v_non_ema_512000.pth"
VAE = "v2-1_512-ema-pruned.safetensors"
CLIP = "open_clip_pytorch_model.bin"
INIT = "deblur-init.safetensors"


def write_unet(folder: Path) -> None:
    """Write TF-T2V's UNet as published, half precision, random."""
    from diffusers import UNet3DConditionModel

    with torch.device("meta"):
        unet = UNet3DConditionModel(**published.full_unet_config())
    weights = published.tf_t2v_state_dict(_filled(unet))
    torch.save({"state_dict": weights, "step": 512000}, folder / UNET)


def write_others(folder: Path) -> None:
    """Write a Stable Diffusion checkpoint's autoencoder and OpenCLIP's ViT-H-14."""
    import open_clip
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        clip = open_clip.model.CLIP(**open_clip.get_model_config("ViT-H-14"))
    ldm = published.ldm_state_dict(_filled(vae))
    ldm = {f"first_stage_model.{name}": value.contiguous() for name, value in ldm.items()}
    save_file(ldm, folder / VAE)
    torch.save(_filled(clip), folder / CLIP)


def convert(folder: Path) -> None:
    convert_weights(folder / UNET, folder / VAE, folder / CLIP, folder / INIT)


def load_as_stored(folder: Path) -> None:
    load_deblurrer(folder / INIT, "cpu", "float16")


def step(folder: Path) -> None:
    """Load in single precision, denoise 16 frames of 256x256 once, and save the model."""
    model = load_deblurrer(folder / INIT, "cpu", "float32").model
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(1, 3, 1, 256, 256, generator=generator) * 2 - 1
    noise, blur = torch.randn(2, 1, 4, 16, 32, 32, generator=generator).unbind(0)
    timesteps = torch.tensor([999])
    with torch.no_grad():
        tokens = model.encode_tokens(images[:, :, 0])
        blur[:, :, :1] = model.encode_blur(images)
        v = model.unet(torch.cat([noise, blur], dim=1), timesteps, tokens)
        latents = clean_from_velocity(model.config.schedule, noise, v, timesteps)
        decoded = model.decode_restored(latents[:, :, :1], images)
    torch.save({"tokens": tokens, "latents": latents, "decoded": decoded}, folder / "step.pt")
    info = read_info(folder / INIT)
    save_checkpoint(
        folder / "saved.safetensors",
        model.state_dict(),
        info.config,
        provenance=info.provenance,
        licence=info.licence,
    )


def compare(folder: Path) -> None:
    """Compute the same in double precision with our UNet and with diffusers'."""
    from diffusers import UNet3DConditionModel

    unet = load_model(folder / INIT, dtype=torch.float16).unet
    with torch.device("meta"):
        reference = UNet3DConditionModel(**published.full_unet_config())
    weights = unet.state_dict()
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :4]
    reference.load_state_dict(weights, strict=True, assign=True)
    generator = torch.Generator().manual_seed(4)
    double = {"generator": generator, "dtype": torch.float64}
    noise, blur = torch.randn(2, 1, 4, 2, 64, 64, **double).unbind(0)
    timesteps, context = torch.tensor([500]), torch.randn(1, 4, 1024, **double)
    with torch.no_grad():
        ours = _in_double(unet)(torch.cat([noise, blur], dim=1), timesteps, context)
        theirs = _in_double(reference)(noise, timesteps, context).sample
    torch.save({"ours": ours, "theirs": theirs}, folder / "parity.pt")


def _in_double(network: torch.nn.Module) -> torch.nn.Module:
    """Have a network compute in double precision, each layer's weights cast while it works.

    All at once they would take 11 GB. In single precision rounding alone comes to 1e-5 of the
    result through so many layers.
    """

    def cast(layer: torch.nn.Module, inputs: object) -> None:
        layer.kept = [parameter.data for parameter in layer.parameters()]
        layer.double()

    def restore(layer: torch.nn.Module, inputs: object, output: object) -> None:
        for parameter, kept in zip(layer.parameters(), layer.kept, strict=True):
            parameter.data = kept

    for layer in network.modules():
        if not list(layer.children()) and list(layer.parameters()):
            layer.register_forward_pre_hook(cast)
            layer.register_forward_hook(restore)
    # diffusers reads off these what dtype to embed the timestep in.
    network.conv_in.double()
    network.conv_out.double()
    return network.eval()


def _filled(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return half-precision weights N(0, 0.02) of a network on the meta device."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: (0.02 * torch.randn(value.shape, generator=generator)).half()
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }
