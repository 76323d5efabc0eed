from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from video_deblur.training.report import charts
from video_deblur.training.report.charts import charts_of, draw_chart


def rows_of(**columns):
    """Make a log with a line every 10 updates; None leaves a value out."""
    count = len(next(iter(columns.values())))
    return [
        {"step": 10.0 * (i + 1), "elapsed_s": 1.0 * i}
        | {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(count)
    ]


def line_points(svg):
    """Return the coordinates `[N, 2]` of the last curve drawn."""
    paths = [p.get("d") for p in ElementTree.fromstring(svg).iter() if p.tag.endswith("path")]
    curves = [p for p in paths if p.count("L") > 2 and "z" not in p and "C" not in p]
    numbers = re.findall(r"-?\d+(?:\.\d+)?", curves[-1])
    return np.array(numbers, dtype=float).reshape(-1, 2)


def test_what_belongs_together_shares_a_chart_and_nothing_is_left_out():
    names = ["loss", "loss_t750_999", "loss_t000_249", "gain_db", "validation_gain_db", "l1"]
    names += ["v", "v_copy", "validation_psnr", "data_wait", "data_preparation", "images_per_s"]
    found = charts_of(rows_of(**{name: [0.5, 0.25] for name in names}))
    labels = {chart.title: [curve.label for curve in chart.curves] for chart in found}
    assert labels == {
        "Loss": [""],
        "Loss by timestep": ["0 to 249", "750 to 999"],
        "Gain over the blurry clips, dB": ["training", "validation"],
        "Validation PSNR, dB": [""],
        "Latent error": ["prediction", "copying the blurry latents"],
        "Throughput per second": ["images"],
        "Data, % of the time": ["waiting for it", "blurring it"],
        "l1": [""],
    }
    (wait,) = (chart for chart in found if chart.title.startswith("Data"))
    assert wait.curves[0].latest == 25


def test_missing_and_broken_values_leave_gaps():
    nan, inf = float("nan"), float("inf")
    (chart,) = charts_of(rows_of(loss=[1.0, nan, None, inf, 3.0]))
    assert chart.curves[0].steps.tolist() == [10, 50]
    assert chart.curves[0].values.tolist() == [1, 3]
    assert charts_of(rows_of(loss=[nan, nan])) == []


def test_the_thick_line_averages_neighbours_and_validations_stay_as_they_are():
    values = np.random.default_rng(0).random(100).tolist()
    loss, gain = charts_of(rows_of(loss=values, validation_gain_db=values))
    inside = np.convolve(values, np.full(11, 1 / 11), "valid")
    assert loss.curves[0].smooth[5:-5] == pytest.approx(inside)
    assert loss.curves[0].smooth[0] == pytest.approx(np.mean(values[:6]))
    assert loss.curves[0].latest == pytest.approx(np.mean(values[-6:]))
    assert gain.curves[0].smooth.tolist() == values


def test_long_runs_are_thinned_by_averages():
    values = np.arange(1501.0)
    (chart,) = charts_of(rows_of(loss=values.tolist()))
    curve = chart.curves[0]
    assert len(curve.values) == 501
    assert curve.values[:2].tolist() == [1, 4]
    assert curve.values[-1] == 1500
    assert curve.steps[:2].tolist() == [20, 50]


def test_a_curve_goes_where_its_values_go():
    (chart,) = charts_of(rows_of(psnr=[1.0, 2.0, 4.0, 3.0]))
    points = line_points(draw_chart(chart))
    assert points.shape == (4, 2)
    x, y = points.T
    assert np.diff(x) == pytest.approx((x[-1] - x[0]) / 3)
    rise = (y[0] - y) / (y[0] - y[1])
    assert rise == pytest.approx([0, 1, 3, 2], abs=1e-3)


def test_a_wide_range_of_losses_takes_a_logarithmic_axis():
    (chart,) = charts_of(rows_of(loss=[1000.0, 100.0, 10.0, 1.0]))
    y = line_points(draw_chart(chart))[:, 1]
    assert np.diff(y) == pytest.approx((y[-1] - y[0]) / 3, rel=1e-3)
    (negative,) = charts_of(rows_of(loss=[1000.0, 0.0, -1000.0, -2000.0]))
    y = line_points(draw_chart(negative))[:, 1]
    assert np.diff(y) == pytest.approx((y[-1] - y[0]) / 3, rel=1e-3)


def test_a_chart_takes_its_colours_from_the_page_and_leaves_the_rest_of_it_alone():
    columns = {f"loss_t{first:03d}_{first + 99}": [0.1, 0.2] for first in range(0, 600, 100)}
    (chart,) = charts_of(rows_of(**columns))
    svg = draw_chart(chart)
    for index in range(charts.NUM_COLORS):
        assert f"stroke: var(--curve-{index})" in svg
    assert "fill: var(--muted)" in svg
    assert "#0000" not in svg
    assert "<style" not in svg
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "Loss by timestep"
    assert draw_chart(chart) == svg


def test_all_charts_of_a_stage_end_at_the_same_update():
    loss, psnr = charts_of(rows_of(loss=[1.0] * 4, validation_psnr=[None, 20.0, None, None]))
    assert (loss.last_step, psnr.last_step) == (40, 40)
    assert psnr.curves[0].steps.tolist() == [20]
    assert draw_chart(psnr).count(">40<") == draw_chart(loss).count(">40<") == 1


def test_values_are_written_with_their_unit():
    names = ("gain_db", "loss", "psnr", "data_wait", "memory_gb", "images_per_s")
    values = (-0.0095, -5.4321, 28.235, 0.00496, 3.4347, 4.04)
    found = charts_of(rows_of(**{n: [v] for n, v in zip(names, values, strict=True)}))
    written = {chart.title: chart.written(chart.curves[0].latest) for chart in found}
    assert list(written.values()) == [
        *("\N{MINUS SIGN}5.43", "\N{MINUS SIGN}0.01 dB", "28.23 dB", "4.04 /s"),
        *("0.496 %", "3.43 GB"),
    ]
    gain = next(chart for chart in found if chart.title.startswith("Gain"))
    assert gain.written(-0.001) == "0.00 dB"
    assert "\N{MINUS SIGN}" in draw_chart(gain)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_single_line_is_enough(value):
    rows = [{"step": 0.0, "loss": value, "data_wait": value, "gain_db": -value}]
    for chart in charts_of(rows):
        assert "var(--curve-0)" in draw_chart(chart)


def test_skipped_updates_are_shown_if_there_are_any():
    none = [{"step": step, "skipped_updates": 0.0} for step in (1, 2)]
    assert charts_of(none) == []
    some = [*none, {"step": 3, "skipped_updates": 1.0}]
    assert [chart.title for chart in charts_of(some)] == ["Updates skipped so far"]


def test_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (chart,) = charts_of(rows_of(loss=[1.0]))
    with pytest.raises(ValueError, match='need matplotlib; install it, or the extra "train"'):
        draw_chart(chart)
