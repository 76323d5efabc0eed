"""Reports over data sets made here, with averages computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_deblur.evaluation.metrics import build_metrics
from video_deblur.evaluation.protocols import PROTOCOLS, Protocol
from video_deblur.evaluation.report import (
    evaluate_sequences,
    read_predictions,
    with_sharp_input,
)
from video_deblur.images.datasets import load_dataset

LEVEL = 100


def write_flat(path: Path, value: int, size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A sequence of one frame 10 levels off, and one of three frames 5 levels off."""
    for name, count, offset in (("short", 1, 10), ("long", 3, 5)):
        for index in range(count):
            write_flat(tmp_path / name / "sharp" / f"{index}.png", LEVEL)
            write_flat(tmp_path / name / "blur" / f"{index}.png", LEVEL + offset)
    return tmp_path


def level_psnr(offset: float) -> float:
    return 20 * np.log10(255 / offset)


def test_means_over_frames_and_over_sequences_differ(dataset):
    sequences = load_dataset(f"pairs:{dataset}")
    report = evaluate_sequences(sequences, lambda _, blurry: blurry - 2)
    expected = {"short": level_psnr(8), "long": level_psnr(3)}
    for name, value in expected.items():
        assert report["sequences"][name]["mean"]["psnr"] == pytest.approx(value)
    frames = (expected["short"] + 3 * expected["long"]) / 4
    assert report["mean"]["psnr"] == pytest.approx(frames)
    both = (expected["short"] + expected["long"]) / 2
    assert report["mean_of_sequences"]["psnr"] == pytest.approx(both)
    assert report["mean_of_sequences"]["input_psnr"] == pytest.approx(
        (level_psnr(10) + level_psnr(5)) / 2
    )
    gain = report["mean"]["psnr_gain"]
    assert gain == pytest.approx(report["mean"]["psnr"] - report["mean"]["input_psnr"])
    assert report["mean"]["psnr_worst"] == pytest.approx(level_psnr(8))
    assert "mean_of_windows" not in report


def test_the_report_says_what_was_applied(dataset):
    report = evaluate_sequences(load_dataset(f"pairs:{dataset}"), lambda _, blurry: blurry)
    assert report["protocol"]["name"] == "rgb8"
    assert report["protocol"]["rounded"] is True
    assert report["metrics"] == ["psnr", "ssim"]
    assert report["versions"]["numpy"] == np.__version__
    assert report["sequences"]["long"]["frames"][2]["frame"] == "2"


def shifted(offsets: list[float]):
    """A method whose frame i is `offsets[i]` levels off, as float."""

    def restore(_, blurry: np.ndarray) -> np.ndarray:
        values = (LEVEL + np.array(offsets, np.float32)) / 255
        return np.broadcast_to(values[:, None, None, None], blurry.shape)

    return restore


@pytest.fixture
def clip(tmp_path) -> list:
    """One sequence of seven frames of 48x48."""
    for index in range(7):
        for kind in ("sharp", "blur"):
            write_flat(tmp_path / "clip" / kind / f"{index}.png", LEVEL, 48)
    return load_dataset(f"pairs:{tmp_path}")


