from __future__ import annotations

import cv2
import pytest
from video_deblur.benchmarks.second_stage import measure


def test_it_scores_what_a_second_stage_starts_from(tmp_path, make_frames):
    sharp = (make_frames(3, 64, 64) * 255).round().byte().numpy()
    for kind in ("blur", "sharp"):
        folder = tmp_path / "clip" / kind
        folder.mkdir(parents=True)
        for index, frame in enumerate(sharp):
            pixels = cv2.blur(frame, (5, 1)) if kind == "blur" else frame
            cv2.imwrite(str(folder / f"{index}.png"), pixels)
    scores = measure(f"pairs:{tmp_path}", num_frames=3, share=0.2)
    # What is left of the error is known: 0.8 of it.
    assert scores["first stage"] - scores["blurry"] == pytest.approx(1.94, abs=0.05)
    assert len(set(scores.values())) == len(scores) == 6
