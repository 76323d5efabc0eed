"""The interface in other languages: complete for the nodes of today, and shown by the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations

import pytest
from video_deblur.benchmarks.comfyui_server import ComfyServer

from ..locales.translations import ENGLISH, LANGUAGES, ROOT, WORDS, flat, read, translated
from .comfy_process import FOLDER_NAME
from .test_template_layout import overlap
from .workflow_files import ALL_WORKFLOWS, read_nodes

SAMPLER = "VideoDeblur_Sample"

BOXES = """
() => app.graph._nodes.map((node) => {
  const [x, y, width, height] = node.getBounding();
  return {title: node.title, box: [x, y, x + width, y + height]};
})
"""


def english_texts(extension_nodes: dict[str, type]) -> dict[str, str]:
    """Return the texts of the schemas by place, as `english.json` has them."""
    texts = {}
    for node_id, node in extension_nodes.items():
        schema = node.GET_SCHEMA()
        texts[node_id] = {
            # Without the search words that older versions need (`make_schema`).
            "display_name": schema.display_name.partition(" (")[0],
            "description": schema.description,
            "inputs": {
                one.id: {"name": one.display_name or one.id, "tooltip": one.tooltip}
                for one in schema.inputs
            },
            "outputs": {
                str(index): {"name": one.display_name, "tooltip": one.tooltip}
                for index, one in enumerate(schema.outputs)
            },
        }
    return flat(texts)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_the_nodes_is_translated(extension_nodes, language):
    texts, today = translated(language), english_texts(extension_nodes)
    file = f"locales/{language}/nodeDefs.json"
    problems = [
        f"{file}: {place} is missing; translate {today[place]!r}"
        for place in today
        if place not in texts
    ]
    problems += [
        f"{file}: {place} is not in the nodes; remove it"
        for place in texts
        if place not in today
    ]
    assert not problems, "\n".join(problems)


def test_translations_are_those_of_the_english_texts_of_today(extension_nodes):
    today = english_texts(extension_nodes)
    others = ", ".join(LANGUAGES)
    stale = [
        f"{place} is {today.get(place)!r} now: mend it in locales/<{others}>/nodeDefs.json, "
        f"then copy the English text to tests/locales/english.json"
        for place in {**ENGLISH, **today}
        if ENGLISH.get(place) != today.get(place)
    ]
    assert not stale, "\n".join(stale)


def test_english_labels_are_known_to_pages_that_read_them_from_locales_only(extension_nodes):
    labels = {
        f"{node_id}.inputs.{one.id}.name": one.display_name
        for node_id, node in extension_nodes.items()
        for one in node.GET_SCHEMA().inputs
        if one.display_name
    }
    assert read(ROOT / "locales" / "en" / "nodeDefs.json") == labels


@pytest.mark.parametrize("language", LANGUAGES)
def test_options_are_called_as_they_are_shown(extension_nodes, language):
    # The page shows them as they are in every language.
    texts, lost = translated(language), []
    for node_id, node in extension_nodes.items():
        for one in node.GET_SCHEMA().inputs:
            place = f"{node_id}.inputs.{one.id}.tooltip"
            words = re.findall(r"\w+", one.tooltip)
            named = set(map(str, getattr(one, "options", None) or ())) & set(words)
            lost += [
                f"{language}: {place}: {word}" for word in named if word not in texts[place]
            ]
    assert lost == []


def test_the_server_hands_out_every_language(comfy_server):
    served = comfy_server.locales()
    for language in LANGUAGES:
        folder = ROOT / "locales" / language
        ours = json.loads((folder / "main.json").read_text(encoding="utf-8"))
        ours["nodeDefs"] = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
        assert served[language] == ours


@pytest.fixture
def language(request: pytest.FixtureRequest, comfy_server: ComfyServer) -> Iterator[str]:
    """The language that the page opens in."""
    comfy_server.change_setting("Comfy.Locale", request.param)
    yield request.param
    comfy_server.change_setting("Comfy.Locale", "en")


# No page offers German yet.
in_every_language = pytest.mark.parametrize(
    "language", [one for one in LANGUAGES if one != "de"], indirect=True
)


@in_every_language
def test_the_page_shows_nodes_in_the_language_of_the_user(language, comfy_page):
    texts = translated(language)
    comfy_page.open(SAMPLER)
    shown = comfy_page.page.evaluate(
        """(type) => {
             const node = LiteGraph.createNode(type);
             const pairs = (slots) => slots.map((one) => [one.name, one.localized_name]);
             return {title: node.title, inputs: pairs(node.inputs),
                     labels: node.widgets.map((one) => [one.name, one.label]),
                     outputs: pairs(node.outputs)};
           }""",
        SAMPLER,
    )
    assert shown["title"] == texts[f"{SAMPLER}.display_name"]
    slots = dict(shown["inputs"]) | dict(shown["labels"])
    for place in texts:
        if match := re.fullmatch(rf"{SAMPLER}\.inputs\.(\w+)\.name", place):
            assert slots[match[1]] == texts[place]
    # ComfyUI's own name of the type.
    assert dict(shown["outputs"]) == {"LATENT": texts[f"{SAMPLER}.outputs.0.name"]}


@in_every_language
def test_words_of_the_language_find_the_nodes(language, comfy_page):
    comfy_page.open(SAMPLER)
    page, texts = comfy_page.page, translated(language)
    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'")
    for words, node_ids in WORDS[language]["search"].items():
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(words)
        page.wait_for_timeout(1200)
        shown = page.locator('[role="option"]').all_inner_texts()
        for node_id in node_ids:
            title = texts[f"{node_id}.display_name"]
            assert any(title in text for text in shown), (words, shown)


@in_every_language
def test_templates_have_room_for_longer_words(language, comfy_page, comfy_server):
    known = comfy_server.object_info()
    comfy_page.open(SAMPLER)
    for path in ALL_WORKFLOWS:
        if all(node["type"] in known for node in read_nodes(path)):
            comfy_page.drop_workflow(path)
            comfy_page.page.wait_for_timeout(500)
            boxes = comfy_page.page.evaluate(BOXES)
            assert len(boxes) == len(read_nodes(path)) + 1
            overlapping = [
                (path.stem, one["title"], other["title"])
                for one, other in combinations(boxes, 2)
                if overlap(one["box"], other["box"])
            ]
            assert overlapping == []


def test_help_pages_in_chinese_are_where_the_page_asks_for_them(comfy_server, extension_nodes):
    import requests

    for node_id in extension_nodes:
        url = f"{comfy_server.url}/extensions/{FOLDER_NAME}/docs/{node_id}/zh.md"
        response = requests.get(url, timeout=10)
        response.encoding = "utf-8"
        page = ROOT / "web" / "docs" / node_id / "zh.md"
        assert response.text == page.read_text(encoding="utf-8")
