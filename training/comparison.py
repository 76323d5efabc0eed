"""What a comparison of configs over seeds found, as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..video.atomic import write_file

_SEEDS_FOR_DEVIATION = 3
"""Fewer say next to nothing about it."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and spread of one number over seeds."""

    count: int
    """Seeds."""
    mean: float
    low: float
    high: float
    deviation: float | None
    """Sample standard deviation; None below three seeds."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Scores by config and seed; configs in the order they were given."""

    score_name: str
    """What the scores measure, with the unit."""
    seeds: tuple[int, ...]
    """Every config has a score or a failure for each once the comparison is through."""
    budgets: dict[str, dict[str, list[int]]]
    """What each config spends; see `compare.budget`."""
    changes: dict[str, dict[str, tuple[Any, Any]]]
    """By config but the first: field to its value in the first and in this one."""
    settings: dict[str, Any]
    """What else the runs depend on."""
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    """By config and seed."""
    stages: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """What the runs had reached after the stages before their last, by config, stage and
    seed."""
    failures: dict[str, dict[int, str]] = field(default_factory=dict)
    """Reasons, by config and seed."""

    @property
    def names(self) -> list[str]:
        """The configs; the first is the reference."""
        return list(self.budgets)

    def spread(self, name: str) -> Spread | None:
        """Return mean and spread of a config's scores; None without any."""
        return _spread(self.scores.get(name, {}).values())

    def difference(self, name: str) -> Spread | None:
        """Return mean and spread of a config's scores less the first's of the same seed."""
        own, reference = self.scores.get(name, {}), self.scores.get(self.names[0], {})
        return _spread(own[seed] - reference[seed] for seed in own if seed in reference)

    def write(self, folder: Path) -> None:
        """Write `comparison.json` and `comparison.md`."""
        text = json.dumps(self.to_dict(), indent=2)
        write_file(folder / "comparison.json", f"{text}\n".encode())
        write_file(folder / "comparison.md", self.to_markdown().encode())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        configs = {}
        for name in self.names:
            spread, difference = self.spread(name), self.difference(name)
            configs[name] = {
                "scores": {str(seed): s for seed, s in self.scores.get(name, {}).items()},
                "stages": {
                    stage: {str(seed): score for seed, score in scores.items()}
                    for stage, scores in self.stages.get(name, {}).items()
                },
                "failures": {str(seed): r for seed, r in self.failures.get(name, {}).items()},
                "spread": None if spread is None else asdict(spread),
                "difference": None if difference is None else asdict(difference),
                "budget": self.budgets[name],
                "changes": {k: list(pair) for k, pair in self.changes.get(name, {}).items()},
            }
        return {
            "score": self.score_name,
            "seeds": list(self.seeds),
            "reference": self.names[0],
            "settings": self.settings,
            "configs": configs,
        }

    def to_markdown(self) -> str:
        """Return the table, what was different, the budget, and what failed."""
        reference = self.names[0]
        spread = ["min to max", "std"] if self._shows_deviation else ["min to max"]
        head = ["config", "seeds", "mean", *spread]
        head += [f"less {_escaped(reference)}, same seed", *spread]
        lines = [
            f"{self.score_name}, seeds {', '.join(map(str, self.seeds))}:",
            "",
            _row(head),
            _row(["---"] * len(head)),
            *(self._line(name) for name in self.names),
            "",
            *self._stage_lines(),
            *self._notes(),
        ]
        return "\n".join(lines) + "\n"

    @property
    def _shows_deviation(self) -> bool:
        return len(self.seeds) >= _SEEDS_FOR_DEVIATION

    def _line(self, name: str) -> str:
        spread, difference = self.spread(name), self.difference(name)
        paired = self._cells(difference, "+.3f")
        if name == self.names[0]:
            paired = [""] * len(paired)
        elif difference is not None and difference.count < len(self.seeds):
            paired[0] += f" ({self._count(difference)} seeds)"
        own = self._cells(spread, ".3f")
        return _row([_escaped(name), self._count(spread), *own, *paired])

    def _stage_lines(self) -> list[str]:
        """Return the table of the stages before the last; nothing where there are none."""
        rows = []
        for name in self.names:
            for stage, scores in self.stages.get(name, {}).items():
                own = self.scores.get(name, {})
                gained = _spread(own[seed] - scores[seed] for seed in own if seed in scores)
                spread = _spread(scores.values())
                cells = [*self._cells(spread, ".3f"), *self._cells(gained, "+.3f")]
                rows.append(_row([_escaped(name), stage, self._count(spread), *cells]))
        if not rows:
            return []
        spread = ["min to max", "std"] if self._shows_deviation else ["min to max"]
        head = ["config", "after", "seeds", "mean", *spread, "gained from there on", *spread]
        return [_row(head), _row(["---"] * len(head)), *rows, ""]

    def _count(self, spread: Spread | None) -> str:
        count, wanted = spread.count if spread else 0, len(self.seeds)
        return str(count) if count == wanted else f"{count} of {wanted}"

    def _cells(self, spread: Spread | None, form: str) -> list[str]:
        if spread is None:
            return ["none", "", ""] if self._shows_deviation else ["none", ""]
        cells = [f"{spread.mean:{form}}", f"{spread.low:{form}} to {spread.high:{form}}"]
        if self._shows_deviation:
            cells.append("" if spread.deviation is None else f"{spread.deviation:.3f}")
        return cells

    def _notes(self) -> list[str]:
        reference = self.names[0]
        notes = []
        for name in self.names[1:]:
            changed = ", ".join(
                f"{path} {json.dumps(new)} (there {json.dumps(old)})"
                for path, (old, new) in self.changes[name].items()
            )
            notes.append(f"- {name} against {reference}: {changed or 'no difference'}.")
        notes += [f"- Budget of {names}: {spent}." for names, spent in self._budgets()]
        if self.settings:
            shown = ", ".join(f"{k} {json.dumps(v)}" for k, v in self.settings.items())
            notes.append(f"- Settings: {shown}.")
        for name, reasons in self.failures.items():
            for seed, reason in reasons.items():
                notes.append(f"- **Failed**: {name}, seed {seed}: {_escaped(reason)}")
        return notes

    def _budgets(self) -> list[tuple[str, str]]:
        """Return each different budget with the configs that have it."""
        groups: dict[str, list[str]] = {}
        for name, spent in self.budgets.items():
            shown = ", ".join(
                f"{path} {' and '.join(map(str, values))}" for path, values in spent.items()
            )
            groups.setdefault(shown, []).append(name)
        if len(groups) == 1:
            return [("each run", next(iter(groups)))]
        return [(", ".join(names), shown) for shown, names in groups.items()]


def _spread(values: Iterable[float]) -> Spread | None:
    numbers = list(values)
    if not numbers:
        return None
    return Spread(
        count=len(numbers),
        mean=mean(numbers),
        low=min(numbers),
        high=max(numbers),
        deviation=stdev(numbers) if len(numbers) >= _SEEDS_FOR_DEVIATION else None,
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