OFFSETS = [50, 40, 1.4, 2.4, 4.4, 60, 70]
"""Edge frames far off; rounding makes the others 1, 2 and 4."""


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("rgb8", [50, 40, 1, 2, 4, 60, 70]),
        ("vrt", [50, 40, 1, 2, 4, 60, 70]),
        ("shift_net", [1.4, 2.4, 4.4]),
        ("cdvd_tsp", [1, 2, 4]),
        ("pvdnet_unaligned", [40, 1, 2, 4, 60, 70]),
        ("bsstnet", [1, 2, 4]),
    ],
)
def test_protocols_average_what_counts(clip, name, counted):
    protocol = PROTOCOLS[name]
    report = evaluate_sequences(clip, shifted(OFFSETS), protocol=protocol)
    expected = np.mean([level_psnr(offset) for offset in counted])
    assert report["mean"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert report["protocol"]["name"] == name


def test_short_windows_weigh_as_much_as_long_ones(clip):
    protocol = Protocol(
        name="windows",
        source="this test",
        skip_first=1,
        skip_last=1,
        window=6,
        overlap=2,
        average="windows",
    )
    assert [(g.start, g.stop) for g in protocol.groups(7)] == [(1, 5), (5, 6)]
    report = evaluate_sequences(clip, shifted([9, 1, 1, 1, 1, 10, 9]), protocol=protocol)
    first, second = level_psnr(1), level_psnr(10)
    windows = report["sequences"]["clip"]["windows"]
    assert [row["psnr"] for row in windows] == pytest.approx([first, second])
    assert report["mean_of_windows"]["psnr"] == pytest.approx((first + second) / 2)
    assert report["mean"]["psnr"] == pytest.approx((4 * first + second) / 5)
    assert report["mean_of_windows"]["psnr_worst"] == pytest.approx(second)


def test_the_border_does_not_count(clip):
    def restore(_, blurry):
        result = blurry.copy()
        result[:, 4:-4, 4:-4] += 1
        result[:, :4] = 0
        return result

    report = evaluate_sequences(clip, restore, protocol=PROTOCOLS["cdvd_tsp"])
    assert report["mean"]["psnr"] == pytest.approx(level_psnr(1))


def test_frames_without_a_value_are_left_out_of_the_means(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        noise = rng.integers(0, 256, (96, 192, 3)).astype(np.uint8)
        for kind in ("sharp", "blur"):
            path = tmp_path / "clip" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), noise if index else 0 * noise)
    metrics = build_metrics(["niqe", "warping"], PROTOCOLS["rgb8"])
    report = evaluate_sequences(
        load_dataset(f"pairs:{tmp_path}"), lambda _, blurry: blurry, metrics=metrics
    )
    black, *others = report["sequences"]["clip"]["frames"]
    assert set(black) == {"frame"}
    assert all("niqe" in row for row in others)
    assert report["mean"]["niqe"] == pytest.approx(np.mean([r["niqe"] for r in others]))
    assert report["mean"]["warping_ratio"] == pytest.approx(1)


def test_sharp_input_measures_the_harm_done(dataset):
    sequences = with_sharp_input(load_dataset(f"pairs:{dataset}"))
    frames_off = iter([1, 4, 2, 8])

    def restore(_, frames):
        assert (frames == LEVEL).all()
        return np.stack([frame + next(frames_off) for frame in frames]).astype(np.uint8)

    report = evaluate_sequences(sequences, restore)
    # In the order of the names: "long" with three frames, then "short".
    long, short = (report["sequences"][name]["mean"] for name in ("long", "short"))
    assert long["psnr"] == pytest.approx(np.mean([level_psnr(x) for x in (1, 4, 2)]))
    assert long["psnr_worst"] == pytest.approx(level_psnr(4))
    assert short["psnr_worst"] == short["psnr"] == pytest.approx(level_psnr(8))
    assert report["mean"]["psnr_worst"] == pytest.approx(level_psnr(8))
    assert long["input_psnr"] == math.inf
    assert "psnr_gain" not in long


def test_finished_sequences_are_handed_over_as_they_are(clip):
    seen = []
    evaluate_sequences(
        clip, shifted(OFFSETS), seen.append, protocol=PROTOCOLS["pvdnet_unaligned"]
    )
    (measured,) = seen
    assert measured.name == "clip"
    assert measured.frame_names == tuple("0123456")
    assert measured.restored.shape == measured.sharp.shape == (7, 48, 48, 3)
    assert len(measured.figures["frames"]) == 6


