from __future__ import annotations

import json
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from video_deblur.training.report.page import read_log, write_report
from video_deblur.training.report.pictures import picture_grid, write_picture


def write_lines(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def make_run(folder, pictures=(100, 200)):
    write_lines(
        folder / "joint.jsonl",
        [
            {"step": 100, "elapsed_s": 60.0, "loss": 2.0, "validation_psnr": 27.5},
            {
                **{"step": 200, "elapsed_s": 150.0, "loss": 1.0},
                **{"validation_psnr": 28.25, "validation_gain_db": 0.75},
            },
            {"step": 250, "elapsed_s": 180.0, "loss": 1.5, "validation_psnr": 28.0},
        ],
    )
    write_lines(folder / "autoencoder.jsonl", [{"step": 40, "elapsed_s": 3600.0, "loss": 0.1}])
    config = {"preset": "tiny & <co>", "autoencoder": {"steps": 40}, "joint": {"steps": 1000}}
    (folder / "config.json").write_text(json.dumps(config))
    frame = np.random.default_rng(0).random((96, 96, 3))
    for step in pictures:
        grid = picture_grid([frame], [frame], [frame])
        write_picture(folder / "pictures" / f"joint_{step:06d}.png", grid)
    return folder


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of the page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def images(self):
        return [attrs["src"] for tag, attrs in self.tags if tag == "img"]


@pytest.fixture
def page(tmp_path):
    return Page(write_report(make_run(tmp_path)))


def test_the_page_says_how_far_the_run_is(page):
    for shown in (
        *("tiny & <co>", "250 of 1,000", "25%", "1 h 3 min", "28.25 dB"),
        "+0.75 dB over blurry; joint, update 200",
        "all stages; about 9 min left in this stage",
    ):
        assert shown in page.text
    stages = [page.text[i + 1] for i, text in enumerate(page.text) if text.strip() == "joint"]
    assert "250 of 1,000 updates, 3 min" in stages
    assert "40 of 40 updates, 60 min" not in page.text
    assert "40 of 40 updates, 1 h 0 min" in page.text
    assert page.text.count("Loss") == 2


def test_the_page_shows_both_losses_of_an_adversarial_stage_and_warns(tmp_path):
    row = {"adversarial_loss": 3.0, "discriminator_loss": 0.1, "gain_db": 0.5, "loss": 1.0}
    told = {"accuracy_sharp": 0.98, "accuracy_restored": 0.99, "opponent_gradient_norm": 0.2}
    rows = [{"step": step, **row, **told} for step in range(20, 220, 20)]
    write_lines(tmp_path / "adversarial.jsonl", rows)
    page = Page(write_report(tmp_path))
    for shown in (
        "Losses of the two networks",
        "of the restored frames ",
        "of the discriminator ",
        "Frames that the discriminator tells right, %",
    ):
        assert shown in page.text
    (warning,) = (text for text in page.text if text.startswith("The discriminator wins"))
    assert "98%" in warning


def test_the_latest_picture_is_large_and_the_earlier_ones_small(page):
    latest, *earlier = page.images()
    assert latest.startswith("data:image/png;base64,")
    assert [image[:15] for image in earlier] == ["data:image/jpeg"]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ["pictures/joint_000200.png", "pictures/joint_000100.png"]
    assert "Validation clips at update 200" in page.text


def test_the_page_asks_for_nothing_outside_itself(page, tmp_path):
    asking = {"src", "srcset", "data", "poster", "action", "background"}
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name, value in attrs.items():
            if name in asking:
                assert value.startswith("data:"), (tag, name)
            if name == "xlink:href":
                assert value.startswith("#")
    style = (tmp_path / "report.html").read_text()
    assert "@import" not in style
    assert "url(" not in style.replace("url(#", "")


def test_many_pictures_are_shown_in_part(tmp_path):
    page = Page(write_report(make_run(tmp_path, pictures=range(10, 310, 10))))
    assert len(page.images()) == 13
    assert "Earlier, 12 of 29" in page.text
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links[:2] == ["pictures/joint_000300.png", "pictures/joint_000290.png"]
    steps = [int(link[-10:-4]) for link in links]
    assert steps == sorted(steps, reverse=True)
    assert max(-np.diff(steps)) <= 30


def test_a_broken_picture_is_named_and_the_rest_is_shown(tmp_path):
    make_run(tmp_path)
    (tmp_path / "pictures" / "joint_000100.png").write_bytes(b"\x89PNG cut")
    (tmp_path / "pictures" / "joint_000300.png").write_bytes(b"")
    page = Page(write_report(tmp_path))
    assert [image[:15] for image in page.images()] == ["data:image/jpeg"]
    for name in ("joint_000300.png", "joint_000100.png"):
        assert f"{name} cannot be read as an image." in page.text
    assert "joint_000200.png" in str(page.tags)


def test_a_run_without_config_pictures_or_validation_has_a_page(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    write_lines(folder / "joint.jsonl", [{"step": 20, "elapsed_s": 9.6, "loss": 2.0}])
    page = Page(write_report(folder))
    assert {"my run", "20", "10 s", "The folder holds no config.json."} <= set(page.text)
    assert page.images() == []


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    make_run(tmp_path)
    (tmp_path / "report.html").write_text("old")

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_what_a_resumed_run_did_again_replaces_what_it_did_before(tmp_path):
    path = tmp_path / "joint.jsonl"
    before = [{"step": step, "loss": 1.0} for step in (20, 40, 60, 80)]
    again = [{"step": step, "loss": 2.0} for step in (50, 60)]
    write_lines(path, [*before, *again])
    assert [(r["step"], r["loss"]) for r in read_log(path)] == [
        *((20, 1.0), (40, 1.0)),
        *((50, 2.0), (60, 2.0)),
    ]


def test_lines_cut_off_by_a_kill_are_left_out(tmp_path):
    path = tmp_path / "joint.jsonl"
    write_lines(path, [{"step": 20, "loss": 1.0}], '{"step": 40, "lo')
    assert [row["step"] for row in read_log(path)] == [20]
    with path.open("a") as file:
        file.write('{"step": 40, "loss": 3.0}\n{"step": 60, "loss": 4.0}\n')
    assert [row["step"] for row in read_log(path)] == [20, 60]


def test_lines_about_one_update_are_merged_and_only_numbers_are_kept(tmp_path):
    path = tmp_path / "joint.jsonl"
    rows = [
        {"step": 20, "loss": 1.0, "note": "warm", "flag": True},
        {"step": 20, "validation_psnr": 28},
    ]
    write_lines(path, [*rows, [1, 2], {"loss": 1.0}])
    assert read_log(path) == [{"step": 20.0, "loss": 1.0, "validation_psnr": 28.0}]


@pytest.mark.parametrize(
    ("clock", "shown"),
    [
        ([60.0, 120.0, 130.0], "2 min"),
        ([60.0, 120.0, 240.0], "4 min"),
        ([60, 120, 60], "3 min"),
    ],
)
def test_time_counts_what_was_done_before_a_resume(tmp_path, clock, shown):
    """The clock of a resumed run may go on or start anew."""
    rows = [{"step": i + 1, "elapsed_s": s, "loss": 1.0} for i, s in enumerate(clock)]
    write_lines(tmp_path / "joint.jsonl", rows)
    assert shown in Page(write_report(tmp_path)).text


def test_folders_that_are_no_run_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no log <stage>\.jsonl; name the folder"):
        write_report(tmp_path)
    (tmp_path / "joint.jsonl").write_text('{"step": 2')
    with pytest.raises(ValueError, match="hold no complete line yet"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is not JSON"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config\.json: must hold a JSON object"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
