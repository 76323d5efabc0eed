"""One page on a training run: how far it is, its curves, its pictures, its config.

Reads what a run leaves in its folder: `<stage>.jsonl`, `pictures/<stage>_<step>.png` and
`config.json`. The page holds everything it shows, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2

from ...images.folders import read_image
from ...video.atomic import write_file
from .balance import balance_warnings
from .charts import NUM_COLORS, Chart, charts_of, draw_chart
from .style import STYLE

Row = dict[str, float]
"""One line of a log: numbers by name, "step" among them."""

_MOST_EARLIER = 12
"""Earlier pictures on the page, evenly spaced: it must stay small enough to send."""
_THUMBNAIL_WIDTH = 320


@dataclass(frozen=True, kw_only=True)
class _Stage:
    name: str
    rows: list[Row]
    planned: int | None
    """Updates by the config; None where it does not say."""
    pictures: list[tuple[int, Path]]
    """By update."""

    @property
    def steps(self) -> int:
        return int(self.rows[-1]["step"])

    @property
    def best(self) -> Row | None:
        """The line of the best validation."""
        measured = [row for row in self.rows if math.isfinite(_value(row, "validation_psnr"))]
        return max(measured, key=lambda row: row["validation_psnr"], default=None)


def write_report(folder: str | Path) -> Path:
    """Write `<folder>/report.html` about a run that is finished, stopped or going on.

    Args:
        folder: Of the run.

    Returns:
        Path of the page, replaced if it exists.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it holds no log of a run, its config cannot be read, or matplotlib is
            missing.
    """
    folder = Path(folder)
    config = _read_config(folder)
    stages = _read_stages(folder, config)
    names = (config.get("preset"), config.get("name"), folder.resolve().name)
    name = escape(str(next(filter(None, names))))
    parts = [
        f"<h1>{name}</h1>",
        _summary(stages, folder),
        *(_stage_section(stage) for stage in reversed(stages)),
        _config_section(config),
        "<footer>Thin lines are values as they were logged, thick ones moving averages over a "
        "tenth of the run, and the number above is where they end. Across: updates.</footer>",
    ]
    path = folder / "report.html"
    write_file(path, _page(f"Training of {name}", parts).encode())
    return path


def read_log(path: str | Path) -> list[Row]:
    """Read a log as it stands: what a resumed run did again replaces what it did before.

    Lines that were cut off by a kill are left out, as are values that are no numbers.

    Returns:
        Lines by rising "step"; several about one step are merged.
    """
    rows: list[Row] = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        row = _parse_line(line)
        if row is None:
            continue
        while rows and rows[-1]["step"] > row["step"]:
            rows.pop()
        if rows and rows[-1]["step"] == row["step"]:
            rows[-1] |= row
        else:
            rows.append(row)
    return rows


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        "<body><main>" + "\n".join(parts) + "</main></body></html>\n"
    )


def _parse_line(line: str) -> Row | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    numbers = {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return numbers if math.isfinite(_value(numbers, "step")) else None


def _value(row: Row, name: str) -> float:
    return row.get(name, math.nan)


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); repair or delete it") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: must hold a JSON object; repair or delete it")
    return config


def _read_stages(folder: Path, config: dict[str, Any]) -> list[_Stage]:
    """Read every log, in the order of the config and then of the names."""
    logs = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if not logs:
        raise ValueError(
            f"{folder}: holds no log <stage>.jsonl; name the folder that a run was written to"
        )
    order = [*(name for name in config if name in logs), *logs]
    stages = []
    for name in dict.fromkeys(order):
        rows = read_log(logs[name])
        settings = config.get(name)
        planned = settings.get("steps") if isinstance(settings, dict) else None
        if rows:
            stages.append(
                _Stage(
                    name=name,
                    rows=rows,
                    planned=planned if isinstance(planned, int) else None,
                    pictures=_find_pictures(folder, name),
                )
            )
    if not stages:
        raise ValueError(f"{folder}: its logs hold no complete line yet; wait for the first")
    return stages


def _find_pictures(folder: Path, stage: str) -> list[tuple[int, Path]]:
    found = []
    for path in (folder / "pictures").glob("*.png"):
        match = re.fullmatch(rf"{re.escape(stage)}_(\d+)", path.stem)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)


def _summary(stages: Sequence[_Stage], folder: Path) -> str:
    last = stages[-1]
    best = [(stage, row) for stage in stages if (row := stage.best) is not None]
    seconds = sum(_seconds(stage.rows) for stage in stages)
    tiles = [
        ("Stage", last.name, ""),
        ("Updates", _progress(last), _share(last)),
        ("Time", _duration(seconds), _time_note(stages)),
    ]
    if best:
        stage, row = max(best, key=lambda pair: pair[1]["validation_psnr"])
        gain = _value(row, "validation_gain_db")
        note = f"{stage.name}, update {row['step']:,.0f}"
        gained = f"{gain:+.2f} dB over blurry; " if math.isfinite(gain) else ""
        tiles.append(("Best validation", f"{row['validation_psnr']:.2f} dB", f"{gained}{note}"))
    written = max((folder / f"{stage.name}.jsonl").stat().st_mtime for stage in stages)
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(written))
    shown = "".join(
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for title, value, note in tiles
    )
    return f"<p>{escape(folder.resolve().name)}, last line of {date}</p><dl>{shown}</dl>"


def _progress(stage: _Stage) -> str:
    return f"{stage.steps:,}" + (f" of {stage.planned:,}" if stage.planned else "")


def _share(stage: _Stage) -> str:
    if not stage.planned:
        return ""
    return "done" if stage.steps >= stage.planned else f"{stage.steps / stage.planned:.0%}"


def _time_note(stages: Sequence[_Stage]) -> str:
    """Estimate the rest of the last stage, at the pace it has kept so far."""
    stage, notes = stages[-1], ["all stages"] if len(stages) > 1 else []
    if stage.planned and 0 < stage.steps < stage.planned:
        seconds = _seconds(stage.rows) / stage.steps * (stage.planned - stage.steps)
        notes.append(f"about {_duration(seconds)} left in this stage")
    return "; ".join(notes)


def _seconds(rows: Iterable[Row]) -> float:
    """Add up the time behind the lines, whether or not a resumed run's clock starts anew."""
    total = before = 0.0
    for row in rows:
        elapsed = row.get("elapsed_s", before)
        total += elapsed - before if elapsed >= before else elapsed
        before = elapsed
    return total


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _stage_section(stage: _Stage) -> str:
    note = f"{_progress(stage)} updates, {_duration(_seconds(stage.rows))}"
    figures = "\n".join(_figure(chart) for chart in charts_of(stage.rows))
    return (
        f"<section><h2>{escape(stage.name)} <small>{note}</small></h2>\n"
        f"{_warnings(stage)}"
        f'<div class="charts">{figures}</div>\n{_pictures(stage.pictures)}</section>'
    )