def test_a_result_of_another_size_is_named(dataset):
    sequences = load_dataset(f"pairs:{dataset}")
    with pytest.raises(ValueError, match="long: result is"):
        evaluate_sequences(sequences, lambda _, blurry: blurry[:, :8])


def test_a_sequence_that_the_protocol_cannot_measure_is_named(dataset):
    sequences = load_dataset(f"pairs:{dataset}")
    with pytest.raises(ValueError, match="long: protocol cdvd_tsp leaves out 4 frames"):
        evaluate_sequences(sequences, lambda _, blurry: blurry, protocol=PROTOCOLS["cdvd_tsp"])


def test_frames_of_different_sizes_are_named(dataset):
    write_flat(dataset / "long" / "blur" / "1.png", LEVEL, 20)
    with pytest.raises(ValueError, match=r"long: 1\.png is \[20, 20, 3\], but 0\.png"):
        evaluate_sequences(load_dataset(f"pairs:{dataset}"), lambda _, blurry: blurry)


def test_a_missing_result_is_named(dataset, tmp_path):
    (sequence, _) = load_dataset(f"pairs:{dataset}")
    with pytest.raises(FileNotFoundError, match="no result for frame 0"):
        read_predictions(tmp_path / "results", sequence)


def test_results_are_found_by_the_rules_of_data_sets(dataset, tmp_path):
    sequence = next(s for s in load_dataset(f"pairs:{dataset}") if s.name == "short")
    results = tmp_path / "results" / "short"
    write_flat(results / "0.PNG", LEVEL)
    write_flat(results / "._0.png", 0)
    assert (read_predictions(results.parent, sequence) == LEVEL).all()
    write_flat(results / "0.bmp", LEVEL)
    with pytest.raises(ValueError, match=r"0\.PNG and 0\.bmp are one frame twice"):
        read_predictions(results.parent, sequence)


def test_frames_of_16_bits_are_rounded_or_counted_as_they_are(tmp_path):
    for name, value in (("sharp", 100 * 257 + 200), ("blur", 100 * 257)):
        path = tmp_path / "clip" / name / "0.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((48, 48, 3), value, np.uint16))
    seen = []

    def restore(_, blurry):
        seen.append(blurry)
        return np.full(blurry.shape, 101 / 255, np.float32)

    sequences = load_dataset(f"pairs:{tmp_path}")
    # 100 and 200/257 rounds to 101, which is also what the method gives.
    report = evaluate_sequences(sequences, restore)
    assert report["mean"]["psnr"] == math.inf
    assert report["mean"]["input_psnr"] == pytest.approx(level_psnr(1))
    assert seen[0].dtype == np.uint8
    assert (seen[0] == 100).all()
    exact = Protocol(name="exact", source="this test", rounded=False)
    report = evaluate_sequences(sequences, restore, protocol=exact)
    assert report["mean"]["psnr"] == pytest.approx(level_psnr(57 / 257), abs=1e-3)
    assert report["mean"]["input_psnr"] == pytest.approx(level_psnr(200 / 257), abs=1e-3)
    results = tmp_path / "out" / "clip"
    results.mkdir(parents=True)
    cv2.imwrite(str(results / "0.png"), np.full((48, 48, 3), 101 * 257 - 100, np.uint16))
    report = evaluate_sequences(
        sequences, lambda sequence, _: read_predictions(results.parent, sequence)
    )
    assert report["mean"]["psnr"] == math.inf


def test_a_gain_is_never_that_of_other_means(dataset):
    """A sequence whose input is exact has no gain, and so the mean with it has none."""
    for index in range(3):
        write_flat(dataset / "long" / "blur" / f"{index}.png", LEVEL)
    report = evaluate_sequences(load_dataset(f"pairs:{dataset}"), lambda _, blurry: blurry + 2)
    assert "psnr_gain" in report["sequences"]["short"]["mean"]
    assert report["mean_of_sequences"]["input_psnr"] == math.inf
    assert "psnr_gain" not in report["mean_of_sequences"]
