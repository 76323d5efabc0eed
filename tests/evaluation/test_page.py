"""The HTML page: what it shows, and that it needs no other file."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from video_deblur.evaluation.metrics import build_metrics
from video_deblur.evaluation.page import Page
from video_deblur.evaluation.protocols import PROTOCOLS
from video_deblur.evaluation.report import evaluate_sequences, with_sharp_input
from video_deblur.evaluation.table import column_groups
from video_deblur.images.datasets import load_dataset

VOID = {"meta", "img"}


class Structure(HTMLParser):
    """Checks that elements close in order, and keeps what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("river", "<b>street"):
        for index in range(2):
            sharp = rng.integers(20, 200, (40, 60, 3)).astype(np.uint8)
            for kind, pixels in (("sharp", sharp), ("blur", sharp + 30)):
                path = tmp_path / "data" / name / kind / f"shot{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    return f"pairs:{tmp_path / 'data'}"


def written(dataset, path, *, sharp_input: bool = False) -> str:
    metrics = build_metrics(["psnr", "ssim"], PROTOCOLS["rgb8"])
    sequences = load_dataset(dataset)
    if sharp_input:
        sequences = with_sharp_input(sequences)
    page = Page(path)
    results = evaluate_sequences(
        sequences, lambda _, blurry: (blurry - 10.0) / 255, page.add, metrics=metrics
    )
    report = {
        "dataset": dataset,
        "sharp_input": sharp_input,
        "method": "darkening",
        "settings": {"levels": 10},
        **results,
    }
    page.write(report, column_groups(metrics, sharp_input=sharp_input))
    return path.read_text(encoding="utf-8")


def test_the_page_shows_figures_crops_and_maps(dataset, tmp_path):
    text = written(dataset, tmp_path / "page.html")
    Structure(text)
    before, after = (20 * np.log10(255 / offset) for offset in (30, 20))
    assert f'<td>river</td><td class="first">{before:.2f}</td><td>{after:.2f}</td>' in text
    assert f"{before:.2f} dB before, {after:.2f} dB after" in text
    assert "PSNR, dB \N{UPWARDS ARROW}" in text
    assert "mean over sequences" in text
    assert text.count("Most to win") == 2
    assert text.count("Won least") == 2
    assert "Got worse most" not in text
    assert "frame shot" in text
    # Five pictures for each of two crops of two sequences, and the scale.
    assert text.count("<img ") == 21
    assert "&quot;levels&quot;: 10" in text


def test_the_page_is_self_contained(dataset, tmp_path):
    text = written(dataset, tmp_path / "page.html")
    links = [v for k, v in Structure(text).attributes if k in {"src", "href", "srcset"}]
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "url(" not in text
    assert "http" not in text


def test_crops_are_the_very_pixels(dataset, tmp_path):
    text = written(dataset, tmp_path / "page.html")
    data = re.findall(r'base64,([^"]+)" width="40" height="40" alt="sharp"', text)
    assert len(data) == 4
    crop = cv2.imdecode(np.frombuffer(base64.b64decode(data[-1]), np.uint8), 1)
    frames = [cv2.imread(str(path)) for path in load_dataset(dataset)[-1].sharp]
    found = [
        (frame[:, left : left + 40] == crop).all() for frame in frames for left in range(21)
    ]
    assert sum(found) == 1


def test_names_cannot_break_the_page(dataset, tmp_path):
    text = written(dataset, tmp_path / "page.html")
    assert "<h2>&lt;b&gt;street</h2>" in text
    assert "<b>street" not in text


def test_sharp_input_has_nothing_to_win(dataset, tmp_path):
    text = written(dataset, tmp_path / "page.html", sharp_input=True)
    assert "sharp frames as input" in text
    assert "Most to win" not in text
    assert text.count("Got worse most") == 2
    assert "no error before" in text
    assert "worst" in text


def test_a_missing_folder_is_named_before_the_work(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/page\.html: there is no such folder"):
        Page(tmp_path / "nowhere" / "page.html")