def _warnings(stage: _Stage) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in balance_warnings(stage.rows))
    return f'<ul class="warnings">{lines}</ul>\n' if lines else ""


def _figure(chart: Chart) -> str:
    return (
        f"<figure><figcaption><h3>{escape(chart.title)}</h3>{_legend(chart)}</figcaption>"
        f"{draw_chart(chart)}</figure>"
    )


def _legend(chart: Chart) -> str:
    """Name the curves, each with its latest value."""
    keys = []
    for index, curve in enumerate(chart.curves):
        color = f"var(--curve-{index % NUM_COLORS})"
        name = (
            f'<i style="background:{color}"></i>{escape(curve.label)} ' if curve.label else ""
        )
        keys.append(
            f'<span class="key">{name}<b>{escape(chart.written(curve.latest))}</b></span>'
        )
    return "".join(keys)


def _pictures(pictures: Sequence[tuple[int, Path]]) -> str:
    if not pictures:
        return ""
    latest, earlier = _latest_picture(*pictures[-1]), _earlier_pictures(pictures[:-1])
    return f'<div class="pictures">{latest}{earlier}</div>'


def _latest_picture(step: int, path: Path) -> str:
    try:
        width = read_image(path).shape[1]
    except ValueError:
        return _unreadable(path)
    image = _image(path, "image/png", path.read_bytes(), step)
    return (
        f'<figure style="max-width:{width}px">{image}'
        f"<figcaption>Validation clips at update {step:,}</figcaption></figure>"
    )


def _earlier_pictures(pictures: Sequence[tuple[int, Path]]) -> str:
    if not pictures:
        return ""
    count = min(len(pictures), _MOST_EARLIER)
    chosen = [pictures[(i + 1) * len(pictures) // count - 1] for i in range(count)]
    shown = "".join(_thumbnail(step, path) for step, path in reversed(chosen))
    some = f", {count} of {len(pictures)}" if count < len(pictures) else ""
    return f'<div><h3>Earlier{some}</h3><div class="earlier">{shown}</div></div>'


def _thumbnail(step: int, path: Path) -> str:
    try:
        pixels = read_image(path)[..., :3]
    except ValueError:
        return _unreadable(path)
    height, width = pixels.shape[:2]
    size = (_THUMBNAIL_WIDTH, max(round(height * _THUMBNAIL_WIDTH / width), 1))
    small = cv2.cvtColor(
        cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR
    )
    written, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert written
    image = _image(path, "image/jpeg", data.tobytes(), step)
    return f"<figure>{image}<figcaption>update {step:,}</figcaption></figure>"


def _unreadable(path: Path) -> str:
    return f"<p>{escape(path.name)} cannot be read as an image.</p>"


def _image(path: Path, kind: str, data: bytes, step: int) -> str:
    """Embed a picture that leads to its file, for as long as the page lies beside it."""
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    link = escape(f"pictures/{path.name}")
    text = f"Validation clips at update {step}: blurry, restored, sharp"
    return f'<a href="{link}"><img src="{source}" alt="{text}"></a>'


def _config_section(config: dict[str, Any]) -> str:
    if not config:
        return "<section><h2>Config</h2><p>The folder holds no config.json.</p></section>"
    text = escape(json.dumps(config, indent=2))
    return f"<section><details><summary>Config</summary><pre>{text}</pre></details></section>"
