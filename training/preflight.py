"""What is looked at before a run starts: what can be known then must not end it hours later.

The folder of a run holds `config.json`, its preset, and `origin.json`, what else its weights
depend on. A run that goes on must have the same of both, or it would give neither what it was
begun with nor what it is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..models.checkpoint import CheckpointInfo
from ..models.config import AutoencoderConfig, DivdConfig
from ..models.config_fields import ConfigError, config_from_dict, config_to_dict
from ..models.divd import Divd
from ..video.atomic import write_file
from ..video.output_lock import output_lock
from .config import (
    CPGD_STAGES,
    DIFFUSION_STAGES,
    FEED_FORWARD_STAGES,
    DiffusionStage,
    Preset,
    flat_fields,
)
from .data.loader import TrainingData
from .data.sources import SyntheticSource
from .stages import check_trained_parts

logger = logging.getLogger(__name__)

_HASHED_BYTES = 1 << 20
"""Bytes at either end of a checkpoint that are hashed."""
_STAGES = ("autoencoder", *DIFFUSION_STAGES)


def check_request(
    folder: Path,
    *,
    validate_every: int,
    save_every_s: float | None,
    num_workers: int | None,
    export: str | Path | None,
) -> None:
    """Check what needs no data.

    Raises:
        ValueError: If a number is out of range or `export` is no name for a checkpoint.
        OSError: If the folder, or that of `export`, cannot be written.
    """
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"workers must be 0 or more, got {num_workers}")
    if num_workers is not None and num_workers > (os.cpu_count() or num_workers):
        logger.warning("%d workers are more than the %d cores", num_workers, os.cpu_count())
    if validate_every < 0:
        raise ValueError(f"updates between validations must be 0 or more, got {validate_every}")
    if save_every_s is not None and not 0 <= save_every_s < math.inf:
        raise ValueError(f"seconds between states must be 0 or more, got {save_every_s}")
    _check_run_folder(folder)
    if export is None:
        return
    target = Path(export)
    if target.suffix != ".safetensors" or target.is_dir():
        raise ValueError(f"{target}: a checkpoint is a file whose name ends in .safetensors")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{target}: the folder {target.absolute().parent} does not exist, create it first"
        )
    _check_writable(target, target.absolute().parent)


def check_stages(preset: Preset, config: DivdConfig, data: TrainingData) -> None:
    """Check that every stage can be computed and its clips be drawn.

    Args:
        preset: Stages.
        config: Of the model that is trained.
        data: Opened for the longest and largest clips.

    Raises:
        ValueError: If one cannot; the message names it.
    """
    factor = config.autoencoder.downscale
    model = Divd(config, device="meta")
    for name in _STAGES:
        stage = getattr(preset, name)
        if stage is None:
            continue
        crops = [stage.crop] if name == "autoencoder" else []
        if isinstance(stage, DiffusionStage):
            check_trained_parts(model, stage)
            for clips in (stage.data, stage.easy_data):
                if clips is not None:
                    data.check(clips)
                    crops.append(clips.crop)
        for crop in crops:
            if crop % factor:
                raise ValueError(
                    f"{name}: crop must be a multiple of {factor} for this autoencoder, got "
                    f"{crop}"
                )


def check_autoencoder(
    wanted: AutoencoderConfig, found: AutoencoderConfig, path: str | Path
) -> None:
    """Check that the autoencoder of a checkpoint is the one that a preset asks for.

    Raises:
        ValueError: If it is not.
    """
    for name in ("kind", "latent_channels", "channels", "blocks"):
        if getattr(wanted, name) != getattr(found, name):
            raise ValueError(
                f"{path}: its autoencoder has {name} {getattr(found, name)}, the preset "
                f"asks for {getattr(wanted, name)}; choose another checkpoint or preset"
            )


def origin_of(
    specs: Sequence[str],
    data: TrainingData,
    validation: str | None,
    more: dict[str, Any],
) -> dict[str, Any]:
    """Return what the weights of a run depend on besides its preset, as JSON values.

    Data by name and amount: it may lie elsewhere when a run goes on. `more` is what the
    architecture adds.
    """
    amounts = []
    for source in data.sources:
        if isinstance(source, SyntheticSource):
            amounts.append(f"{len(source.photos)} photos, {len(source.runs)} runs of video")
        else:
            count = sum(len(sequence.blurry) for sequence in source.sequences)
            amounts.append(f"{len(source.sequences)} sequences, {count} frames")
    return {
        "data": [f"{data_name(s)} ({n})" for s, n in zip(specs, amounts, strict=True)],
        "validation": None if validation is None else data_name(validation),
        **more,
    }


def provenance_of(
    preset: Preset,
    data_specs: Sequence[str],
    init: str | Path | None,
    autoencoder: str | Path | None = None,
    diffusion: str | Path | None = None,
) -> dict[str, object]:
    """Say how a checkpoint came to be: stages, data by name, where it started from."""
    values = dataclasses.asdict(preset)
    for name in ("model", "generator", "cpgd_model"):
        values.pop(name)
    if preset.cpc is not None:
        begun_from = diffusion or preset.cpc.diffusion
        values["cpc"]["diffusion"] = None if begun_from is None else Path(begun_from).name
    if init is not None or autoencoder is not None:
        values["autoencoder"] = None if autoencoder is None else Path(autoencoder).name
    return {
        **values,
        "data": [data_name(spec) for spec in data_specs],
        "init": None if init is None else Path(init).name,
    }


def begin_run(folder: Path, preset: Preset, origin: dict[str, Any]) -> None:
    """Make sure that a folder is new or holds the same run; note down its origin.

    Raises:
        ValueError: If it holds another run, or a `config.json` that is none of a run.
    """
    before = _read(folder / "config.json")
    if before is not None:
        begun = any((folder / "states").glob("*.pt"))
        begun = begun or (folder / "checkpoint.safetensors").exists()
        try:
            stored = config_to_dict(config_from_dict(Preset, before, "config.json"))
        except ConfigError as error:
            raise ValueError(
                f"{folder}: its config.json is none of this version ({error}); choose another "
                "folder"
            ) from error
        if begun:
            stored |= _read(folder / "origin.json") or {}
            _compare(folder, stored, {**config_to_dict(preset), **origin})
    if int(os.environ.get("RANK", "0")) == 0:
        text = json.dumps(origin, indent=2)
        write_file(folder / "origin.json", f"{text}\n".encode())


@contextlib.contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Keep other runs from the folder; of several processes the first one does.

    Missing folders around it are made.

    Raises:
        ValueError: If another run is writing there, or it is no folder.
        OSError: If it cannot be written.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        yield
        return
    folder = Path(folder).absolute()
    _check_run_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with output_lock(folder):
        yield


def data_name(spec: str) -> str:
    """Leave out the folders above the data set: they are nobody else's business."""
    kind, _, rest = spec.partition(":")
    path, star, weight = rest.partition("*")
    return f"{kind}:{Path(path).expanduser().resolve().name}{star}{weight}"


