"""Measure restored sequences against their sharp ones, under a protocol.

The report is one JSON object: what was applied (`protocol`, `metrics`, `versions`), every
sequence frame by frame, and three kinds of means. `mean` is over all frames that count;
`mean_of_sequences` gives each sequence the same weight, `mean_of_windows` each window of a
protocol that has them. Figures taken of means (gains, ratios) are taken of each mean anew;
`psnr_worst` is the lowest of any frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..images.datasets import PairedSequence, frames_by_name
from ..images.folders import FrameFolderWriter, read_image
from ..video.output_place import made_folder
from ..video.pixels import to_float, to_uint8
from .metrics import Clip, Metric, Row, build_metrics
from .protocols import PROTOCOLS, Protocol

RestoreFn = Callable[[PairedSequence, np.ndarray], np.ndarray]
"""From a sequence and its blurry frames, uint8 `[T, H, W, 3]`, to the restored ones, of the
same shape: uint8, or float in 0..1, which a protocol may round."""
DEFAULT_METRICS = ("psnr", "ssim")
_PACKAGES = (
    *("video-deblur", "torch", "numpy", "opencv-python"),
    *("torchmetrics", "torchvision", "scikit-image"),
)
"""Whose versions a report names, where they are installed."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSequence:
    """A finished sequence: its frames as they are, whatever the protocol, and its figures."""

    name: str
    frame_names: tuple[str, ...]
    """File names without suffix, in order of time."""
    blurry: np.ndarray
    """uint8 `[T, H, W, 3]`."""
    restored: np.ndarray
    """`[T, H, W, 3]`, uint8, or float in 0..1."""
    sharp: np.ndarray
    """uint8 `[T, H, W, 3]`."""
    figures: dict[str, Any]
    """Its entry in the report: `mean`, `frames`, and `windows` where there are."""


def evaluate_sequences(
    sequences: Iterable[PairedSequence],
    restore: RestoreFn,
    callback: Callable[[MeasuredSequence], None] | None = None,
    *,
    metrics: Sequence[Metric] | None = None,
    protocol: Protocol = PROTOCOLS["rgb8"],
) -> dict[str, Any]:
    """Restore and measure sequences.

    Args:
        sequences: What to measure on.
        restore: The method.
        callback: Called with each finished sequence.
        metrics: From `build_metrics` with the same protocol; PSNR and SSIM if None.
        protocol: What counts.

    Returns:
        The report, JSON values.

    Raises:
        ValueError: If results or frames do not fit the sharp ones, or are too few or small.
    """
    if metrics is None:
        metrics = build_metrics(DEFAULT_METRICS, protocol)
    results: dict[str, Any] = {}
    for sequence in sequences:
        measured = _measure(sequence, restore, metrics, protocol)
        results[sequence.name] = measured.figures
        if callback is not None:
            callback(measured)
    every = list(results.values())
    report = {
        "protocol": protocol.to_dict(),
        "metrics": [metric.name for metric in metrics],
        "versions": _versions(),
        "sequences": results,
        "mean": _mean([row for result in every for row in result["frames"]], metrics),
        "mean_of_sequences": _mean([result["mean"] for result in every], metrics),
    }
    if protocol.window:
        windows = [row for result in every for row in result["windows"]]
        report["mean_of_windows"] = _mean(windows, metrics)
    return report


def with_sharp_input(sequences: Iterable[PairedSequence]) -> list[PairedSequence]:
    """Return sequences whose input is their sharp frames: what is already sharp must stay."""
    return [replace(sequence, blurry=sequence.sharp) for sequence in sequences]


def check_predictions(folder: str | Path, sequences: Iterable[PairedSequence]) -> None:
    """Find before any is restored what keeps `write_predictions` from writing a sequence.

    Raises:
        ValueError, OSError: As `write_predictions` does.
    """
    with made_folder(Path(folder).absolute()):
        for sequence in sequences:
            FrameFolderWriter(Path(folder) / sequence.name)


