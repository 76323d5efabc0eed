"""The report as a table: one line per sequence, a group of columns per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .metrics import Column, Group, Metric

MEANS = {
    "mean": "mean over frames",
    "mean_of_sequences": "mean over sequences",
    "mean_of_windows": "mean over windows",
}
"""Means of a report and what they are called."""
_NAME_WIDTH = 22
_WIDTH = 8
_WORST = Column("psnr_worst", "worst", ".2f")


def column_groups(metrics: Sequence[Metric], *, sharp_input: bool = False) -> list[Group]:
    """Return the columns of these metrics.

    Args:
        metrics: What was measured.
        sharp_input: The input was the sharp clip: what compares it with itself goes, and
            the worst frame's PSNR comes instead.
    """
    groups = [group for metric in metrics for group in metric.groups]
    return [_without_input(group) for group in groups] if sharp_input else groups


def _without_input(group: Group) -> Group:
    columns = [column for column in group.columns if not column.key.startswith("input_")]
    kept = tuple(_WORST if column.key == "psnr_gain" else column for column in columns)
    return replace(group, columns=kept)


def header(groups: Sequence[Group]) -> str:
    """Return the two lines above the table."""
    titles, labels = " " * _NAME_WIDTH, f"{'sequence':{_NAME_WIDTH}}"
    for group in groups:
        width = _group_width(group)
        titles += f"  {group.title:>{width}}"
        cells = "".join(f"{column.label:>{_WIDTH}}" for column in group.columns)
        labels += f"  {cells:>{width}}"
    return f"{titles}\n{labels}"


def row(name: str, mean: Mapping[str, float], groups: Sequence[Group]) -> str:
    """Return the line of a sequence, or of a mean over them."""
    line = f"{name:{_NAME_WIDTH}}"
    for group in groups:
        cells = "".join(f"{cell(mean, column):>{_WIDTH}}" for column in group.columns)
        line += f"  {cells:>{_group_width(group)}}"
    return line


def cell(mean: Mapping[str, float], column: Column) -> str:
    """Return a figure as text, "-" where there is none."""
    return format(mean[column.key], column.form) if column.key in mean else "-"


def _group_width(group: Group) -> int:
    return max(len(group.title), _WIDTH * len(group.columns))
