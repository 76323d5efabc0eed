"""The help pages in Chinese say what the English ones do, part by part."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from .translations import ENGLISH, ROOT, titles, translated, wrong_numbers

PAGES = ROOT / "web" / "docs"
NODES = sorted(titles(ENGLISH))
PARTS = {
    "headings": r"(?m)^(#+) ",
    "items of lists": r"(?m)^(- )",
    "code": r"(`[^`]+`)",
    "bold words": r"(\*\*[^*]+\*\*)",
    "links and pictures": r"\]\(([^)]+)\)",
}


def english(node_id: str) -> str:
    return (PAGES / f"{node_id}.md").read_text(encoding="utf-8")


def chinese(node_id: str) -> str:
    return (PAGES / node_id / "zh.md").read_text(encoding="utf-8")


def test_every_page_is_there_in_both_languages():
    # The page asks for <id>/<language>.md, then for <id>.md.
    found = {file.relative_to(PAGES).as_posix() for file in PAGES.rglob("*") if file.is_file()}
    assert found == {name for node in NODES for name in (f"{node}.md", f"{node}/zh.md")}


@pytest.mark.parametrize("node_id", NODES)
def test_pages_have_no_tables(node_id):
    # The panel that ComfyUI shows them in has no room for a third column.
    assert not re.findall(r"(?m)^\|", english(node_id) + chinese(node_id))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("node_id", NODES)
def test_both_pages_have_the_same_parts(node_id, part):
    pattern = PARTS[part]
    ours, theirs = re.findall(pattern, english(node_id)), re.findall(pattern, chinese(node_id))
    # Words may change places in a sentence, headings may not.
    assert theirs == ours if part == "headings" else Counter(theirs) == Counter(ours)


@pytest.mark.parametrize("node_id", NODES)
def test_both_pages_have_the_same_numbers(node_id):
    lines = zip(english(node_id).splitlines(), chinese(node_id).splitlines(), strict=True)
    wrong = [wrong_numbers(*pair) for pair in lines]
    assert [f"line {number}: {found}" for number, found in enumerate(wrong, 1) if found] == []


@pytest.mark.parametrize("node_id", NODES)
def test_the_page_calls_nodes_inputs_and_templates_as_the_interface_does(node_id):
    text, texts = chinese(node_id), translated("zh")
    names, called = titles(ENGLISH), titles(texts)
    assert text.startswith(f"# {called[node_id]}\n")
    spoken_of = [node for node, name in names.items() if name in english(node_id)]
    assert [called[node] for node in spoken_of if called[node] not in text] == []
    inputs = re.findall(r"(?m)^- `(\w+)`\uff08(.+?)\uff09\uff1a", text)
    labels = {
        place.split(".")[2]: label
        for place, label in texts.items()
        if place.startswith(f"{node_id}.inputs.") and place.endswith(".name")
    }
    assert dict(inputs) == labels
    templates = {file.stem.partition(" ")[2] for file in (ROOT / "workflows").glob("*.json")}
    spoken_of = {name for name in templates if f"*{name}*" in english(node_id)}
    assert {name for name in spoken_of if f"*{name}*" not in text} == set()
