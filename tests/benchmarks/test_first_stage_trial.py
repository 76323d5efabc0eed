"""The benchmark that shows how networks do on the test pictures of a first stage."""

from __future__ import annotations

import sys

import torch
from video_deblur.benchmarks import first_stage_trial


def test_each_network_has_a_row_with_its_fault(monkeypatch, capsys, checkpoint):
    made = {"black": torch.zeros_like, "NaN": lambda frame: frame * torch.nan}
    monkeypatch.setattr(first_stage_trial, "WRONG", made)
    monkeypatch.setattr(first_stage_trial, "SHARPENED", {})
    monkeypatch.setattr(sys, "argv", ["trial", checkpoint])
    first_stage_trial.main()
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows] == [
        f"| {checkpoint}",
        "| black",
        "| NaN",
        "| nothing changed",
    ]
    assert all(row.count("|") == head.count("|") for row in rows)
    assert rows[1].endswith("it shows something else than a sharp test picture |")
    assert "refused" in rows[1]
    assert "not finite" in rows[2]
    assert "hardly deblurs" in rows[3]