def write_predictions(folder: str | Path, measured: MeasuredSequence) -> None:
    """Write restored frames where `read_predictions` finds them, as 8-bit PNG.

    Raises:
        ValueError: If the sequence's folder holds something already.
        OSError: If it cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FrameFolderWriter(Path(folder) / measured.name) as writer:
        for name, pixels in zip(measured.frame_names, measured.restored, strict=True):
            writer.write(pixels if pixels.dtype == np.uint8 else to_uint8(pixels), name)


def read_predictions(folder: str | Path, sequence: PairedSequence) -> np.ndarray:
    """Read results `<folder>/<sequence>/<frame>` made by any method, `[T, H, W, 3]`.

    Returns:
        uint8, or float32 in 0..1 where a frame has 16 bits.

    Raises:
        FileNotFoundError: If a frame is missing.
        ValueError: If it is there twice, or they differ in size.
    """
    root = Path(folder) / sequence.name
    found = frames_by_name(root)
    for path in sequence.sharp:
        if path.stem not in found:
            raise FileNotFoundError(f"{root}: holds no result for frame {path.stem}")
    return _read_clip(sequence.name, [found[path.stem] for path in sequence.sharp])


def _measure(
    sequence: PairedSequence,
    restore: RestoreFn,
    metrics: Sequence[Metric],
    protocol: Protocol,
) -> MeasuredSequence:
    blurry, sharp = (_read_clip(sequence.name, x) for x in (sequence.blurry, sequence.sharp))
    restored = restore(sequence, _as_uint8(blurry))
    if not blurry.shape == restored.shape == sharp.shape:
        raise ValueError(
            f"{sequence.name}: result is {list(restored.shape)} and input "
            f"{list(blurry.shape)}, but the sharp frames are {list(sharp.shape)}"
        )
    names = tuple(path.stem for path in sequence.sharp)
    try:
        groups = [
            _measure_group(group, names, metrics, clip)
            for group, clip in _counted(restored, blurry, sharp, protocol)
        ]
    except ValueError as error:
        raise ValueError(f"{sequence.name}: {error}") from error
    frames = [row for group in groups for row in group]
    figures: dict[str, Any] = {"mean": _mean(frames, metrics), "frames": frames}
    if protocol.window:
        figures["windows"] = [_mean(group, metrics) for group in groups]
    return MeasuredSequence(
        name=sequence.name,
        frame_names=names,
        blurry=_as_uint8(blurry),
        restored=restored,
        sharp=_as_uint8(sharp),
        figures=figures,
    )


def _counted(
    restored: np.ndarray, blurry: np.ndarray, sharp: np.ndarray, protocol: Protocol
) -> list[tuple[range, Clip]]:
    groups = protocol.groups(len(sharp))
    restored, blurry, sharp = (protocol.prepare(x) for x in (restored, blurry, sharp))
    return [
        (
            group,
            Clip(
                restored=restored[group.start : group.stop],
                blurry=blurry[group.start : group.stop],
                sharp=sharp[group.start : group.stop],
            ),
        )
        for group in groups
    ]


def _measure_group(
    group: range, names: Sequence[str], metrics: Sequence[Metric], clip: Clip
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"frame": names[index]} for index in group]
    for metric in metrics:
        for row, values in zip(rows, metric.measure(clip), strict=True):
            # A frame without a value, as NIQE of a black one, is left out of the means.
            row.update({key: v for key, v in values.items() if not np.isnan(v)})
    return rows


def _mean(rows: Sequence[dict[str, Any]], metrics: Sequence[Metric]) -> Row:
    # A mean of sequences has figures that are taken of means, which none may have been of.
    left_out = {"frame", *(key for metric in metrics for key in metric.derived)}
    keys = {key: None for row in rows for key in row if key not in left_out}
    mean = {key: float(np.mean([row[key] for row in rows if key in row])) for key in keys}
    for metric in metrics:
        mean.update(metric.derive(mean))
    if "psnr" in mean:
        mean["psnr_worst"] = min(row.get("psnr_worst", row["psnr"]) for row in rows)
    return mean


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _read_clip(name: str, paths: Sequence[Path]) -> np.ndarray:
    """Return frames `[T, H, W, 3]`, uint8, or float32 in 0..1 where one has 16 bits."""
    frames = [_read_rgb(path) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"{name}: {path.name} is {list(frame.shape)}, but {paths[0].name} is "
                f"{list(frames[0].shape)}; all frames of a sequence must be alike"
            )
    if all(frame.dtype == np.uint8 for frame in frames):
        return np.stack(frames)
    return np.stack([to_float(frame) for frame in frames])


def _read_rgb(path: Path) -> np.ndarray:
    return read_image(path)[..., :3]


def _as_uint8(clip: np.ndarray) -> np.ndarray:
    """Round frames of 16 bits, which `_read_clip` gives as float."""
    return clip if clip.dtype == np.uint8 else np.stack([to_uint8(frame) for frame in clip])
