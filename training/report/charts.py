"""Curves of a training run as SVG that takes its colours from the page around it.

Matplotlib knows no style sheets: it draws with placeholder colours, which are then replaced
by variables that the page sets, one set for a light and one for a dark screen.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_COLORS = 5
"""Curves of one chart before colours repeat; the page sets `--curve-0` to `--curve-4`."""

_TEXT, _GRID = "#0000f0", "#0000f1"
_COLORS = [f"#0000{index + 1:02x}" for index in range(NUM_COLORS)]
_CSS = {_TEXT: "var(--muted)", _GRID: "var(--grid)"} | {
    color: f"var(--curve-{index})" for index, color in enumerate(_COLORS)
}
_SIZE = (4.6, 2.4)
"""Inches: 331 points wide, so that text keeps its size on a phone."""
_TICK_STEPS = [1, 2, 2.5, 5, 10]
_MOST_POINTS = 600
_MOST_MARKERS = 40


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One logged value over the updates."""

    label: str
    """What it is, for people; empty where the chart's title says it."""
    steps: np.ndarray
    """Updates `[N]`, rising, N > 0."""
    values: np.ndarray
    """float64 `[N]`, finite."""
    smooth: np.ndarray
    """What the thick line shows: `values`, or a moving average of them."""

    @property
    def latest(self) -> float:
        """The last value of the thick line."""
        return float(self.smooth[-1])


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves that share an axis."""

    title: str
    """With the unit."""
    last_step: float
    """Where the axis of updates ends: the same for all charts of a stage."""
    curves: tuple[Curve, ...]
    """At least one."""
    log: bool = False
    """Whether a wide range of positive values may take a logarithmic axis."""
    zero_line: bool = False
    """Whether zero is marked: values above and below mean different things."""
    from_zero: bool = False
    """Whether the axis starts at zero, so that small changes look small."""
    unit: str = ""
    """Of the values, as it is written behind one."""

    def written(self, value: float) -> str:
        """Write a value with its unit, with as many digits as are of use."""
        digits = f"{value:.2f}" if self.unit == "dB" else f"{value:.3g}"
        # Rounding to zero leaves the sign.
        digits = "0.00" if digits == "-0.00" else digits
        return f"{digits} {self.unit}".strip().replace("-", _MINUS)


@dataclass(frozen=True)
class _Group:
    """Logged names that make one chart."""

    pattern: str
    title: str
    smooth: bool = True
    log: bool = False
    zero_line: bool = False
    from_zero: bool = False
    factor: float = 1.0
    unit: str = ""
    if_any: bool = False
    """Shown only if a value is not zero."""


_GROUPS = (
    _Group("loss", "Loss", log=True),
    _Group(r"loss_t\d+_\d+", "Loss by timestep", log=True),
    _Group(
        "gain_db|validation_gain_db",
        "Gain over the blurry clips, dB",
        zero_line=True,
        unit="dB",
    ),
    _Group("validation_psnr", "Validation PSNR, dB", unit="dB"),
    _Group("psnr", "Training PSNR, dB", unit="dB"),
    _Group("v|v_copy", "Latent error", log=True),
    _Group("coherence", "Coherence error", log=True),
    _Group("adversarial_loss|discriminator_loss", "Losses of the two networks"),
    _Group(
        r"accuracy_\w+",
        "Frames that the discriminator tells right, %",
        from_zero=True,
        factor=100.0,
        unit="%",
    ),
    _Group("content_loss", "Loss without the discriminator's"),
    _Group("r1", "R1, squared gradient of the discriminator", log=True),
    _Group("gradient_norm|opponent_gradient_norm", "Gradient norm", log=True),
    _Group("learning_rate", "Learning rate", smooth=False, from_zero=True),
    _Group(r"\w+_per_s", "Throughput per second", from_zero=True, unit="/s"),
    _Group(
        "data_wait|data_preparation",
        "Data, % of the time",
        from_zero=True,
        factor=100.0,
        unit="%",
    ),
    _Group("skipped_updates", "Updates skipped so far", smooth=False, if_any=True),
    _Group("memory_gb", "Memory, GB", smooth=False, from_zero=True, unit="GB"),
)
_LABELS = {
    "accuracy_sharp": "sharp",
    "accuracy_restored": "restored",
    "accuracy_pairs": "pairs of both",
    "adversarial_loss": "of the restored frames",
    "discriminator_loss": "of the discriminator",
    "opponent_gradient_norm": "of the discriminator",
    "data_wait": "waiting for it",
    "data_preparation": "blurring it",
    "gain_db": "training",
    "validation_gain_db": "validation",
    "v": "prediction",
    "v_copy": "copying the blurry latents",
}
_MINUS = "\N{MINUS SIGN}"
_NOT_SHOWN = {"step", "elapsed_s"}


def charts_of(rows: Sequence[Mapping[str, float]]) -> list[Chart]:
    """Group everything that was logged into charts; unknown names get one each.

    Args:
        rows: Lines of a log by rising `step`. Values that are missing or not finite are
            left out.
    """
    names = [name for row in rows for name in row if name not in _NOT_SHOWN]
    left = dict.fromkeys(names)
    groups = [*_GROUPS]
    known = "|".join(group.pattern for group in _GROUPS)
    groups += [
        _Group(re.escape(name), name.replace("_", " "))
        for name in left
        if not re.fullmatch(known, name)
    ]
    charts = []
    for group in groups:
        members = [name for name in left if re.fullmatch(group.pattern, name)]
        if group.pattern.startswith("loss_t"):
            members.sort(key=_first_timestep)
        curves = tuple(c for name in members if (c := _curve(rows, name, group)) is not None)
        if curves:
            charts.append(
                Chart(
                    title=group.title,
                    last_step=rows[-1]["step"],
                    curves=curves,
                    log=group.log,
                    zero_line=group.zero_line,
                    from_zero=group.from_zero,
                    unit=group.unit,
                )
            )
    return charts


def draw_chart(chart: Chart) -> str:
    """Draw a chart as an `<svg>` element without title or legend.

    Raises:
        ValueError: If matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "the curves of a report need matplotlib; install it, or the extra "
            '"train" of this package'
        ) from error
    look: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.title,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        "grid.color": _GRID,
    }
    buffer = io.StringIO()
    with rc_context(look):
        figure = Figure(figsize=_SIZE, layout="constrained")
        _fill(figure.subplots(), chart)
        # Without these the same chart would not be the same file twice.
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=none)
    return _for_the_page(buffer.getvalue(), chart.title)


