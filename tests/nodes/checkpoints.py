"""A small checkpoint with random weights that do something, made on the fly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from video_deblur.models.checkpoint import load_model, read_info, save_checkpoint
from video_deblur.models.config import (
    AutoencoderConfig,
    DivdConfig,
    ImageEncoderConfig,
    SamplingConfig,
    UNet3DConfig,
)
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_config import CpcConfig
from video_deblur.models.divd import Divd
from video_deblur.models.import_weights.convert import convert_weights
from video_deblur.restoration.settings import preset_settings

from ..conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG
from ..models.import_weights import published

NAME = "random.safetensors"
CONVERTED_NAME = "converted.safetensors"
STAGES = {1: "cpgd.safetensors", 2: "cpgd_two_stages.safetensors"}
"""Checkpoints of CPGD-Net by how many stages they hold."""
every_stage = pytest.mark.parametrize(
    "name", STAGES.values(), ids=["first stage", "both stages"]
)


def random_config(**autoencoder: object) -> DivdConfig:
    """Return the tiny layout at a fraction of its width, its autoencoder changed."""
    channels = 16
    return DivdConfig(
        unet=UNet3DConfig(
            in_channels=2 * channels,
            out_channels=channels,
            block_channels=(16, 32, 32),
            layers_per_block=1,
            head_dim=16,
            context_dim=16,
            attention_levels=(False, False, True),
            temporal_attention="window",
            temporal_levels=(False, True, True),
            windows=((4, 4, 4),) * 3,
            norm="channel",
            transformer_in=False,
            latent_skip=True,
        ),
        autoencoder=dataclasses.replace(
            AutoencoderConfig(
                latent_channels=channels,
                channels=(16, 32),
                blocks=(1, 1),
                latent_mean=tuple(0.01 * index for index in range(channels)),
                latent_std=tuple(0.5 + 0.02 * index for index in range(channels)),
                latent_rgb_factors=tuple((0.1, 0.08, -0.05) for _ in range(channels)),
                latent_rgb_bias=(0.1, 0.0, -0.1),
            ),
            **autoencoder,
        ),
        image_encoder=ImageEncoderConfig(
            image_size=32,
            patch_size=8,
            width=32,
            layers=1,
            heads=2,
            embedding_dim=16,
            num_tokens=2,
            context_dim=16,
        ),
        sampling=SamplingConfig(steps=2, guidance_scale=1.5),
    )


def write_random_checkpoint(folder: Path, **autoencoder: object) -> Path:
    """Write a checkpoint whose zero-initialised layers are random too."""
    config = random_config(**autoencoder)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = Divd(config)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.08)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    save_checkpoint(
        path, model.state_dict(), config, provenance={"steps": 0}, dtype=torch.float32
    )
    return path


def write_cpgd_checkpoint(path: Path, *, second_stage: bool = False) -> Path:
    """Write a small CPGD-Net that changes frames, all in float32."""
    cpc = CpcConfig(divd=SMALL_CONFIG, control_channels=(8, 16)) if second_stage else None
    config = dataclasses.replace(SMALL_CPGD_CONFIG, cpc=cpc)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = Cpgd(config)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = network.state_dict()
    save_checkpoint(path, weights, config, provenance={"steps": 0}, dtype=torch.float32)
    return path


def write_converted_checkpoint(folder: Path, sources: Path) -> Path:
    """Convert files of TF-T2V's layout at reduced width, as users convert the public ones.

    The blur latents' channels get weights, as after training.
    """
    torch.manual_seed(0)
    files = published.write_files(
        sources, published.small_unet(), published.small_autoencoder(), published.small_clip()
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONVERTED_NAME
    convert_weights(files.tf_t2v, files.vae, files.clip, path, dtype=torch.float32)
    info, weights = read_info(path), load_model(path).state_dict()
    first = weights["unet.conv_in.weight"]
    first[:, 4:] = first[:, :4].flip(0)
    save_checkpoint(path, weights, info.config, provenance=info.provenance, dtype=torch.float32)
    return path


def blurry_clip(num_frames: int, height: int, width: int) -> torch.Tensor:
    """Return smooth moving frames `[T, H, W, 3]` in 0..1."""
    rows = torch.linspace(0, 6, height)[None, :, None, None]
    columns = torch.linspace(0, 9, width)[None, None, :, None]
    times = torch.arange(num_frames)[:, None, None, None] * 0.3
    colors = torch.tensor([0.0, 1.0, 2.0])
    waves = torch.sin(rows + times + colors) * torch.cos(columns - times)
    return (0.5 + 0.4 * waves).clamp(0, 1)


def library_latents(library, frames, monkeypatch, **settings):
    """Return the latents `[T, C, h, w]` that the library decodes, and its frames."""
    found = []
    decode = library.model.decode_restored
    monkeypatch.setattr(
        library.model,
        "decode_restored",
        lambda latents, blurry: (found.append(latents), decode(latents, blurry))[1],
    )
    settings = preset_settings(library.model.config, "fast", **settings)
    restored = library.restore(frames, settings)
    return torch.cat(found, dim=2)[0].movedim(1, 0), restored
