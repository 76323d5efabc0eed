"""A preset from start to end: data, stage 0, joint stage, exported checkpoint."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ..models.autoencoder import Autoencoder
from ..models.checkpoint import load_model, save_checkpoint
from ..models.config import AutoencoderConfig, DivdConfig
from ..models.divd import Divd
from .config import AutoencoderStage, JointStage, Preset
from .data import TrainingData
from .loop import Run, train
from .stages import autoencoder_loss, joint_loss

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]


def train_preset(
    preset: Preset,
    data_folder: str | Path,
    folder: str | Path,
    *,
    device: str = "cpu",
    init: str | Path | None = None,
    provenance: dict[str, object] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run the stages of a preset and export the checkpoint.

    A folder with an unfinished run is resumed.

    Args:
        preset: Model, stages, seed.
        data_folder: Training data; see `data`.
        folder: Where states, logs and `checkpoint.safetensors` go.
        device: Torch device.
        init: Name or path of a checkpoint to start from; stage 0 is then skipped and the
            checkpoint's config kept.
        provenance: More JSON values to store in the checkpoint.
        progress: Called at every log line.

    Returns:
        Path of the exported checkpoint.

    Raises:
        ValueError: If the preset needs a checkpoint to start from and none is given.
    """
    stage = None if init is not None else preset.autoencoder
    if init is None and stage is None:
        raise ValueError("this preset starts from a checkpoint; name one with --init")
    folder = Path(folder)
    torch.manual_seed(preset.seed)
    data = TrainingData(data_folder)
    if init is not None:
        model = load_model(init).requires_grad_(True).to(device)
    else:
        model = Divd(preset.model).to(device)
        assert stage is not None
        _train_autoencoder(
            model.autoencoder, data, stage, preset.seed, folder, device, progress
        )
        model = _with_statistics(model, data, preset.seed, device)
    joint_steps = _train_joint(model, data, preset, folder, device, progress)
    path = folder / "checkpoint.safetensors"
    if int(os.environ.get("RANK", "0")) == 0:
        save_checkpoint(
            path,
            model.state_dict(),
            model.config,
            provenance={
                "seed": preset.seed,
                "joint": {**dataclasses.asdict(preset.joint), "steps_done": joint_steps},
                "autoencoder": None if stage is None else dataclasses.asdict(stage),
                "init": None if init is None else Path(init).name,
                **(provenance or {}),
            },
        )
    return path


def _train_autoencoder(
    autoencoder: Autoencoder,
    data: TrainingData,
    stage: AutoencoderStage,
    seed: int,
    folder: Path,
    device: str,
    progress: Progress | None,
) -> None:
    share = max(stage.batch_size // _world(), 1)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = data.images(share, stage.crop, generator).to(device) * 2 - 1
        with _autocast(device):
            parts = autoencoder_loss(autoencoder, images, stage, generator)
        parts["psnr"] = 10 * torch.log10(4 / parts.pop("mse"))
        return parts

    run = Run(
        name="autoencoder",
        folder=folder,
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        weight_decay=0.0,
        ema_decay=0.995,
        seed=seed,
        progress=progress,
    )
    train(run, autoencoder, loss_fn)
    _take_average(autoencoder, run.average)


def _train_joint(
    model: Divd,
    data: TrainingData,
    preset: Preset,
    folder: Path,
    device: str,
    progress: Progress | None,
) -> int:
    stage: JointStage = preset.joint
    share = max(stage.data.clips_per_batch // _world(), 1)
    model.autoencoder.requires_grad_(False)

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        progress = step / stage.steps
        easy = stage.easy_data if progress < stage.easy_until else None
        pair = data.clips(share, easy or stage.data, generator, device)
        blurry, sharp = (rearrange(clip * 2 - 1, "b t c h w -> b c t h w") for clip in pair)
        with _autocast(device):
            return joint_loss(model, blurry, sharp, stage, progress, generator)

    run = Run(
        name="joint",
        folder=folder,
        steps=stage.steps,
        learning_rate=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        weight_decay=stage.weight_decay,
        betas=stage.betas,
        rate_factors={"blur_encoder.": stage.blur_encoder_rate},
        takes_muon=is_hidden_matrix if stage.optimizer == "muon" else None,
        gradient_clip=stage.gradient_clip,
        ema_decay=stage.ema_decay,
        seed=preset.seed + 1,
        progress=progress,
    )
    steps = train(run, model, loss_fn)
    _take_average(model, run.average)
    return steps


def is_hidden_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Tell the matrices inside the UNet from its ends, embeddings, biases and norms."""
    ends = ("conv_in.", "conv_out.", "time_emb", "relative_position.")
    return (
        name.startswith("unet.") and parameter.ndim > 1 and not any(end in name for end in ends)
    )


def _with_statistics(model: Divd, data: TrainingData, seed: int, device: str) -> Divd:
    """Measure the latents, store their statistics in the config, and copy the encoder.

    The blur encoder starts as a copy of the sharp one (Wang & Long).
    """
    generator = torch.Generator().manual_seed(seed + 2)
    images = data.images(192, 128, generator).to(device) * 2 - 1
    with torch.no_grad():
        latents = torch.cat(
            [model.autoencoder.encode(part) for part in images.split(32)]
        ).float()
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    normalised = rearrange(
        (latents - mean[:, None, None]) / std[:, None, None], "n c h w -> (n h w) c"
    )
    colours = torch.nn.functional.avg_pool2d(images, model.downscale)
    ones = torch.ones(len(normalised), 1, device=normalised.device)
    solution = torch.linalg.lstsq(
        torch.cat([normalised, ones], dim=1), rearrange(colours, "n c h w -> (n h w) c")
    ).solution
    rows = [tuple(round(float(v), 5) for v in row) for row in solution]
    autoencoder: AutoencoderConfig = dataclasses.replace(
        model.config.autoencoder,
        latent_mean=tuple(round(float(v), 5) for v in mean),
        latent_std=tuple(round(float(v), 5) for v in std),
        latent_rgb_factors=tuple(rows[:-1]),
        latent_rgb_bias=rows[-1],
    )
    config: DivdConfig = dataclasses.replace(model.config, autoencoder=autoencoder)
    torch.manual_seed(seed + 3)
    fresh = Divd(config).to(device)
    fresh.autoencoder.load_state_dict(model.autoencoder.state_dict())
    fresh.blur_encoder.load_state_dict(model.autoencoder.encoder.state_dict())
    return fresh


def _take_average(module: torch.nn.Module, average: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in average:
                parameter.copy_(average[name])


def _autocast(device: str) -> torch.autocast:
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
