from __future__ import annotations

import cv2
import numpy as np
import pytest
from video_deblur.benchmarks import comparison_picture
from video_deblur.images.datasets import load_dataset


@pytest.fixture
def dataset(tmp_path):
    """Frames that are alike but for one square, blurry in the last frame alone."""
    for index in range(2):
        sharp = np.full((120, 200, 3), 128, np.uint8)
        sharp[12:108, 100:196] = np.random.default_rng(0).integers(0, 256, (96, 96, 3))
        blurry = sharp.copy()
        if index:
            blurry[12:108, 100:196] = 128
        for kind, pixels in (("sharp", sharp), ("blur", blurry)):
            path = tmp_path / "pairs" / "a" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
        (tmp_path / "results" / "a").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "results" / "a" / f"{index}.png"), 255 * (sharp > 99))
    return tmp_path


def test_a_row_shows_the_crop_that_is_most_blurred(dataset, tmp_path, monkeypatch):
    out = tmp_path / "picture.png"
    arguments = ["--dataset", f"pairs:{dataset / 'pairs'}", "--out", str(out)]
    arguments += ["--pred", f"ours={dataset / 'results'}"]
    monkeypatch.setattr("sys.argv", ["comparison_picture", *arguments])
    comparison_picture.main()
    picture = cv2.imread(str(out))
    assert picture.shape == (26 + 256, 3 * 256, 3)
    blurry, ours, sharp = (picture[26:278, x : x + 252] for x in (0, 256, 512))
    assert (blurry == 128).all()
    assert set(np.unique(ours)) == {0, 255}
    assert len(np.unique(sharp)) > 200


def test_the_median_frame_is_neither_the_sharpest_nor_the_most_blurred(dataset):
    # Three frames: sharp, blurry, and one between them.
    pairs, results = dataset / "pairs" / "a", dataset / "results" / "a"
    sharp = cv2.imread(str(pairs / "sharp" / "0.png"))
    for folder, pixels in (
        (pairs / "sharp", sharp),
        (pairs / "blur", sharp // 2 + 64),
        (results, np.zeros_like(sharp)),
    ):
        cv2.imwrite(str(folder / "2.png"), pixels)
    sequences = load_dataset(f"pairs:{dataset / 'pairs'}", "test")
    picture = comparison_picture.comparison(
        sequences, {"ours": dataset / "results"}, median_frame=True
    )
    assert not picture[26:278, 256:508].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--sequences", "b"], "no sequences b; there are a"), (["--pred", "x"], "TITLE=FOLDER")],
)
def test_what_does_not_fit_is_named(dataset, monkeypatch, capsys, arguments, message):
    start = ["comparison_picture", "--dataset", f"pairs:{dataset / 'pairs'}", "--out", "x.png"]
    monkeypatch.setattr("sys.argv", [*start, "--pred", "ours=results", *arguments])
    with pytest.raises(SystemExit):
        comparison_picture.main()
    assert message in capsys.readouterr().err


def test_a_missing_result_is_named(dataset):
    sequences = load_dataset(f"pairs:{dataset / 'pairs'}", "test")
    with pytest.raises(FileNotFoundError, match="holds no result for frame 0"):
        comparison_picture.comparison(sequences, {"ours": dataset / "nothing"})
