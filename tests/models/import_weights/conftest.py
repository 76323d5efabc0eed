"""Small networks of diffusers and open_clip, and files of their weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from . import published


@pytest.fixture(scope="session")
def reference_unet():
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel(**published.small_unet_config())
    unet.load_state_dict(published.randomised(unet))
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def reference_autoencoder():
    from diffusers import AutoencoderKL

    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
    )
    autoencoder.load_state_dict(published.randomised(autoencoder))
    return autoencoder.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def reference_clip():
    from open_clip.model import CLIP

    clip = CLIP(
        embed_dim=64,
        vision_cfg={
            **{"image_size": 28, "patch_size": 14, "layers": 2, "width": 160},
            "head_width": 80,
        },
        text_cfg={"context_length": 7, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1},
    )
    clip.load_state_dict(published.randomised(clip))
    return clip.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def files(tmp_path_factory, reference_unet, reference_autoencoder, reference_clip):
    """Files that fit together: `modelscope`, `tf_t2v`, `vae`, `clip`."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    unet, vae = reference_unet.state_dict(), reference_autoencoder.state_dict()
    found = SimpleNamespace(
        modelscope=folder / "text2video_pytorch_model.pth",
        tf_t2v=folder / "tft2v_t2v_non_ema_512000.pth",
        vae=folder / "v2-1_512-ema-pruned.safetensors",
        clip=folder / "open_clip_pytorch_model.bin",
    )
    torch.save(published.vgen_state_dict(unet), found.modelscope)
    torch.save({"state_dict": published.tf_t2v_state_dict(unet), "step": 512000}, found.tf_t2v)
    ldm = {f"first_stage_model.{n}": w for n, w in published.ldm_state_dict(vae).items()}
    ldm["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    ldm["cond_stage_model.model.logit_scale"] = torch.zeros(1)
    save_file({name: weight.contiguous() for name, weight in ldm.items()}, found.vae)
    torch.save(reference_clip.state_dict(), found.clip)
    return found
