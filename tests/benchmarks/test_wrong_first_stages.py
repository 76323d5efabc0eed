"""First stages that are wrong, in the benchmark that says what they cost."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
from video_deblur.benchmarks import wrong_first_stages

from ..restoration.borrowing.test_passes import texture


def test_a_picture_of_something_else_changes_nothing_and_is_said(tmp_path, monkeypatch, capsys):
    sharp = (texture(seed=3, size=(96, 96)) * 255).astype(np.uint8)
    for name, frame in (("sharp", sharp), ("blur", cv2.blur(sharp, (9, 1)))):
        (tmp_path / "pairs" / "one" / name).mkdir(parents=True)
        for index in range(2):
            cv2.imwrite(str(tmp_path / "pairs" / "one" / name / f"{index}.png"), frame)
    kept = {name: wrong_first_stages.WRONG[name] for name in ("noise", "NaN")}
    monkeypatch.setattr(wrong_first_stages, "WRONG", kept)
    found = tmp_path / "found.json"
    arguments = ["wrong", "--pairs", str(tmp_path / "pairs"), "--json", str(found)]
    monkeypatch.setattr(sys, "argv", arguments)
    wrong_first_stages.main()
    gains, said = json.loads(found.read_text()).values()
    assert gains["none"] == gains["noise"] == gains["NaN"]
    assert ["something else" in said["noise"][0], "not finite" in said["NaN"][0]] == [True] * 2
    assert [len(lines) for lines in said.values()] == [1, 1]
    assert "at most 0.00 dB" in capsys.readouterr().out
