"""Every language says all that English says, with the same numbers, names and units."""

from __future__ import annotations

import json

import pytest

from .translations import (
    ENGLISH,
    LANGUAGES,
    ROOT,
    WORDS,
    kept_words,
    read,
    titles,
    translated,
    wrong_numbers,
)


def pairs(language: str, *endings: str) -> list[tuple[str, str, str]]:
    """Return place, English text and translation; what is missing fails a test of its own."""
    texts = translated(language)
    return [
        (place, english, texts[place])
        for place, english in ENGLISH.items()
        if place in texts and place.endswith(endings or "")
    ]


def sentences(language: str) -> list[tuple[str, str, str]]:
    return pairs(language, ".tooltip", ".description")


def test_every_language_has_both_files_and_is_tested():
    folders = {folder.name: folder for folder in (ROOT / "locales").iterdir()}
    assert set(folders) == {"en", *LANGUAGES}
    assert set(WORDS) == set(LANGUAGES)
    for language in LANGUAGES:
        names = {file.name for file in folders[language].iterdir()}
        assert names == {"main.json", "nodeDefs.json"}, language


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text_and_no_other(language):
    texts, file = translated(language), f"locales/{language}/nodeDefs.json"
    problems = [f"{file}: {place} is missing" for place in ENGLISH if place not in texts]
    problems += [
        f"{file}: {place} belongs to nothing" for place in texts if place not in ENGLISH
    ]
    problems += [
        f"{file}: {place} is empty" for place, text in texts.items() if not text.strip()
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_and_sockets_have_a_name(language):
    texts = read(ROOT / "locales" / language / "main.json")
    assert list(texts) == list(read(ROOT / "locales" / LANGUAGES[0] / "main.json"))
    assert {"nodeCategories.deblur", "dataTypes.DEBLUR_ENCODER"} <= set(texts)
    assert all(text.strip() for text in texts.values())
    socket = translated(language)["VideoDeblur_LoadCheckpoint.outputs.2.name"]
    assert texts["dataTypes.DEBLUR_ENCODER"] == socket


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_translated(language):
    assert [place for place, english, text in sentences(language) if text == english] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_those_of_the_english_text(language):
    wrong = {place: wrong_numbers(*texts) for place, *texts in pairs(language)}
    assert [f"{language}: {place}: {found}" for place, found in wrong.items() if found] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_values_and_abbreviations_stay_as_they_are(language):
    lost = [
        f"{language}: {place}: {word}"
        for place, english, text in sentences(language)
        for word in kept_words(english)
        if word not in text
    ]
    assert lost == []


@pytest.mark.parametrize("unit", ["pixels", "frames"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_units_are_named(language, unit):
    word, lost = WORDS[language][unit].lower(), []
    for place, english, text in sentences(language):
        for name in titles(ENGLISH).values():
            english = english.replace(name, "")
        if unit in english.lower() and word not in text.lower():
            lost.append(f"{language}: {place}: {word}")
    assert lost == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_nodes_are_called_what_is_written_on_them(language):
    called = titles(translated(language))
    assert len(set(called.values())) == len(called)
    lost = [
        f"{language}: {place}: {called[node_id]}"
        for place, english, text in sentences(language)
        for node_id, name in titles(ENGLISH).items()
        if name in english and called[node_id] not in text
    ]
    assert lost == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_one_text_in_english_is_one_text(language):
    wordings: dict[str, set[str]] = {}
    for _, english, text in sentences(language):
        wordings.setdefault(english, set()).add(text)
    assert [found for found in wordings.values() if len(found) > 1] == []


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_holds_signs_that_the_page_reads_as_code(language):
    # vue-i18n: {placeholder}, @:link, one | many.
    for file in (ROOT / "locales" / language).iterdir():
        bad = [place for place, text in read(file).items() if set("{}@|") & set(text)]
        assert bad == [], file


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_people_search_for_is_near_the_start_of_titles(language):
    # The page searches ids and titles, and of these the first 30 characters.
    texts = translated(language)
    for words, node_ids in WORDS[language]["search"].items():
        for node_id in node_ids:
            title = texts[f"{node_id}.display_name"].lower()
            for word in words.split():
                assert 0 <= title.find(word.lower()) < 30, (language, words, node_id)


def test_an_input_takes_one_line():
    """So that a new one, or another wording, is one line of a change per language."""
    for language in LANGUAGES:
        file = ROOT / "locales" / language / "nodeDefs.json"
        lines = file.read_text(encoding="utf-8").splitlines()
        for node in json.loads("\n".join(lines)).values():
            for group in (node["inputs"], node["outputs"]):
                for name, texts in group.items():
                    line = f'"{name}": {json.dumps(texts, ensure_ascii=False)}'
                    assert any(each.strip().rstrip(",") == line for each in lines), line
