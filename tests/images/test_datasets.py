"""Paired folders: as users lay them out, and as GoPro and DVD are published."""

from __future__ import annotations

import pytest
from video_deblur.images import datasets
from video_deblur.images.datasets import PUBLISHED, load_dataset

GOPRO = {"train": {"GOPR01": 3, "GOPR02": 2}, "test": {"GOPR03": 2}}
DVD = {"train": {"IMG_1": 2}, "test": {"720p_2": 3}}
FIRST = {"GOPR01": 47, "GOPR02": 2481, "GOPR03": 1, "IMG_1": 30, "720p_2": 0}
"""Published sequences do not start at 0."""


@pytest.fixture(autouse=True)
def _small_data_sets(monkeypatch):
    published = {"gopro": GOPRO, "gopro_gamma": GOPRO, "dvd": DVD}
    monkeypatch.setattr(datasets, "PUBLISHED", published)


def touch(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def numbers(sequence, count, digits, suffix):
    return [f"{FIRST[sequence] + index:0{digits}}{suffix}" for index in range(count)]


@pytest.fixture
def gopro(tmp_path):
    for split, sequences in GOPRO.items():
        for sequence, count in sequences.items():
            for kind in ("blur", "blur_gamma", "sharp"):
                touch(tmp_path / split / sequence / kind, numbers(sequence, count, 6, ".png"))
    return tmp_path


@pytest.fixture
def regrouped(tmp_path):
    for split, sequences in GOPRO.items():
        for sequence, count in sequences.items():
            for kind in ("blur", "GT"):
                touch(tmp_path / split / kind / sequence, [f"{i:05}.png" for i in range(count)])
    return tmp_path


@pytest.fixture
def dvd(tmp_path):
    for sequences in DVD.values():
        for sequence, count in sequences.items():
            folder = tmp_path / "quantitative_datasets" / sequence
            for kind in ("input", "GT"):
                touch(folder / kind, numbers(sequence, count, 5, ".jpg"))
    touch(tmp_path / "qualitative_datasets" / "alley" / "input", ["00000.jpg"])
    return tmp_path


def described(sequences):
    return [(s.name, [p.stem for p in s.blurry], s.blurry[0].parent.name) for s in sequences]


def test_the_published_splits_have_the_published_counts(monkeypatch):
    monkeypatch.undo()
    published = datasets.PUBLISHED
    counted = {
        kind: [(len(parts[s]), sum(parts[s].values())) for s in ("train", "test")]
        for kind, parts in published.items()
    }
    assert counted["gopro"] == counted["gopro_gamma"] == [(22, 2103), (11, 1111)]
    assert counted["dvd"] == [(61, 5708), (10, 1000)]
    for parts in published.values():
        assert not set(parts["train"]) & set(parts["test"])
    assert PUBLISHED["dvd"]["train"]["IMG_0009"] == 41
    assert PUBLISHED["gopro"]["test"]["GOPR0410_11_00"] == 134


@pytest.mark.parametrize(("kind", "folder"), [("gopro", "blur"), ("gopro_gamma", "blur_gamma")])
def test_gopro_is_read_by_name_and_variant(gopro, kind, folder):
    assert described(load_dataset(f"{kind}:{gopro}", "train")) == [
        ("GOPR01", ["000047", "000048", "000049"], folder),
        ("GOPR02", ["002481", "002482"], folder),
    ]
    assert [s.name for s in load_dataset(f"{kind}:{gopro}", "test")] == ["GOPR03"]
    both = load_dataset(f"{kind}:{gopro}")
    assert [s.name for s in both] == ["GOPR01", "GOPR02", "GOPR03"]
    for sequence in both:
        assert [p.name for p in sequence.blurry] == [p.name for p in sequence.sharp]
        assert {p.parent.name for p in sequence.sharp} == {"sharp"}


def test_regrouped_gopro_is_read_too(regrouped):
    sequences = load_dataset(f"gopro:{regrouped}", "train")
    assert described(sequences)[0] == ("GOPR01", ["00000", "00001", "00002"], "GOPR01")
    assert sequences[0].sharp[0] == regrouped / "train" / "GT" / "GOPR01" / "00000.png"
    (regrouped / "train" / "GT" / "GOPR02" / "00001.png").unlink()
    message = r"train: frame 00001 is in only one of blur/GOPR02/ and GT/GOPR02/ \(1 such"
    with pytest.raises(ValueError, match=message):
        load_dataset(f"gopro:{regrouped}", "train")
    (regrouped / "test" / "GT").rename(regrouped / "test" / "target")
    with pytest.raises(ValueError, match="test: no folder sharp, GT or gt beside blur"):
        load_dataset(f"gopro:{regrouped}", "test")


def test_the_gamma_variant_is_not_replaced_by_the_other(regrouped):
    with pytest.raises(ValueError, match=r"GOPR01.blur_gamma: sequence GOPR01 is missing"):
        load_dataset(f"gopro_gamma:{regrouped}", "train")


def test_dvd_is_split_by_its_list(dvd):
    (train,) = load_dataset(f"dvd:{dvd}", "train")
    assert (train.name, [p.name for p in train.blurry]) == ("IMG_1", ["00030.jpg", "00031.jpg"])
    (test,) = load_dataset(f"dvd:{dvd}", "test")
    assert test.name == "720p_2"
    assert test.sharp[2] == dvd / "quantitative_datasets" / "720p_2" / "GT" / "00002.jpg"


def test_half_a_download_is_refused_by_name(gopro):
    for kind in ("blur", "sharp"):
        (gopro / "train" / "GOPR01" / kind / "000048.png").unlink()
    message = r"blur: holds 2 frames of the 3 of sequence GOPR01\. .* must be complete"
    with pytest.raises(ValueError, match=message):
        load_dataset(f"gopro:{gopro}", "train")
    assert len(load_dataset(f"gopro_gamma:{gopro}", "test")) == 1
    (gopro / "test" / "GOPR03").rename(gopro / "test" / "elsewhere")
    with pytest.raises(ValueError, match=r"sequence GOPR03 is missing here\. .* pairs:PATH"):
        load_dataset(f"gopro:{gopro}", "test")


def test_a_part_of_what_is_published_is_read_as_pairs(gopro, dvd):
    (gopro / "train" / "GOPR02").rename(gopro / "elsewhere")
    (sequence,) = load_dataset(f"pairs:{gopro / 'train'}", "test")
    assert sequence.name == "GOPR01"
    sequences = load_dataset(f"pairs:{dvd / 'quantitative_datasets'}")
    assert [s.name for s in sequences] == ["720p_2", "IMG_1"]
    assert sequences[1].sharp[0].parent.name == "GT"


def test_frames_are_in_natural_order_whatever_their_suffix(tmp_path):
    for kind, suffix in (("blur", ".jpg"), ("sharp", ".png")):
        names = [f"shot{index}{suffix}" for index in (10, 9, 1)]
        touch(tmp_path / "street" / kind, [*names, "notes.txt", f"._shot1{suffix}"])
    (sequence,) = load_dataset(f"pairs:{tmp_path}")
    assert [path.name for path in sequence.blurry] == ["shot1.jpg", "shot9.jpg", "shot10.jpg"]
    assert [path.name for path in sequence.sharp] == ["shot1.png", "shot9.png", "shot10.png"]


def test_odd_frames_are_named(tmp_path):
    touch(tmp_path / "street" / "blur", ["0.png", "1.png"])
    touch(tmp_path / "street" / "sharp", ["1.png"])
    message = r"street: frame 0 is in only one of blur/ and sharp/ .* add what is missing"
    with pytest.raises(ValueError, match=message):
        load_dataset(f"pairs:{tmp_path}")
    touch(tmp_path / "street" / "sharp", ["0.png", "0.jpg", "1.png"])
    with pytest.raises(ValueError, match=r"sharp: 0\.jpg and 0\.png are one frame twice"):
        load_dataset(f"pairs:{tmp_path}")


@pytest.mark.parametrize("missing", ["blur", "sharp"])
def test_a_sequence_without_its_other_half_is_not_left_out(tmp_path, missing):
    for sequence in ("street", "tower"):
        for kind in ("blur", "sharp"):
            touch(tmp_path / sequence / kind, ["0.png"])
    (tmp_path / "tower" / missing / "0.png").unlink()
    (tmp_path / "tower" / missing).rmdir()
    with pytest.raises(ValueError, match=rf"tower.{missing}: is missing; add it, or move"):
        load_dataset(f"pairs:{tmp_path}")


@pytest.mark.parametrize(
    ("named", "suggested"),
    [
        ("gopro:GOPRO/train", "gopro:GOPRO"),
        ("gopro:GOPRO/train/GOPR01", "gopro:GOPRO"),
        ("gopro_gamma:.", "gopro_gamma:GOPRO"),
        ("gopro:DVD", "dvd:DVD"),
        ("dvd:DVD/quantitative_datasets", "dvd:DVD"),
        ("dvd:.", "dvd:DVD"),
        ("pairs:GOPRO", "gopro:GOPRO"),
        ("pairs:GOPRO/train/GOPR01", "pairs:GOPRO/train"),
        ("pairs:DVD", "dvd:DVD"),
    ],
)
def test_a_folder_too_deep_or_not_deep_enough_is_named(
    tmp_path, monkeypatch, gopro, dvd, named, suggested
):
    (tmp_path / "GOPRO").mkdir()
    for split in ("train", "test"):
        (tmp_path / split).rename(tmp_path / "GOPRO" / split)
    (tmp_path / "DVD").mkdir()
    (tmp_path / "quantitative_datasets").rename(tmp_path / "DVD" / "quantitative_datasets")
    monkeypatch.chdir(tmp_path)
    kind, _, path = suggested.partition(":")
    with pytest.raises(ValueError, match="holds no sequence of") as error:
        load_dataset(named, "train")
    assert str(error.value).endswith(f"; did you mean {kind}:{tmp_path / path}?")


def test_a_folder_is_found_below_the_home_folder(tmp_path, monkeypatch, gopro):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_dataset("gopro:~", "train")) == 2


@pytest.mark.parametrize("spec", ["nothing", "gopher:x", "pairs", "pairs:"])
def test_unknown_kinds_are_refused(spec):
    with pytest.raises(
        ValueError, match="given as pairs:PATH, gopro:PATH, gopro_gamma:PATH or"
    ):
        load_dataset(spec)


def test_empty_and_missing_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no sequence of 'pairs', expected PATH/"):
        load_dataset(f"pairs:{tmp_path}")
    for kind in ("blur", "sharp"):
        (tmp_path / "street" / kind).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"blur: holds no images"):
        load_dataset(f"pairs:{tmp_path}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_dataset(f"pairs:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="split must be one of train, test, got 'dev'"):
        load_dataset(f"pairs:{tmp_path}", "dev")
