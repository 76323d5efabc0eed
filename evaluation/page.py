"""A report as one HTML page with its pictures inside: table, crops, error maps."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..video.atomic import write_file
from ..video.pixels import to_uint8
from .crops import ERROR_SCALE, Crop, error_legend, error_map, telling_crops
from .metrics import Group
from .report import MeasuredSequence
from .table import MEANS, cell

_ARROWS = {
    "higher": "\N{UPWARDS ARROW}",
    "lower": "\N{DOWNWARDS ARROW}",
    "one": "\N{RIGHTWARDS ARROW} 1",
}
"""Where a figure should go."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1480px;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; border-top: 1px solid #8886;
  padding-top: 1.2rem; }
p { margin: .3rem 0; }
.quiet { opacity: .75; }
.wide { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th[colspan] { text-align: center; border-bottom: 1px solid #8886; }
th + th[colspan], .first { border-left: 1px solid #8886; }
tbody tr:nth-child(even) { background: #8881; }
tbody.means tr:first-child td { border-top: 1px solid #8888; }
tbody.means td { font-weight: 600; }
.crops { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 10px;
  margin: .4rem 0 1rem; }
@media (max-width: 900px) { .crops { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
figure { margin: 0; }
figcaption { font-size: .85rem; opacity: .8; }
.crops img { image-rendering: pixelated; display: block; width: 100%; height: auto; }
.legend { display: flex; gap: .5rem; align-items: center; font-size: .85rem; }
details { margin: .6rem 0; }
pre { overflow-x: auto; font-size: .85rem; }
"""


class Page:
    """Collects sequences and writes the page.

    Raises:
        FileNotFoundError: If the folder that the page goes into does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no such folder to write the page into")
        self._sections: list[str] = []

    def add(self, measured: MeasuredSequence) -> None:
        """Keep the crops of a sequence; its frames are let go."""
        restored = measured.restored
        if restored.dtype != np.uint8:
            restored = np.stack([to_uint8(frame) for frame in restored])
        most_to_win, got_worst = telling_crops(measured.blurry, restored, measured.sharp)
        clips = {"input": measured.blurry, "restored": restored, "sharp": measured.sharp}
        worsened = got_worst.after > got_worst.before
        shown = [("Got worse most" if worsened else "Won least", got_worst)]
        if most_to_win.before:
            shown.insert(0, ("Most to win", most_to_win))
        parts = [f"<h2>{escape(measured.name)}</h2>"]
        for title, crop in shown:
            parts.append(f"<p><b>{title}</b> {_place(crop, measured.frame_names)}</p>")
            parts.append(_crops(crop, clips))
        self._sections.append("\n".join(parts))

    def write(self, report: Mapping[str, Any], groups: Sequence[Group]) -> None:
        """Write the page.

        Args:
            report: From `evaluate_sequences`, with `dataset`, `sharp_input` and `method`
                (and what else describes the method) beside it.
            groups: Columns of the table.
        """
        protocol = report["protocol"]
        described = {
            key: value
            for key, value in report.items()
            if key != "sequences" and not key.startswith("mean")
        }
        method = " ".join(str(report[key]) for key in ("method", "checkpoint") if key in report)
        title = f"Deblurring by {escape(method)}"
        body = [
            f"<h1>{title}</h1>",
            f"<p>{escape(_input(report))}</p>",
            f'<p class="quiet">Protocol {escape(protocol["name"])}: '
            f"{escape(protocol['source'])}.</p>",
            f'<div class="wide">{_table(report, groups)}</div>',
            "<details><summary>Settings and versions</summary>"
            f"<pre>{escape(json.dumps(described, indent=2))}</pre></details>",
            error_map_legend(),
            *self._sections,
        ]
        write_file(self.path, html_page(title, body).encode())


def html_page(title: str, body: Sequence[str]) -> str:
    """Return a whole page of some parts; `title` is HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n"
        "<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _input(report: Mapping[str, Any]) -> str:
    dataset = str(report["dataset"])
    return f"{dataset}, sharp frames as input" if report["sharp_input"] else dataset


def _table(report: Mapping[str, Any], groups: Sequence[Group]) -> str:
    titles = "".join(
        f'<th colspan="{len(group.columns)}">{escape(group.title)} {_ARROWS[group.better]}</th>'
        for group in groups
    )
    labels = "".join(
        f"<th{_edge(index)}>{escape(column.label)}</th>"
        for group in groups
        for index, column in enumerate(group.columns)
    )
    sequences = [
        _table_row(name, result["mean"], groups) for name, result in report["sequences"].items()
    ]
    means = [
        _table_row(label, report[key], groups) for key, label in MEANS.items() if key in report
    ]
    return (
        f"<table><thead><tr><th></th>{titles}</tr><tr><th>sequence</th>{labels}</tr></thead>"
        f'<tbody>{"".join(sequences)}</tbody><tbody class="means">{"".join(means)}</tbody>'
        "</table>"
    )


def _table_row(name: str, mean: Mapping[str, float], groups: Sequence[Group]) -> str:
    cells = "".join(
        f"<td{_edge(index)}>{cell(mean, column)}</td>"
        for group in groups
        for index, column in enumerate(group.columns)
    )
    return f"<tr><td>{escape(name)}</td>{cells}</tr>"


def _edge(index: int) -> str:
    return "" if index else ' class="first"'


def _place(crop: Crop, names: Sequence[str]) -> str:
    before, after = (_psnr(value) for value in (crop.before, crop.after))
    return (
        f'<span class="quiet">frame {escape(names[crop.frame])}, {crop.size}x{crop.size} '
        f"pixels at ({crop.left}, {crop.top}): {before} before, {after} after</span>"
    )


def _psnr(mean_square: float) -> str:
    if mean_square == 0:
        return "no error"
    return f"{10 * math.log10(255**2 / mean_square):.2f} dB"


def _crops(crop: Crop, clips: Mapping[str, np.ndarray]) -> str:
    squares = {name: crop.of(frames) for name, frames in clips.items()}
    pictures = dict(squares)
    for name in ("input", "restored"):
        pictures[f"error, {name}"] = error_map(squares[name], squares["sharp"])
    figures = "".join(
        f'<figure><img src="{data_url(pixels)}" width="{crop.size}" height="{crop.size}" '
        f'alt="{name}"><figcaption>{name}</figcaption></figure>'
        for name, pixels in pictures.items()
    )
    return f'<div class="crops">{figures}</div>'


def error_map_legend() -> str:
    """Return the scale of all error maps, as HTML."""
    return (
        '<div class="legend">error, mean over channels: 0 '
        f'<img src="{data_url(error_legend())}" width="256" height="12" alt="scale"> '
        f"{ERROR_SCALE} levels of 255 or more</div>"
    )


def data_url(pixels: np.ndarray) -> str:
    """Return a picture, uint8 RGB, as what `src` of an image may hold."""
    written, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert written
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
