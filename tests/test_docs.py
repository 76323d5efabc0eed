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


COMPLAINTS = [
    line.split("|")[1:-1]
    for line in (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]


def test_every_complaint_has_an_answer():
    assert [int(row[0]) for row in COMPLAINTS] == list(range(1, 16))
    assert all(len(cell.strip()) > 10 for row in COMPLAINTS for cell in row[1:])


@pytest.mark.parametrize("row", COMPLAINTS, ids=lambda row: row[0].strip())
def test_the_tests_that_hold_an_answer_are_there(row):
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row[3])
    assert named
    for file, name in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not name or f"\ndef {name}(" in source, name


def test_links_of_the_documents_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
