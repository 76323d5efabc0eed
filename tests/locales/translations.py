"""The texts of the nodes in each language, by place, and how one is taken apart.

A place is a path through `locales/<language>/nodeDefs.json`, such as
`VideoDeblur_Deblur.inputs.mask.tooltip`. `english.json` holds the English texts that the
translations were made of; the nodes themselves have them in `nodes/`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LANGUAGES = ("zh", "ja", "ko", "de", "fr", "es")
WORDS = json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))
"""Per language: what units are called, and searches with the nodes that they must find."""

_NUMBER_WORDS = {
    **dict.fromkeys(("a", "an", "each", "one", "single"), "1"),
    **dict.fromkeys(("two", "twice", "double", "doubles"), "2"),
    **{"three": "3", "four": "4", "five": "5", "six": "6", "eight": "8", "fifty": "50"},
}


def flat(texts: dict[str, Any], above: str = "") -> dict[str, str]:
    """Return nested texts by place."""
    found: dict[str, str] = {}
    for name, value in texts.items():
        place = f"{above}.{name}" if above else name
        found |= flat(value, place) if isinstance(value, dict) else {place: value}
    return found


def read(file: Path) -> dict[str, str]:
    """Return the texts of a file by place."""
    return flat(json.loads(file.read_text(encoding="utf-8")))


def translated(language: str) -> dict[str, str]:
    """Return the texts of the nodes in a language by place."""
    return read(ROOT / "locales" / language / "nodeDefs.json")


ENGLISH = read(Path(__file__).parent / "english.json")


def titles(texts: dict[str, str]) -> dict[str, str]:
    """Return what nodes are called by id, without the search words that stand behind it."""
    return {
        place.partition(".")[0]: re.split(r"\s*[(\uff08]", text)[0]
        for place, text in texts.items()
        if place.endswith(".display_name")
    }


def numbers(text: str) -> set[str]:
    """Return the numbers in a text that are written in digits."""
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def wrong_numbers(english: str, text: str) -> set[str]:
    """Return numbers that a translation lacks, or has on its own account."""
    words = re.findall(r"[a-z]+", english.lower())
    spelled = {_NUMBER_WORDS[word] for word in words if word in _NUMBER_WORDS}
    lacking = numbers(english) - numbers(text)
    return lacking | (numbers(text) - numbers(english) - spelled)


def kept_words(english: str) -> set[str]:
    """Return the words that are the same in every language: files, values, abbreviations."""
    words = {word.lstrip("(").rstrip("().,;:") for word in english.split()}
    return {w for w in words if re.search(r"[_/]|^\.\w|[A-Za-z]\d|^[A-Z]{2,}$|^dB$", w)}
