"""What can be measured: a checkpoint, a classical baseline, results that are already there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..images.datasets import PairedSequence
from ..models.config import DivdConfig
from ..restoration.engine import Engine
from ..restoration.settings import RestorationSettings
from ..video.pixels import to_float
from .baselines import BASELINES, restore_clip
from .report import RestoreFn, read_predictions

METHOD_NAMES = ("checkpoint", *BASELINES)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way from blurry frames to restored ones."""

    restore: RestoreFn
    described: dict[str, Any]
    """What the report says about it, JSON values; `method` is its name."""


def checkpoint_method(
    deblurrer: Engine,
    settings: RestorationSettings,
    *,
    name: str,
    plain_decode: bool = False,
) -> Method:
    """Return the method of a checkpoint.

    Args:
        deblurrer: The loaded checkpoint; with `plain_decode` it decodes so from here on.
        settings: How it restores.
        name: Of the checkpoint, for the report.
        plain_decode: Decode without the blurry frames, as ComfyUI's VAE Decode does, which
            lets no frames borrow either.

    Raises:
        ValueError: If `plain_decode` is asked of a network that decodes nothing.
    """
    if plain_decode:
        config = deblurrer.config
        if not isinstance(config, DivdConfig):
            raise ValueError(f"{name}: is no diffusion model, plain decoding is for those")
        settings = dataclasses.replace(settings, borrow=False)
        deblurrer.model.config = dataclasses.replace(config, residual_decoding=False)

    def restore(sequence: PairedSequence, blurry: np.ndarray) -> np.ndarray:
        return deblurrer.restore(torch.from_numpy(to_float(blurry)), settings).numpy()

    return Method(
        restore=restore,
        described={
            "method": "checkpoint",
            "checkpoint": name,
            "first_stage": deblurrer.first_stage and deblurrer.first_stage.name,
            "settings": dataclasses.asdict(settings),
            "plain_decode": plain_decode,
        },
    )


def baseline_method(name: str) -> Method:
    """Return a classical method with its defaults.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in BASELINES:
        raise ValueError(f"method must be one of {', '.join(METHOD_NAMES)}, got {name!r}")
    baseline = BASELINES[name]()
    return Method(
        restore=lambda sequence, blurry: restore_clip(baseline, blurry),
        described={"method": name, "settings": dataclasses.asdict(baseline)},
    )


def predictions_method(folder: str | Path) -> Method:
    """Return results of any method, read from `<folder>/<sequence>/<frame>`."""
    return Method(
        restore=lambda sequence, blurry: read_predictions(folder, sequence),
        described={"method": "predictions", "pred": str(folder)},
    )
