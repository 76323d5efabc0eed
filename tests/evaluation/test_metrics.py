"""The metrics by name: what each measures of which clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from video_deblur.evaluation import fidelity
from video_deblur.evaluation.metrics import METRICS, Clip, Metric, build_metrics
from video_deblur.evaluation.niqe import niqe
from video_deblur.evaluation.protocols import PROTOCOLS

RGB8 = PROTOCOLS["rgb8"]


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Noise is the picture; the blurry clip lost it, the restored one has half of it back."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 30, (3, 96, 192, 3))
    blurry = np.broadcast_to(128 + 30 * np.sin(np.arange(192) / 9)[:, None], noise.shape)
    return Clip(
        restored=np.rint(blurry + noise / 2).clip(0, 255).astype(np.uint8),
        blurry=np.rint(blurry + noise / 20).clip(0, 255).astype(np.uint8),
        sharp=np.rint(blurry + noise).clip(0, 255).astype(np.uint8),
    )


def one(name: str) -> Metric:
    return build_metrics([name], RGB8)[0]


def test_comparing_metrics_measure_result_and_input(clip):
    for name, function in (("psnr", fidelity.psnr), ("ssim", fidelity.ssim)):
        rows = one(name).measure(clip)
        assert len(rows) == 3
        for index, row in enumerate(rows):
            sharp = clip.sharp[index]
            assert row == {
                name: function(clip.restored[index], sharp, data_range=255),
                f"input_{name}": function(clip.blurry[index], sharp, data_range=255),
            }


def test_ssim_follows_the_protocol(clip):
    (metric,) = build_metrics(["ssim"], PROTOCOLS["bsstnet"])
    expected = fidelity.ssim_across_channels(clip.restored[0], clip.sharp[0], data_range=255)
    assert metric.measure(clip)[0]["ssim"] == expected


def test_niqe_measures_all_three(clip):
    row = one("niqe").measure(clip)[1]
    assert row == {
        "niqe": niqe(clip.restored[1], data_range=255),
        "input_niqe": niqe(clip.blurry[1], data_range=255),
        "sharp_niqe": niqe(clip.sharp[1], data_range=255),
    }


def test_half_the_detail_is_a_quarter_of_its_energy(clip):
    row = one("high_frequency").measure(clip)[0]
    assert row["high_frequency"] == pytest.approx(0.25, rel=0.05)
    assert row["high_frequency_matched"] == pytest.approx(0.5, rel=0.05)
    assert row["input_high_frequency_matched"] == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("name", ["warping", "warping_lai"])
def test_warping_is_taken_relative_to_the_sharp_clip(clip, name):
    metric = one(name)
    rows = metric.measure(clip)
    assert rows[0] == {}
    assert set(rows[1]) == {name, f"input_{name}", f"sharp_{name}"}
    mean = {key: (rows[1][key] + rows[2][key]) / 2 for key in rows[1]}
    ratios = metric.derive(mean)
    assert ratios[f"{name}_ratio"] == mean[name] / mean[f"sharp_{name}"]
    assert ratios[f"input_{name}_ratio"] < ratios[f"{name}_ratio"] < 1
    assert metric.derive({}) == {}


def test_gain_needs_an_input_with_errors():
    derive = one("psnr").derive
    assert derive({"psnr": 30.0, "input_psnr": 28.0}) == {"psnr_gain": 2.0}
    assert derive({"psnr": 40.0, "input_psnr": math.inf}) == {}


def test_a_protocol_without_rounding_measures_floats(clip):
    scaled = Clip(
        restored=clip.restored / np.float32(255),
        blurry=clip.blurry / np.float32(255),
        sharp=clip.sharp / np.float32(255),
    )
    names = ["psnr", "niqe", "warping", "high_frequency"]
    for in_bytes, in_floats in zip(
        build_metrics(names, RGB8), build_metrics(names, PROTOCOLS["shift_net"]), strict=True
    ):
        for row, same in zip(in_bytes.measure(clip), in_floats.measure(scaled), strict=True):
            # The flow sees 8 bits of luma, where a half may round the other way.
            assert same == pytest.approx(row, rel=1e-3)


def test_names_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"must be some of psnr, ssim, .*, got 'vmaf'"):
        build_metrics(["psnr", "vmaf"], RGB8)
    with pytest.raises(ValueError, match="metric ssim is given twice"):
        build_metrics(["ssim", "psnr", "ssim"], RGB8)
    with pytest.raises(ValueError, match=r"lpips_vgg needs .* vgg16: .* --lpips-weights FILE"):
        build_metrics(["lpips_vgg"], RGB8)


def test_every_metric_says_what_tables_show():
    lpips = {"lpips_alex", "lpips_vgg", "lpips_squeeze"}
    for metric in build_metrics([n for n in METRICS if n not in lpips], RGB8):
        keys = [column.key for group in metric.groups for column in group.columns]
        assert any(key.startswith("input_") for key in keys)
        assert {group.better for group in metric.groups} <= {"higher", "lower", "one"}