def _check_run_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected the folder of a run")
    _check_writable(folder, folder.absolute())


def _check_writable(path: Path, folder: Path) -> None:
    """Check the folder, or the first one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"{path}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {folder} cannot be written to")


def described(info: CheckpointInfo | None) -> str | None:
    """Say what a run starts from: the file's name, and a hash that tells another one."""
    if info is None:
        return None
    with info.path.open("rb") as file:
        digest = hashlib.sha256(file.read(_HASHED_BYTES))
        file.seek(max(0, info.path.stat().st_size - _HASHED_BYTES))
        digest.update(file.read())
    return f"{info.path.name}, sha256 of its ends {digest.hexdigest()[:16]}"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); choose another folder") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds no object; choose another folder")
    return values


def _compare(folder: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    # As files give them back: tuples are lists there.
    stored, wanted = (json.loads(json.dumps(values)) for values in (stored, wanted))
    for name, now in wanted.items():
        # Not begun under any of these, or the other way round: nothing to be mixed up.
        loose = name in (
            *(*_STAGES, *FEED_FORWARD_STAGES, *CPGD_STAGES),
            *("model", "generator", "cpgd_model", "validation"),
        )
        if name == "preset" or name not in stored or (loose and None in (now, stored[name])):
            continue
        old, new = dict(flat_fields({name: stored[name]})), dict(flat_fields({name: now}))
        for path in {**new, **old}:
            if old.get(path) != new.get(path):
                raise ValueError(
                    f"{folder}: was begun with {path} = {json.dumps(old.get(path))}, now it is "
                    f"{json.dumps(new.get(path))}; choose another folder or delete this one"
                )
