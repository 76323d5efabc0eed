"""What a person sees of the nodes in ComfyUI's page: search, labels, what is folded away."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

FOUND = {
    "motion blur": {"Deblur Video"},
    "unblur": {"Deblur Frames"},
    "sharpen": {"Deblur Frames"},
    "shake": {"Deblur Video", "Borrow Detail"},
    "camera shake": {"Synthesize Blur"},
    "blur detection": {"Measure Blur"},
    "optical flow": {"Coding Priors"},
    "deblur": {"Deblur Video", "Deblur Frames"},
}


@pytest.fixture
def search(comfy_page):
    """Return a function from words to the titles that the page offers for them."""
    comfy_page.open("VideoDeblur_Deblur")
    page = comfy_page.page

    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_function("() => document.activeElement?.tagName === 'INPUT'")

    def titles(words: str) -> list[str]:
        page.keyboard.press("Control+A")
        page.keyboard.type(words)
        page.wait_for_timeout(1200)
        return page.locator('[role="option"]').all_inner_texts()

    return titles


def test_words_find_the_nodes(search):
    for words, expected in FOUND.items():
        shown = search(words)
        found = {
            name for name in expected if any(text.lstrip().startswith(name) for text in shown)
        }
        assert found == expected, (words, shown)


def test_labels_say_what_inputs_do_and_ids_stay(comfy_page):
    comfy_page.open("VideoDeblur_Deblur")
    labels = comfy_page.page.evaluate(
        """() => ['Deblur', 'DeblurVideo', 'DecodeLatents'].map((name) => {
             const node = LiteGraph.createNode(`VideoDeblur_${name}`);
             return node.widgets.find((widget) => widget.name === 'borrow').label;
           })"""
    )
    assert labels == ["use sharper neighbours"] * 3


ADVANCED = {
    "LoadCheckpoint": ["dtype"],
    "EncodeFrames": ["scene_cuts"],
    "Sample": ["cfg", "sampler_name", "scheduler", "window", "overlap", "tile"],
    "DecodeLatents": ["color_match"],
    "Deblur": ["scene_cuts", "skip_sharp", "adapt"],
    "DeblurVideo": ["codec", "crf", "scene_cuts", "skip_sharp", "adapt"],
    "Borrow": ["scene_cuts"],
    "Compare": ["labels"],
    "SynthesizeBlur": ["pauses"],
    "CodingPriors": ["source"],
}


def test_less_used_inputs_are_folded_away_where_the_version_knows_how(comfy, extension_nodes):
    knows = "advanced" in inspect.signature(comfy.api.io.Int.Input.__init__).parameters
    found = {
        node_id.removeprefix("VideoDeblur_"): [
            one.id for one in node.GET_SCHEMA().inputs if getattr(one, "advanced", None)
        ]
        for node_id, node in extension_nodes.items()
    }
    assert {name: ids for name, ids in found.items() if ids} == (ADVANCED if knows else {})


def test_titles_carry_words_only_where_search_knows_no_aliases(comfy, extension_nodes):
    known = {field.name for field in dataclasses.fields(comfy.api.io.Schema)}
    schemas = [node.GET_SCHEMA() for node in extension_nodes.values()]
    assert any("(" in schema.display_name for schema in schemas) != ("search_aliases" in known)
    for schema in schemas:
        # What follows is out of the reach of the page's search.
        for word in schema.display_name.rstrip(")").partition("(")[2].split(", "):
            assert schema.display_name.find(word) < 30


def test_outputs_are_named_as_those_of_comfyui(extension_nodes):
    for node_id, node in extension_nodes.items():
        for kind, name in zip(node.RETURN_TYPES, node.RETURN_NAMES, strict=True):
            single = node.RETURN_TYPES.count(kind) == 1 and kind.isupper()
            if single and kind not in ("FLOAT", "STRING") and "Encode" not in node_id:
                assert name == kind, node_id
