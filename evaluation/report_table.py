"""Results beside what a paper reports: a table as text, and a page with crops and error maps.

Every result is measured here, by one protocol; published rows stay as printed.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..images.datasets import PairedSequence
from ..video.atomic import write_file
from ..video.pixels import to_uint8
from .crops import Crop, error_map, telling_crops
from .methods import predictions_method
from .metrics import Metric
from .page import data_url, error_map_legend, html_page
from .protocols import Protocol
from .published import PublishedRow, PublishedTable
from .report import MeasuredSequence, evaluate_sequences

_COLUMNS = ("PSNR", "SSIM", "LPIPS")
_NAME_WIDTH = 28
_WIDTH = 9
_MAP_WIDTH = 480
"""Largest width of a map of a whole frame, in pixels."""
_MEANS = {"frames": "mean", "sequences": "mean_of_sequences", "windows": "mean_of_windows"}
"""By what a protocol averages over: the key of a report."""


class _Cell(NamedTuple):
    text: str
    mark: str = ""
    """Letter of a note."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One folder of results, measured."""

    name: str
    report: dict[str, Any]
    """From `evaluate_sequences`."""

    def cells(self) -> list[_Cell]:
        """Return its figures, of the mean that the protocol reports."""
        average = self.report["protocol"]["average"]
        mean = self.report[_MEANS[average]]
        lpips = next((mean[key] for key in mean if key.startswith("lpips_")), None)
        return _cells(mean.get("psnr"), mean.get("ssim"), lpips)


