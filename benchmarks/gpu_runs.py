"""What `gpu_report` restores: pairs before and after training, and whole folders of PNGs."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.fidelity import psnr
from ..images.datasets import PairedSequence, load_dataset
from ..images.folders import encode_png
from ..images.reading import read_image
from ..jobs.files import restore_ends
from ..jobs.kinds import make_ends
from ..restoration.engine import Engine
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings
from ..video.pixels import to_float, to_uint8
from .clips import parse_size
from .gpu_pictures import moving_frames
from .stage_clock import counted_stages


def validate(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """Measure gains on pairs, of the network alone and by default, before and after training.

    By frame in 8 bits, whole frames, mean over frames and then over sequences.
    """
    sequences = load_dataset(args.validation, "test")
    checkpoints = {"before": args.init}
    trained = args.work / "training" / "checkpoint.safetensors"
    if trained.is_file():
        checkpoints["after"] = trained
    gains: dict[str, dict[str, dict[str, float]]] = {}
    for label, checkpoint in checkpoints.items():
        engine = load_deblurrer(checkpoint, args.device)
        for method, borrow in (("network alone", False), ("default", True)):
            column = gains.setdefault(method, {}).setdefault(label, {})
            for sequence in sequences:
                column[sequence.name] = _gain(engine, sequence, args.validation_frames, borrow)
    means = {
        method: {label: float(np.mean(list(by.values()))) for label, by in columns.items()}
        for method, columns in gains.items()
    }
    return {"mean_gain_db": means, "gain_db": gains, "frames": args.validation_frames}


def _gain(engine: Engine, sequence: PairedSequence, most: int, borrow: bool) -> float:
    blurry, sharp = (
        [to_uint8(to_float(read_image(path)[..., :3])) for path in paths[:most]]
        for paths in (sequence.blurry, sequence.sharp)
    )
    frames = torch.from_numpy(np.stack([to_float(pixels) for pixels in blurry]))
    settings = preset_settings(engine.config, "fast", borrow=borrow)
    restored = [to_uint8(pixels) for pixels in engine.restore(frames, settings).numpy()]
    gains = [
        psnr(after, truth, data_range=255) - psnr(before, truth, data_range=255)
        for before, after, truth in zip(blurry, restored, sharp, strict=True)
    ]
    return float(np.mean(gains))


def whole_run(args: argparse.Namespace, done: dict[str, Any], *, size: str) -> dict[str, Any]:
    """Restore a folder of PNGs of this size into another one, and say where the time goes."""
    width, height = parse_size(size)
    pictures = moving_frames(args.run_frames, width, height, args.validation)
    started = time.perf_counter()
    engine = load_deblurrer(args.init, args.device)
    loaded_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        source = folder / "in"
        source.mkdir()
        for index, pixels in enumerate(pictures):
            (source / f"{index:04d}.png").write_bytes(encode_png(pixels))
        # Kernels are chosen, and memory is taken, by the first frames of a size.
        _restore(engine, _first(source, folder / "few", 2), folder / "warm")
        _start_counting(engine.device)
        seconds = _restore(engine, source, folder / "out")
        memory_gb = _peak_gb(engine.device)
        with counted_stages(engine.device) as clock:
            counted_s = _restore(engine, source, folder / "counted")
    count = len(pictures)
    return {
        "frames": count,
        "frames_per_s": count / seconds,
        "seconds_per_frame": seconds / count,
        "loading_s": loaded_s,
        "memory_gb": memory_gb,
        "stages_s_per_frame": {n: s / count for n, s in sorted(clock.seconds.items())},
        "counted_s_per_frame": counted_s / count,
    }


def _restore(engine: Engine, source: Path, output: Path) -> float:
    settings = preset_settings(engine.config, "fast")
    started = time.perf_counter()
    restore_ends(make_ends(source, output), engine, settings)
    return time.perf_counter() - started


def _first(source: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for path in sorted(source.iterdir())[:count]:
        shutil.copy(path, folder)
    return folder


def _start_counting(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float | None:
    """Return the most that tensors took on a GPU, None elsewhere."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
