from __future__ import annotations

import subprocess
import sys

import pytest
from video_deblur.models import bundled
from video_deblur.models.bundled import (
    BUNDLED,
    DEFAULT,
    DEFAULT_DIFFUSION,
    find_bundled,
    label_of,
)
from video_deblur.models.checkpoint import load_model, read_info

_LIMIT = 16e6


@pytest.mark.parametrize("name", BUNDLED)
def test_what_is_bundled_loads_and_says_where_it_comes_from(name):
    info = read_info(name)
    assert info.path.stat().st_size <= _LIMIT
    assert info.licence == "Apache-2.0"
    assert info.provenance
    load_model(name)


def test_defaults_are_bundled():
    assert DEFAULT in BUNDLED
    assert read_info(DEFAULT_DIFFUSION).architecture.kind == "diffusion"


def test_other_names_are_left_to_others():
    assert find_bundled("mine.safetensors") is None
    assert find_bundled(label_of("mine")) is None
    assert find_bundled("") is None


def test_a_bundled_file_that_is_missing_is_named(monkeypatch, tmp_path):
    gone = tmp_path / "gone.safetensors"
    monkeypatch.setattr(bundled, "BUNDLED", {"gone": gone})
    for name in ("gone", label_of("gone")):
        with pytest.raises(FileNotFoundError, match="the bundled checkpoint gone is missing"):
            find_bundled(name)


def test_names_are_known_without_torch():
    code = (
        "import sys, video_deblur.models.bundled as b; print(b.DEFAULT, 'torch' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [DEFAULT, "False"]
