"""Files that are cut into parts and joined."""

from __future__ import annotations

import numpy as np
import pytest
from video_deblur.benchmarks import file_parts
from video_deblur.benchmarks.file_parts import join, main, split


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of 2,500 bytes, in a world in which a MiB has 1,000."""
    monkeypatch.setattr(file_parts, "_MIB", 1000)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(2500))
    return path


def test_what_was_cut_is_joined_to_the_same_bytes(file, monkeypatch):
    before = file.read_bytes()
    parts = split(file, 1)
    assert [part.name for part in parts] == [f"weights.safetensors.part0{i}" for i in range(3)]
    assert [part.stat().st_size for part in parts] == [1000, 1000, 500]
    assert not file.exists()
    monkeypatch.setattr("sys.argv", ["file_parts", str(parts[0]), "-o", str(file)])
    main()
    assert file.read_bytes() == before


def test_parts_of_an_earlier_file_are_not_joined_to_a_new_one(file):
    split(file, 1)
    file.write_bytes(bytes(1500))
    assert len(split(file, 1)) == 2
    assert len(list(file.parent.iterdir())) == 2


def test_a_small_file_stays_whole(file):
    assert split(file, 3) == [file]
    assert file.stat().st_size == 2500


def test_wrong_sizes_and_missing_parts_are_named(file):
    with pytest.raises(ValueError, match="parts of 1 MiB or more at most, got parts of 0"):
        split(file, 0)
    parts = split(file, 1)
    with pytest.raises(ValueError, match=r"name the first part, whose name ends in \.part00"):
        join(parts[1], file)
    parts[1].unlink()
    with pytest.raises(ValueError, match=r"parts are missing, found .*part00, .*part02"):
        join(parts[0], file)
    with pytest.raises(FileNotFoundError, match="no such part"):
        join(file.with_name("other.part00"), file)
