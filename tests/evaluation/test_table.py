"""The printed table."""

from __future__ import annotations

import math

from video_deblur.evaluation.metrics import build_metrics
from video_deblur.evaluation.protocols import PROTOCOLS
from video_deblur.evaluation.table import column_groups, header, row

METRICS = build_metrics(["psnr", "niqe", "high_frequency"], PROTOCOLS["rgb8"])
MEAN = {"psnr": 31.236, "input_psnr": 30.0, "psnr_gain": 1.236, "psnr_worst": 28.5}
MEAN |= {"niqe": 4.4, "sharp_niqe": 3.0}


def test_figures_stand_under_their_labels():
    groups = column_groups(METRICS)
    titles, labels = header(groups).splitlines()
    line = row("river", MEAN, groups)
    assert len(titles) == len(labels) == len(line)
    assert "PSNR, dB" in titles
    assert labels.split()[:4] == ["sequence", "input", "result", "gain"]
    assert line.split() == ["river", "30.00", "31.24", "+1.24", "-", "4.40", "3.00", *"----"]
    assert labels.index("gain") + len("gain") == line.index("+1.24") + len("+1.24")


def test_a_long_name_stays_whole():
    groups = column_groups(METRICS[:1])
    assert row("a_very_long_name_of_a_sequence", MEAN, groups).split()[1] == "30.00"


def test_identical_frames_print_as_inf():
    line = row("still", {"psnr": math.inf, "input_psnr": math.inf}, column_groups(METRICS[:1]))
    assert line.split() == ["still", "inf", "inf", "-"]


def test_sharp_input_shows_the_worst_frame_instead_of_the_input():
    groups = column_groups(METRICS[:2], sharp_input=True)
    assert header(groups).splitlines()[1].split() == [
        *("sequence", "result", "worst", "result", "sharp")
    ]
    assert row("river", MEAN, groups).split() == ["river", "31.24", "28.50", "4.40", "3.00"]