def _first_timestep(name: str) -> int:
    return int(name.split("_")[1].removeprefix("t"))


def _curve(rows: Sequence[Mapping[str, float]], name: str, group: _Group) -> Curve | None:
    points = [(row["step"], row[name]) for row in rows if np.isfinite(row.get(name, np.nan))]
    if not points or (group.if_any and not any(value for _, value in points)):
        return None
    steps, values = np.array(points, dtype=np.float64).T
    steps, values = _thinned(steps), _thinned(values) * group.factor
    reach = len(values) // 20
    # A validation is a mean over clips already.
    smooth = group.smooth and reach > 0 and not name.startswith("validation_")
    return Curve(
        label=_label(name),
        steps=steps,
        values=values,
        smooth=_moving_average(values, reach) if smooth else values,
    )


def _label(name: str) -> str:
    if re.fullmatch(r"loss_t\d+_\d+", name):
        first, last = (int(part) for part in name.removeprefix("loss_t").split("_"))
        return f"{first} to {last}"
    if name.endswith("_per_s"):
        return name.removesuffix("_per_s").replace("_", " ")
    return _LABELS.get(name, "")


def _thinned(values: np.ndarray) -> np.ndarray:
    """Average neighbours where there are more points than a chart can show."""
    count = -(-len(values) // _MOST_POINTS)
    starts = np.arange(0, len(values), count)
    return np.add.reduceat(values, starts) / np.diff(starts, append=len(values))


def _moving_average(values: np.ndarray, reach: int) -> np.ndarray:
    """Average each value with `reach` neighbours on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first = np.maximum(index - reach, 0)
    end = np.minimum(index + reach + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


def _fill(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for index, curve in enumerate(chart.curves):
        color = _COLORS[index % NUM_COLORS]
        if curve.smooth is not curve.values:
            axes.plot(curve.steps, curve.values, color=color, alpha=0.35, linewidth=0.7)
        marker = "o" if len(curve.steps) <= _MOST_MARKERS else ""
        axes.plot(
            *(curve.steps, curve.smooth),
            **{"color": color, "linewidth": 1.6, "marker": marker, "markersize": 3.2},
            # The last point lies on the edge.
            clip_on=False,
        )
    if chart.zero_line:
        axes.axhline(0, color=_TEXT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(0, max(1.0, chart.last_step))
    if chart.from_zero:
        axes.set_ylim(0, 1.08 * max(curve.values.max() for curve in chart.curves) or 1.0)
    axes.grid(axis="y", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=_TICK_STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if chart.log and _is_wide(chart):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_TICK_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _: object) -> str:
    return f"{value:.6g}".replace("-", _MINUS)


def _is_wide(chart: Chart) -> bool:
    values = np.concatenate([curve.values for curve in chart.curves])
    return bool(values.min() > 0 and values.max() > 20 * values.min())


def _for_the_page(svg: str, title: str) -> str:
    """Keep the element alone, with the page's colours, a name, and nothing global."""
    svg = svg[svg.index("<svg ") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub("|".join(_CSS), lambda match: _CSS[match.group()], svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
