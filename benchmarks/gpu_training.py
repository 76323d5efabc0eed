"""The training part of `gpu_report`: sized to the device, for so many minutes, resumable."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import logging
import math
import shutil
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..models.checkpoint import load_model, read_info
from ..models.config import DivdConfig
from ..models.hardware import choose_device, multiplies_bfloat16
from ..restoration.denoising.layout import is_out_of_memory
from ..training.config import DataConfig, DiffusionStage, Preset
from ..training.data.workers import workers_of_process
from ..training.presets import load_preset
from ..training.recipe import train_preset
from ..training.report.page import read_log
from ..training.stages import DiffusionTraining, draw
from .data_loader import last_stage
from .file_parts import split
from .training_cost import count

logger = logging.getLogger(__name__)

_MOST_CLIPS = 256
_FEWEST_UPDATES = 2000
"""In the time of a run: clips per update are doubled as long as so many are left. With fewer
the schedule of the learning rate, and what is annealed with it, has too few steps."""
_MEMORY_SHARE = 0.7
"""Of the device's memory that an update may take by trial: the optimizer, clips that are
finished ahead and the frames of the pixel loss come on top."""
_LARGE_DEVICE_BYTES = 40 * 2**30
_LARGE_CROP = 128
_MOST_RATE_FACTOR = 4.0
_PILOT_UPDATES = 20
_MARGIN = 0.93
"""Of the updates that the pilot's rate gives: validation and states take time as well, and a
run that ends before its schedule does has not come to rest."""


def train(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Train for `args.train_minutes`, or go on; returns what it did and how fast."""
    deadline = time.monotonic() + 60 * args.train_minutes
    folder = args.work / "training"
    if any((folder / "states").glob("*.pt")):
        preset = load_preset(folder / "config.json")
    else:
        preset = _planned(args, folder, deadline)
    name, stage = last_stage(preset)
    left_s = max(deadline - time.monotonic(), 0.0)
    workers = workers_of_process(args.workers, [d for _, d in stage.phases], args.device)
    started = time.monotonic()
    train_preset(
        preset,
        args.data,
        folder,
        init=args.init,
        device=args.device,
        validation=args.validation,
        validate_every=max(stage.steps // 4, 1),
        log_every=max(stage.steps // 100, 1),
        save_every_s=120.0,
        time_limit_s=left_s,
        num_workers=workers,
        progress=_say,
    )
    result = {
        "updates": 0,
        "of": stage.steps,
        "seconds_of_this_call": round(time.monotonic() - started, 1),
        "clips_per_update": stage.data.clips_per_batch,
        "frames": stage.data.num_frames,
        "crop": stage.data.crop,
        "workers": workers,
        "learning_rate": stage.learning_rate,
        "compressed_share": stage.data.compressed_share,
        **_measured(folder / f"{name}.jsonl"),
        **_cost(args.init, stage),
    }
    if find_spec("av") is None:
        result["without"] = "clips compressed with H.264, which need the package av"
    result["tflops"] = result["images_per_s"] * result["tflop_per_image"]
    return result


def write_weights(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Copy the trained weights, in half precision, to `args.out`, in parts if they are large.

    Those at the end of the run, or if it was killed those with the best validation.
    """
    folder = args.work / "training"
    found = [p for n in ("checkpoint", "best") if (p := folder / f"{n}.safetensors").is_file()]
    if not found:
        raise FileNotFoundError(f"{folder}: training has left no weights")
    target = args.out / "weights.safetensors"
    shutil.copyfile(found[0], target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    parts = split(target, args.part_size)
    return {
        "files": [part.name for part in parts],
        "of": found[0].name,
        "sha256": digest,
    }


def sized(
    preset: Preset, clips: int, crop: int, steps: int, *, compressed: bool = True
) -> Preset:
    """Return the last stage of a preset alone, with other clips per update and updates.

    The learning rate grows with the root of the clips per update. Where the noise of the
    gradient decides, that keeps the noise of the weights the same: for Adam by Malladi et al.
    (arXiv 2205.10287), and for Muon by the same argument, as its updates too have a size that
    does not depend on the gradient's, so that only their direction gets better with more
    clips. It ends where clips no longer differ more than they agree, which nobody knows here;
    so by 4 at most (64 clips where a preset has 4), with which Muon moves a weight by
    0.0004 per update, a hundredth of a typical weight. Weights are averaged over the share of
    the run that the preset's decay means for its own updates.
    """
    name, stage = last_stage(preset)
    factor = min(math.sqrt(clips / stage.data.clips_per_batch), _MOST_RATE_FACTOR)
    averaged = 1 / ((1 - stage.ema_decay) * stage.steps)

    def changed(data: DataConfig) -> DataConfig:
        share = data.compressed_share if compressed else 0.0
        return dataclasses.replace(
            data, clips_per_batch=clips, crop=crop, compressed_share=share
        )

    stage = dataclasses.replace(
        stage,
        steps=steps,
        data=changed(stage.data),
        easy_data=stage.easy_data and changed(stage.easy_data),
        accumulation=1,
        learning_rate=stage.learning_rate * max(factor, 1.0),
        warmup_steps=min(max(stage.warmup_steps, steps // 20), max(steps // 4, 1)),
        ema_decay=min(stage.ema_decay, max(0.0, 1 - 1 / max(averaged * steps, 1.0))),
    )
    return dataclasses.replace(preset.only([name]), **{name: stage})


def _planned(args: argparse.Namespace, folder: Path, deadline: float) -> Preset:
    """Choose clips per update by trial, and updates by a pilot of the run itself."""
    preset = load_preset(args.preset)
    stage = last_stage(preset)[1]
    device = choose_device(args.device)
    compressed = find_spec("av") is not None
    large = _memory_bytes(device) >= _LARGE_DEVICE_BYTES
    crop = args.crop or max(stage.data.crop, _LARGE_CROP if large else 0)
    clips = args.clips or _clips_that_fit(args, stage, crop, device)
    left_s = deadline - time.monotonic()
    pilot = sized(preset, clips, crop, _PILOT_UPDATES, compressed=compressed)
    with tempfile.TemporaryDirectory(dir=args.work) as trial:
        train_preset(
            pilot,
            args.data,
            trial,
            init=args.init,
            device=args.device,
            num_workers=args.workers,
            log_every=_PILOT_UPDATES // 2,
            time_limit_s=left_s / 8,
        )
        # The first line has the start of workers and of kernels in it.
        line = read_log(Path(trial) / f"{pilot.stages[-1]}.jsonl")[-1]
    images = clips * stage.data.num_frames
    left_s = max(deadline - time.monotonic(), 0.0)
    steps = max(int(_MARGIN * left_s * line["images_per_s"] / images), _PILOT_UPDATES)
    logger.info("%d updates of %d clips of %dx%d", steps, clips, crop, crop)
    return sized(preset, clips, crop, steps, compressed=compressed)


def _clips_that_fit(
    args: argparse.Namespace, stage: DiffusionStage, crop: int, device: torch.device
) -> int:
    """Double the clips per update as long as memory and time allow."""
    module = DiffusionTraining(load_model(args.init, dtype=torch.float32), stage).to(device)
    longest_s = 60 * args.train_minutes / _FEWEST_UPDATES
    clips = stage.data.clips_per_batch
    while clips < _MOST_CLIPS:
        try:
            seconds, memory = trial_update(module, stage, 2 * clips, crop, device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        logger.info("%d clips: %.3f s, %.1f GB", 2 * clips, seconds, memory / 1e9)
        if seconds > longest_s or memory > _MEMORY_SHARE * _memory_bytes(device):
            break
        clips *= 2
    if device.type == "cuda":
        # What failed trials took, for updates of other shapes.
        torch.cuda.empty_cache()
    return clips


def trial_update(
    module: DiffusionTraining,
    stage: DiffusionStage,
    clips: int,
    crop: int,
    device: torch.device,
) -> tuple[float, int]:
    """Go forth and back with random clips; returns seconds, and bytes on a GPU (else 0)."""
    generators = [torch.Generator().manual_seed(index) for index in range(clips)]
    size = (stage.data.num_frames, crop, crop)
    draws = draw(stage, module.model.config, size, 0.0, generators).to(device)
    video = torch.rand(clips, 3, *size, device=device) * 2 - 1
    dtype = torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    seconds = 0.0
    for _ in range(2):
        _wait(device)
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = module(video, video.flip(2), draws, 0.0)["loss"].mean()
        loss.backward()
        _wait(device)
        # The second: the first looks for kernels.
        seconds = time.perf_counter() - started
        module.zero_grad(set_to_none=True)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return seconds, memory


def _measured(log: Path) -> dict[str, Any]:
    """Return what the log of a stage says, averaged over its time."""
    lines = read_log(log)
    per_image = [1 / line["images_per_s"] for line in lines]
    validated = [line for line in lines if "validation_psnr" in line]

    def mean(name: str) -> float:
        weighted = sum(line[name] * each for line, each in zip(lines, per_image, strict=True))
        return weighted / sum(per_image)

    return {
        "updates": int(lines[-1]["step"]),
        "images_per_s": len(lines) / sum(per_image),
        "data_wait": mean("data_wait"),
        "data_preparation": mean("data_preparation"),
        "memory_gb": max(line["memory_gb"] for line in lines),
        "loss": [(int(line["step"]), line["loss"]) for line in lines[:: -(-len(lines) // 20)]],
        "validation": [
            {n: line[n] for n in ("step", "validation_psnr", "validation_gain_db")}
            for line in validated
        ],
    }


def _cost(init: str, stage: DiffusionStage) -> dict[str, float]:
    config = read_info(init, config_type=DivdConfig).config
    flop = count(config, stage).flop
    return {"tflop_per_image": flop / stage.data.num_frames / 1e12}


def _say(stage: str, step: int, steps: int, values: dict[str, float] | None) -> None:
    if values is not None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        logger.info("%s %d/%d: %s", stage, step, steps, shown)


def _memory_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return torch.cuda.get_device_properties(device).total_memory


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
