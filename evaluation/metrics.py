"""The metrics by name, as `evaluate --metrics` takes them.

A metric measures a clip frame by frame and gives one row of figures per frame. Figures of
the restored clip carry the metric's name; `input_` and `sharp_` come before it for the same
figure of the blurry and the sharp clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from ..evaluation import fidelity
from .high_frequency import energy_share, matched_share
from .lpips import NETWORKS, Lpips, read_backbones
from .niqe import niqe
from .protocols import Protocol
from .warping import WarpingError

Row = dict[str, float]
PairFn = Callable[[np.ndarray, np.ndarray], float]
"""From a frame and its sharp one to a figure."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The frames that are measured, `[T, H, W, 3]` each, prepared by a protocol."""

    restored: np.ndarray
    blurry: np.ndarray
    sharp: np.ndarray


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    key: str
    """Of a mean row."""
    label: str
    form: str = ".4f"
    """Format of the figure."""


@dataclass(frozen=True)
class Group:
    """Columns under one title."""

    title: str
    columns: tuple[Column, ...]
    better: str
    """`higher`, `lower`, or `one` where 1 is best."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What metrics are built from."""

    protocol: Protocol
    backbones: dict[str, dict[str, Tensor]]
    """Weights for LPIPS by network."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric under a protocol."""

    name: str
    groups: tuple[Group, ...]
    """What tables show of it."""
    measure: Callable[[Clip], list[Row]]
    """From a clip to a row for each frame."""
    derive: Callable[[Row], Row] = lambda mean: {}
    """From the means of the rows to figures that are taken of means only."""
    derived: tuple[str, ...] = ()
    """Names of those figures."""


def build_metrics(
    names: Iterable[str], protocol: Protocol, lpips_weights: Sequence[str | Path] = ()
) -> list[Metric]:
    """Return metrics by name.

    Args:
        names: Keys of `METRICS`, in the order of the report.
        protocol: Which definition of SSIM, and which range of values, is in force.
        lpips_weights: torchvision's weight files, one for each LPIPS network asked for.

    Raises:
        ValueError: If a name is unknown or given twice, or LPIPS lacks what it needs.
        FileNotFoundError: If a weight file does not exist.
    """
    names = list(names)
    for name in names:
        if name not in METRICS:
            raise ValueError(f"metrics must be some of {', '.join(METRICS)}, got {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"metric {name} is given twice")
    setup = Setup(protocol=protocol, backbones=read_backbones(lpips_weights))
    return [METRICS[name](setup) for name in names]


def _psnr(setup: Setup) -> Metric:
    def gain(mean: Row) -> Row:
        if np.isinf(mean["input_psnr"]):
            return {}
        return {"psnr_gain": mean["psnr"] - mean["input_psnr"]}

    return Metric(
        name="psnr",
        groups=(_input_result("PSNR, dB", "psnr", ".2f", Column("psnr_gain", "gain", "+.2f")),),
        measure=_compare("psnr", partial(fidelity.psnr, data_range=setup.protocol.data_range)),
        derive=gain,
        derived=("psnr_gain",),
    )


def _ssim(setup: Setup) -> Metric:
    function = (
        fidelity.ssim if setup.protocol.ssim == "window" else fidelity.ssim_across_channels
    )
    return Metric(
        name="ssim",
        groups=(_input_result("SSIM", "ssim", ".4f"),),
        measure=_compare("ssim", partial(function, data_range=setup.protocol.data_range)),
    )


def _lpips(network: str, setup: Setup) -> Metric:
    name = f"lpips_{network}"
    if network not in setup.backbones:
        raise ValueError(
            f"{name} needs the weights of torchvision's {NETWORKS[network]}: "
            "give the file with --lpips-weights FILE"
        )
    lpips = Lpips(network, setup.backbones[network])
    return Metric(
        name=name,
        groups=(_input_result(f"LPIPS {NETWORKS[network]}", name, ".4f", better="lower"),),
        measure=_compare(name, partial(lpips.distance, data_range=setup.protocol.data_range)),
    )


def _niqe(setup: Setup) -> Metric:
    def measure(clip: Clip) -> list[Row]:
        return [
            {
                f"{prefix}niqe": niqe(frame, data_range=setup.protocol.data_range)
                for prefix, frame in zip(("", "input_", "sharp_"), frames, strict=True)
            }
            for frames in zip(clip.restored, clip.blurry, clip.sharp, strict=True)
        ]

    sharp = Column("sharp_niqe", "sharp", ".2f")
    return Metric(
        name="niqe",
        groups=(_input_result("NIQE", "niqe", ".2f", sharp, better="lower"),),
        measure=measure,
    )


def _high_frequency(setup: Setup) -> Metric:
    energy, matched = (
        _compare(name, function)
        for name, function in (
            ("high_frequency", energy_share),
            ("high_frequency_matched", matched_share),
        )
    )

    def measure(clip: Clip) -> list[Row]:
        return [{**a, **b} for a, b in zip(energy(clip), matched(clip), strict=True)]

    return Metric(
        name="high_frequency",
        groups=(
            _input_result("HF energy", "high_frequency", ".2f", better="one"),
            _input_result("HF matched", "high_frequency_matched", ".2f"),
        ),
        measure=measure,
    )


def _warping(name: str, title: str, definition: WarpingError, setup: Setup) -> Metric:
    scale = setup.protocol.data_range

    def measure(clip: Clip) -> list[Row]:
        motion = definition.motion(clip.sharp, data_range=scale)
        rows: list[Row] = [{} for _ in clip.sharp]
        for prefix, frames in (
            ("", clip.restored),
            ("input_", clip.blurry),
            ("sharp_", clip.sharp),
        ):
            errors = definition.errors(frames, motion, data_range=scale)
            for row, error in zip(rows[1:], errors, strict=True):
                row[f"{prefix}{name}"] = error
        return rows

    def ratios(mean: Row) -> Row:
        sharp = mean.get(f"sharp_{name}", 0)
        if not sharp:
            return {}
        keys = (f"input_{name}", name)
        return {f"{key}_ratio": mean[key] / sharp for key in keys}

    return Metric(
        name=name,
        groups=(_input_result(title, f"{name}_ratio", ".2f", better="lower"),),
        measure=measure,
        derive=ratios,
        derived=(f"input_{name}_ratio", f"{name}_ratio"),
    )


def _compare(name: str, function: PairFn) -> Callable[[Clip], list[Row]]:
    def measure(clip: Clip) -> list[Row]:
        return [
            {name: function(restored, sharp), f"input_{name}": function(blurry, sharp)}
            for restored, blurry, sharp in zip(
                clip.restored, clip.blurry, clip.sharp, strict=True
            )
        ]

    return measure


def _input_result(
    title: str, key: str, form: str, *more: Column, better: str = "higher"
) -> Group:
    columns = (Column(f"input_{key}", "input", form), Column(key, "result", form), *more)
    return Group(title, columns, better)


METRICS: dict[str, Callable[[Setup], Metric]] = {
    "psnr": _psnr,
    "ssim": _ssim,
    **{f"lpips_{network}": partial(_lpips, network) for network in NETWORKS},
    "niqe": _niqe,
    "warping": partial(
        _warping,
        "warping",
        "warping / sharp",
        WarpingError(flow="farneback", power=1),
    ),
    "warping_lai": partial(
        _warping,
        "warping_lai",
        "Lai / sharp",
        WarpingError(flow="dis", power=2),
    ),
    "high_frequency": _high_frequency,
}
"""What builds each metric. `warping_lai` is the definition of Lai et al. (2018)."""
