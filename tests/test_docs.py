"""Documents name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_architecture_page_names_files_that_are_there():
    named = set(re.findall(r"`([a-z_0-9]+/[A-Za-z_0-9./]*)`", TEXT))
    assert len(named) >= 35
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("file", "name"),
    re.findall(r"\| `([a-z_/]+\.py)` \| (?:an entry of )?`([A-Za-z_]+)`.* there \|", TEXT),
)
def test_what_it_says_is_in_a_file_is_defined_there(file, name):
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(def|class) {name}\b|^{name}\b.* =", source, re.MULTILINE)


def test_every_folder_of_code_is_in_it():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert {name for name in folders if f"{name}" not in TEXT} == set()