def named_folder(text: str) -> tuple[str, Path]:
    """Split `NAME=FOLDER`; a folder alone is named after itself.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    name, equals, folder = text.partition("=")
    path = Path(text) if not equals or Path(text).is_dir() else Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder of results")
    return (name if path != Path(text) and name else path.name), path


def measure_results(
    folders: Sequence[tuple[str, Path]],
    sequences: Sequence[PairedSequence],
    metrics: Sequence[Metric],
    protocol: Protocol,
    callback: Callable[[str, MeasuredSequence], None] | None = None,
) -> list[Result]:
    """Measure every folder on the same sequences.

    Raises:
        ValueError: If two have one name, or frames do not fit.
        FileNotFoundError: If a result is missing.
    """
    names = [name for name, _ in folders]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two results are called {name!r}: name them, --pred NAME=FOLDER")
    results = []
    for name, folder in folders:

        def show(measured: MeasuredSequence, name: str = name) -> None:
            if callback is not None:
                callback(name, measured)

        report = evaluate_sequences(
            sequences,
            predictions_method(folder).restore,
            show,
            metrics=metrics,
            protocol=protocol,
        )
        results.append(Result(name=name, report=report))
    return results


def table_text(
    table: PublishedTable, results: Sequence[Result], protocol: Protocol, dataset: str | None
) -> str:
    """Return the published rows, the results below them, and what is to be known of both."""
    lines = [f"{table.title}, as {table.source} prints it", _line("", map(_Cell, _COLUMNS))]
    marks: list[str] = []
    for row in table.rows:
        lines.append(_line(row.method, _published_cells(row, marks)))
    if results:
        lines += ["", f"measured here on {dataset}, {_averaged(protocol)}"]
        lines += [_line(result.name, result.cells()) for result in results]
    lines += ["", *(f"{_mark(index)} {text}" for index, text in enumerate(marks))]
    lines += table.notes
    return "\n".join(lines)


@dataclass(kw_only=True)
class TablePage:
    """Collects crops and error maps of every result, and writes the page.

    The crop of a sequence is where its blurry input errs most, the same for all results.
    """

    path: Path
    _crops: dict[str, Crop] = field(default_factory=dict)
    _pictures: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    _maps: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    _frames: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no such folder to write into")

    def add(self, name: str, measured: MeasuredSequence) -> None:
        """Keep the crop and the error map of one result of a sequence."""
        sequence, restored = measured.name, measured.restored
        if restored.dtype != np.uint8:
            restored = np.stack([to_uint8(frame) for frame in restored])
        if sequence not in self._crops:
            crop, _ = telling_crops(measured.blurry, measured.blurry, measured.sharp)
            self._crops[sequence] = crop
            self._frames[sequence] = measured.frame_names[crop.frame]
            self._pictures[sequence] = {"sharp": crop.of(measured.sharp)}
            self._maps[sequence] = {}
            self._keep(measured, "input", measured.blurry)
        self._keep(measured, name, restored)

    def write(
        self,
        table: PublishedTable,
        results: Sequence[Result],
        protocol: Protocol,
        dataset: str | None,
    ) -> None:
        """Write the page."""
        title = f"{table.title}: published and measured"
        body = [
            f"<h1>{escape(title)}</h1>",
            f'<div class="wide">{_html_table(table, results, protocol, dataset)}</div>',
            *(f'<p class="quiet">{escape(note)}.</p>' for note in table.notes),
            f'<p class="quiet">Protocol {escape(protocol.name)}: '
            f"{escape(protocol.source)}.</p>",
            f"<details><summary>Versions</summary><pre>{escape(_versions(results))}</pre>"
            "</details>",
            error_map_legend(),
            *(self._section(sequence) for sequence in self._crops),
        ]
        write_file(self.path, html_page(escape(title), body).encode())

    def _keep(self, measured: MeasuredSequence, name: str, frames: np.ndarray) -> None:
        crop = self._crops[measured.name]
        self._pictures[measured.name][name] = crop.of(frames)
        error = error_map(frames[crop.frame], measured.sharp[crop.frame])
        height, width = error.shape[:2]
        if width > _MAP_WIDTH:
            size = (_MAP_WIDTH, max(1, round(height * _MAP_WIDTH / width)))
            error = cv2.resize(error, size, interpolation=cv2.INTER_AREA)
        self._maps[measured.name][name] = error

    def _section(self, sequence: str) -> str:
        crop, pictures = self._crops[sequence], dict(self._pictures[sequence])
        pictures["sharp"] = pictures.pop("sharp")
        place = (
            f"frame {escape(self._frames[sequence])}, {crop.size}x{crop.size} pixels at "
            f"({crop.left}, {crop.top}), where the input errs most"
        )
        maps = self._maps[sequence]
        return (
            f"<h2>{escape(sequence)}</h2><p class='quiet'>{place}</p>"
            f"{_row_of(pictures)}<p class='quiet'>error of the whole frame</p>{_row_of(maps)}"
        )


def _row_of(pictures: Mapping[str, np.ndarray]) -> str:
    figures = "".join(
        f'<figure><img src="{data_url(pixels)}" width="{pixels.shape[1]}" '
        f'height="{pixels.shape[0]}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, pixels in pictures.items()
    )
    return f'<div class="crops">{figures}</div>'


def _html_table(
    table: PublishedTable, results: Sequence[Result], protocol: Protocol, dataset: str | None
) -> str:
    marks: list[str] = []
    published = [_html_row(row.method, _published_cells(row, marks)) for row in table.rows]
    measured = [_html_row(result.name, result.cells()) for result in results]
    heads = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    notes = "".join(
        f'<p class="quiet">{_mark(index)} {escape(text)}.</p>'
        for index, text in enumerate(marks)
    )
    below = ""
    if results:
        said = escape(f"measured here on {dataset}, {_averaged(protocol)}")
        below = f'<tr><td colspan="4">{said}</td></tr>{"".join(measured)}'
    return (
        f"<p>{escape(table.source)}</p><table><thead><tr><th></th>{heads}</tr></thead>"
        f'<tbody>{"".join(published)}</tbody><tbody class="means">{below}</tbody></table>'
        f"{notes}"
    )


def _html_row(name: str, cells: Iterable[_Cell]) -> str:
    shown = "".join(f"<td>{escape(cell.text + cell.mark)}</td>" for cell in cells)
    return f"<tr><td>{escape(name)}</td>{shown}</tr>"


def _published_cells(row: PublishedRow, marks: list[str]) -> list[_Cell]:
    """Return the cells of a row; what its marks say is added to `marks`."""
    digits = 4 if row.ssim != round(row.ssim, 2) else 2
    lpips = "-" if row.lpips is None else f"{row.lpips:.2f}"
    cells = [_Cell(text) for text in (f"{row.psnr:.2f}", f"{row.ssim:.{digits}f}", lpips)]
    if row.printed_lpips:
        marks.append(f"{row.method}: printed as {row.printed_lpips}, a misprint")
        cells[2] = cells[2]._replace(mark=_mark(len(marks) - 1))
    if row.note:
        marks.append(f"{row.method}: {row.note}")
        cells[0] = cells[0]._replace(mark=_mark(len(marks) - 1))
    return cells


def _cells(psnr: float | None, ssim: float | None, lpips: float | None) -> list[_Cell]:
    forms = ((psnr, ".2f"), (ssim, ".4f"), (lpips, ".4f"))
    return [_Cell("-" if value is None else format(value, form)) for value, form in forms]


def _line(name: str, cells: Iterable[_Cell]) -> str:
    # Marks hang out to the right, so that digits stand below each other.
    shown = "".join(f"{cell.text:>{_WIDTH}}{cell.mark:2}" for cell in cells)
    return f"{name:{_NAME_WIDTH}}{shown}".rstrip()


def _mark(index: int) -> str:
    return string.ascii_lowercase[index]


def _averaged(protocol: Protocol) -> str:
    return f"protocol {protocol.name}, mean over {protocol.average}"


def _versions(results: Sequence[Result]) -> str:
    if not results:
        return "nothing was measured"
    report = results[0].report
    return json.dumps(
        {key: report[key] for key in ("protocol", "metrics", "versions")}, indent=2
    )
