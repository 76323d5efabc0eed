"""Train several configs at equal budget over several seeds, and compare their scores.

Each run has a folder `<name>/seed<seed>` with a `run.json` beside what training leaves there:
the config, and the score once there is one. A comparison started again skips runs that have
a score and goes on with the others, so that several devices can share one: each is given
some of the seeds, and a last call with all of them collects the scores.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.config_fields import config_to_dict
from ..video.atomic import write_file
from .comparison import Comparison
from .config import Preset, flat_fields

logger = logging.getLogger(__name__)

TrainFn = Callable[[Preset, Path], Path]
"""From a preset and the folder of its run, resumed if it was begun, to a checkpoint."""
ScoreFn = Callable[[Path], Mapping[str, float]]
"""From a checkpoint to its score after each stage that has one, in order; the last is that of
the run. More is better."""

_BUDGET = ("steps", "batch_size", "clips_per_batch", "num_frames", "crop")
"""Fields of the stages that make one run see more than another."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    name: str
    preset: Preset
    folder: Path
    identity: dict[str, Any]
    """What the run depends on, as JSON values."""

    @property
    def record_path(self) -> Path:
        return self.folder / "run.json"

    def read(self) -> dict[str, Any]:
        """Return what `run.json` holds; nothing where the run was not begun."""
        if not self.record_path.is_file():
            return {}
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self.record_path}: is not JSON ({error}); delete {self.folder}"
            ) from error
        if not isinstance(record, dict):
            raise ValueError(f"{self.record_path}: must hold an object; delete {self.folder}")
        return record

    def write(self, **outcome: object) -> None:
        text = json.dumps({**self.identity, **outcome}, indent=2)
        write_file(self.record_path, f"{text}\n".encode())


