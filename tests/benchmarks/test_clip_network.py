from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from video_deblur.benchmarks import clip_network
from video_deblur.models.cpgd_config import CpcConfig
from video_deblur.video.writer import VideoWriter

from ..conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch):
    both = dataclasses.replace(SMALL_CPGD_CONFIG, cpc=CpcConfig(divd=SMALL_CONFIG))
    networks = {"first stage": SMALL_CPGD_CONFIG, "both stages": both}
    monkeypatch.setattr(clip_network, "NETWORKS", networks)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, width=96, height=64, time_base=1, average_rate=25) as writer:
        for index in range(4):
            frame = np.random.default_rng(index).integers(0, 255, (64, 96, 3), np.uint8)
            writer.write(frame, index)
    return path


@pytest.mark.parametrize("network", ["first stage", "both stages"])
def test_a_clip_is_restored_and_timed(clip, network):
    result = clip_network.run_one(str(clip), "96x64", network, "float32", 10, 0)
    assert result["added_mib"] >= 0
    assert result["frame_s"] > result["priors_s"] > 0


def test_the_command_prints_a_row_for_each(monkeypatch, capsys):
    asked = []

    def done(command, **options):
        asked.append(command[-3:])
        result = {"added_mib": 5.0, "frame_s": 0.25, "priors_s": 0.001}
        return type("Done", (), {"stdout": json.dumps(result)})

    monkeypatch.setattr(clip_network.subprocess, "run", done)
    monkeypatch.setattr("sys.argv", ["clip_network", "--data", "clip.mp4", "--sizes", "96x64"])
    clip_network.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == len(asked) == 4
    assert rows[0] == "| 96x64 | first stage | float32 | 5 MiB | 0.25 s | 1 ms |"
    assert asked[-1] == ["96x64", "both stages", "bfloat16"]
