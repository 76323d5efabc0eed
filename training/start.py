"""The model that a stage starts from: what has been trained, and new networks around it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

import torch
from einops import rearrange
from torch import nn

from ..models.autoencoder import Autoencoder
from ..models.checkpoint import CheckpointInfo, load_model, read_info
from ..models.config import AutoencoderConfig, DivdConfig
from ..models.cpgd import Cpgd
from ..models.cpgd_config import CpcConfig, CpgdConfig
from ..models.divd import Divd
from .config import CpcStage
from .data.loader import TrainingData
from .preflight import check_autoencoder
from .stage_trainer import Request

_Config = TypeVar("_Config")


def network_of(
    request: Request, own: object, config_type: type[_Config]
) -> tuple[_Config, CheckpointInfo | None]:
    """Return the config of the network that a request trains, without autoencoder.

    Args:
        request: What was asked for.
        own: The preset's config; None where it only goes on with a checkpoint.
        config_type: The only kind of network that the preset trains.

    Returns:
        The config, and the checkpoint that the run goes on with, if there is one.

    Raises:
        ValueError: If the request names an autoencoder, or neither it nor the preset a network.
        FileNotFoundError: If there is no such checkpoint.
    """
    if request.autoencoder is not None:
        raise ValueError("a network of this kind has none: leave out --autoencoder")
    if request.init is None and own is None:
        raise ValueError("this preset starts from a checkpoint; name one with --init")
    start = None if request.init is None else read_info(request.init, config_type=config_type)
    config = own if start is None else start.config
    assert isinstance(config, config_type)
    return config, start


def with_statistics(
    config: DivdConfig, autoencoder: Autoencoder, data: TrainingData, seed: int
) -> Divd:
    """Build the model around a trained autoencoder, its latents measured for the config."""
    generator = torch.Generator().manual_seed(seed + 2)
    images = data.images(192, 128, generator) * 2 - 1
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(part) for part in images.split(32)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    normalised = rearrange(
        (latents - mean[:, None, None]) / std[:, None, None], "n c h w -> (n h w) c"
    )
    colours = torch.nn.functional.avg_pool2d(images, config.autoencoder.downscale)
    solution = torch.linalg.lstsq(
        torch.cat([normalised, torch.ones(len(normalised), 1)], dim=1),
        rearrange(colours, "n c h w -> (n h w) c"),
    ).solution
    rows = [tuple(round(float(v), 5) for v in row) for row in solution]
    measured: AutoencoderConfig = dataclasses.replace(
        config.autoencoder,
        latent_mean=tuple(round(float(v), 5) for v in mean),
        latent_std=tuple(round(float(v), 5) for v in std),
        latent_rgb_factors=tuple(rows[:-1]),
        latent_rgb_bias=rows[-1],
    )
    return _around(dataclasses.replace(config, autoencoder=measured), autoencoder, seed)


def with_autoencoder(config: DivdConfig, checkpoint: str | Path, seed: int) -> Divd:
    """Build the model around the autoencoder of a checkpoint.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is damaged, or its autoencoder is not the one that `config` asks for.
    """
    trained = load_model(checkpoint, operations=nn)
    wanted, found = config.autoencoder, trained.config.autoencoder
    check_autoencoder(wanted, found, checkpoint)
    measured = dataclasses.replace(found, detail_skip=wanted.detail_skip)
    config = dataclasses.replace(config, autoencoder=measured)
    return _around(config, trained.autoencoder, seed)


def second_stage_config(config: CpgdConfig, divd: DivdConfig, stage: CpcStage) -> CpgdConfig:
    """Return the config of CPGD-Net with a second stage around a diffusion model.

    Raises:
        ConfigError: If the widths that the stage asks for do not fit.
    """
    if stage.image_encoder is not None:
        divd = dataclasses.replace(divd, image_encoder=stage.image_encoder)
    cpc = CpcConfig(divd=divd, control_channels=stage.control_channels)
    sampling = dataclasses.replace(
        config.sampling,
        steps=divd.sampling.steps,
        guidance_scale=divd.sampling.guidance_scale,
    )
    return dataclasses.replace(config, cpc=cpc, sampling=sampling)


def with_second_stage(model: Cpgd, divd: Divd, stage: CpcStage, seed: int) -> Cpgd:
    """Build a second stage around a diffusion model, behind a trained first one."""
    torch.manual_seed(seed + 4)
    whole = Cpgd(second_stage_config(model.config, divd.config, stage))
    whole.cpfp.load_state_dict(model.cpfp.state_dict())
    assert whole.cpc is not None
    whole.cpc.begin_from(divd)
    return whole


def _around(config: DivdConfig, autoencoder: Autoencoder, seed: int) -> Divd:
    """Build new networks around an autoencoder.

    The blur encoder starts as a copy of the sharp one (Wang & Long), a detail skip as nothing.
    """
    torch.manual_seed(seed + 3)
    model = Divd(config)
    fresh = model.autoencoder.state_dict()
    kept = {n: w for n, w in autoencoder.state_dict().items() if n in fresh}
    model.autoencoder.load_state_dict({**fresh, **kept})
    model.blur_encoder.load_state_dict(autoencoder.encoder.state_dict())
    return model