def config_names(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """Name configs after their files: "runs/window.json" is "window".

    Raises:
        ValueError: If two would have one name, also where case makes no difference.
    """
    names: dict[str, str | Path] = {}
    for path in paths:
        name = Path(path).name.removesuffix(".json")
        other = next((p for n, p in names.items() if n.casefold() == name.casefold()), None)
        if other is not None:
            raise ValueError(f"{other} and {path} are both named {name!r}; rename one")
        names[name] = path
    return names


def compare(
    configs: Mapping[str, Preset],
    seeds: Sequence[int],
    train_fn: TrainFn,
    score_fn: ScoreFn,
    folder: str | Path,
    *,
    score_name: str = "score",
    settings: Mapping[str, Any] | None = None,
    unequal_budget: bool = False,
) -> Comparison:
    """Train and score every config with every seed, one after the other.

    A run that fails is named and the others go on; it is tried again by the next call. The
    results so far stand in `<folder>/comparison.json` and `comparison.md` after each run.

    Args:
        configs: By name; the first is what the others are compared to. Their own seed is
            replaced.
        seeds: At least one.
        train_fn: Trains.
        score_fn: Scores.
        folder: Of the comparison; made if missing.
        score_name: What `score_fn` measures, with the unit.
        settings: What else the runs depend on, as JSON values: data, initial checkpoint.
        unequal_budget: Allow configs that differ in updates, clips, frames or crop.

    Raises:
        ValueError: If fewer than two configs or no seed are given, a budget differs, the
            folder holds runs of other configs, or this is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "a comparison runs in one process; start one per device, each with its own seeds"
        )
    budgets = {name: budget(preset) for name, preset in configs.items()}
    _check_request(budgets, seeds, unequal_budget)
    folder = Path(folder)
    runs = [
        _run(name, preset, seed, folder, score_name, settings)
        for seed in seeds
        for name, preset in configs.items()
    ]
    for run in runs:
        _check_folder(run)
    comparison = Comparison(
        score_name=score_name,
        seeds=tuple(seeds),
        budgets=budgets,
        changes=_changes(configs),
        settings=dict(settings or {}),
    )
    for index, run in enumerate(runs):
        logger.info(
            "run %d of %d: %s, seed %d", index + 1, len(runs), run.name, run.preset.seed
        )
        _finish(run, train_fn, score_fn, comparison)
        comparison.write(folder)
    return comparison


def budget(preset: Preset) -> dict[str, list[int]]:
    """Return what a preset spends: `{"joint.steps": [3000], "joint.crop": [96], ...}`.

    A stage with two kinds of data has the values of both where they differ.
    """
    spent: dict[str, set[int]] = {}
    values = config_to_dict(preset)
    for stage in preset.stages:
        for path, value in flat_fields(values[stage]):
            field = path.rpartition(".")[2]
            if field in _BUDGET:
                spent.setdefault(f"{stage}.{field}", set()).add(value)
    return {name: sorted(values) for name, values in spent.items()}


def _check_request(
    budgets: Mapping[str, dict[str, list[int]]], seeds: Sequence[int], unequal_budget: bool
) -> None:
    if len(budgets) < 2:
        raise ValueError(f"a comparison needs at least two configs, got {len(budgets)}")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(
            f"seeds must be one or more different numbers from 0, got {list(seeds)}"
        )
    if unequal_budget:
        return
    (first, reference), *others = budgets.items()
    for name, spent in others:
        for field in {**reference, **spent}:
            if reference.get(field) != spent.get(field):
                raise ValueError(
                    f"budgets differ: {field} is {_shown(reference.get(field))} in {first} and "
                    f"{_shown(spent.get(field))} in {name}; make them equal, or allow it with "
                    "--unequal-budget"
                )


def _shown(values: list[int] | None) -> str:
    return " and ".join(map(str, values)) if values else "absent"


def _run(
    name: str,
    preset: Preset,
    seed: int,
    folder: Path,
    score_name: str,
    settings: Mapping[str, Any] | None,
) -> _Run:
    preset = dataclasses.replace(preset, seed=seed)
    identity = {
        "config": config_to_dict(preset),
        "settings": dict(settings or {}),
        "score_name": score_name,
    }
    return _Run(
        name=name,
        preset=preset,
        folder=folder / name / f"seed{seed}",
        # As a file gives it back: tuples are lists there.
        identity=json.loads(json.dumps(identity)),
    )


def _check_folder(run: _Run) -> None:
    """Refuse to mix runs that depend on different things."""
    record = run.read()
    if not record:
        if run.folder.is_dir() and any(run.folder.iterdir()):
            raise ValueError(
                f"{run.folder}: holds something else than a run of a comparison; choose "
                "another folder"
            )
        return
    if "score" not in record and not any(p != run.record_path for p in run.folder.iterdir()):
        # Failed before it began, maybe for just what is different now.
        return
    before = dict(flat_fields({name: record.get(name) for name in run.identity}))
    now = dict(flat_fields(run.identity))
    for path in {**now, **before}:
        if now.get(path) != before.get(path):
            raise ValueError(
                f"{run.folder}: was begun with {path} = {json.dumps(before.get(path))}, now it "
                f"is {json.dumps(now.get(path))}; choose another folder or delete this one"
            )


def _finish(run: _Run, train_fn: TrainFn, score_fn: ScoreFn, comparison: Comparison) -> None:
    """Bring one run to a score or a failure, and enter it."""
    record = run.read()
    score, stages = record.get("score"), record.get("stages", {})
    if score is None:
        run.write()
        try:
            scores = dict(score_fn(train_fn(run.preset, run.folder)))
            for value in scores.values():
                if not math.isfinite(value):
                    raise ValueError(f"the score is {value}")
        except (RuntimeError, ValueError, OSError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            logger.warning("%s, seed %d failed: %s", run.name, run.preset.seed, reason)
            run.write(error=reason)
            comparison.failures.setdefault(run.name, {})[run.preset.seed] = reason
            return
        *_, last = scores
        score = scores.pop(last)
        stages = scores
        run.write(score=score, **({"stages": stages} if stages else {}))
    seed = run.preset.seed
    comparison.scores.setdefault(run.name, {})[seed] = score
    for stage, value in stages.items():
        comparison.stages.setdefault(run.name, {}).setdefault(stage, {})[seed] = value


def _changes(configs: Mapping[str, Preset]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return by name what differs from the first config: field to (first, this)."""
    flat = {
        name: dict(flat_fields(json.loads(json.dumps(config_to_dict(preset)))))
        for name, preset in configs.items()
    }
    (_, reference), *others = flat.items()
    return {
        name: {
            path: (reference.get(path), values.get(path))
            for path in {**reference, **values}
            if path != "seed" and reference.get(path) != values.get(path)
        }
        for name, values in others
    }
