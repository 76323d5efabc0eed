from __future__ import annotations

import dataclasses

import pytest
from video_deblur.benchmarks.adaptation import measure
from video_deblur.images.datasets import load_dataset
from video_deblur.images.folders import FrameFolderWriter

from ..restoration.adaptation.test_material import one_sharp_frame
from ..restoration.adaptation.test_tuning import RESTORATION, SHORT, spoilt_engine


def test_what_is_dropped_counts_as_it_was_and_is_judged_by_the_truth(tmp_path):
    (tmp_path / "clip").mkdir()
    for name, clip in zip(("blur", "sharp"), one_sharp_frame(), strict=True):
        with FrameFolderWriter(tmp_path / "clip" / name) as writer:
            for index, pixels in enumerate((clip * 255).round().byte().numpy()):
                writer.write(pixels, f"{index}.png")
    (sequence,) = load_dataset(f"pairs:{tmp_path}")
    engine = spoilt_engine()
    settings = dataclasses.replace(SHORT, updates=4, least_gain_db=0.0)
    used = measure(engine, sequence, RESTORATION, settings)
    assert used["used"]
    assert used["adapted_alone_db"] == used["tuned_alone_db"] > used["alone_db"] + 0.1
    strict = dataclasses.replace(settings, least_gain_db=100.0)
    dropped = measure(engine, sequence, RESTORATION, strict)
    assert not dropped["used"]
    assert dropped["adapted_default_db"] == dropped["default_db"]
    assert dropped["tuned_alone_db"] == pytest.approx(used["tuned_alone_db"], abs=1e-6)
