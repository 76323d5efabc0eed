from __future__ import annotations

import cv2
import numpy as np
import pytest
from video_deblur.benchmarks.steps import FIGURES, WAYS, measure, middle, write_chart
from video_deblur.images.datasets import load_dataset
from video_deblur.restoration.load import load_deblurrer


@pytest.fixture
def sequences(tmp_path, make_frames):
    sharp = (make_frames(5, 96, 192) * 255).round().byte().numpy()
    for kind in ("blur", "sharp"):
        folder = tmp_path / "pairs" / "clip" / kind
        folder.mkdir(parents=True)
        for index, frame in enumerate(sharp):
            pixels = cv2.blur(frame, (5, 1)) if kind == "blur" else frame
            cv2.imwrite(str(folder / f"{index}.png"), pixels)
    return load_dataset(f"pairs:{tmp_path / 'pairs'}", "test")


def test_clips_are_cut_to_their_middle(sequences):
    (cut,) = middle(sequences, 3)
    assert cut.sharp == sequences[0].sharp[1:4]
    assert cut.blurry == sequences[0].blurry[1:4]
    assert middle(sequences, 9) == sequences


def test_every_number_of_steps_is_measured_either_way(sequences, tmp_path):
    engine = load_deblurrer("divd-tiny")
    curves = measure(engine, middle(sequences, 2), (1, 3))
    assert {way: list(curve) for way, curve in curves.items()} == {way: [1, 3] for way in WAYS}
    every = [curve[count] for curve in curves.values() for count in (1, 3)]
    assert len({each["psnr"] for each in every}) == len(every)
    assert len({each["input_psnr"] for each in every}) == 1
    assert all(np.isfinite(each[name]) for each in every for name in FIGURES)
    alone = curves["network alone"]
    assert alone[3]["seconds"] > alone[1]["seconds"] > 0
    write_chart(tmp_path / "chart.png", curves)
    assert cv2.imread(str(tmp_path / "chart.png")).shape[0] > 100
