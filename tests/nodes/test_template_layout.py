"""The templates as a person meets them: titles, order, notes, links one can follow."""

from __future__ import annotations

import json
import math
import re
from itertools import combinations

import pytest

from .browser import ComfyPage, new_context
from .conftest import REPOSITORY
from .workflow_files import ALL_WORKFLOWS, NEWER_NODES, VHS_WORKFLOW, read_nodes, title

TITLE_HEIGHT = 30
"""Of a node, above its position."""

by_name = pytest.mark.parametrize("path", ALL_WORKFLOWS, ids=lambda path: path.stem)

# Where the page has drawn what: boxes of nodes with their titles, ends of links.
_DRAWN = """
() => ({
  scale: app.canvas.ds.scale,
  boxes: Object.fromEntries(app.graph._nodes.map((node) => {
    const [x, y, width, height] = node.getBounding();
    return [node.id, [x, y, x + width, y + height]];
  })),
  groups: app.graph._groups.map((group) => {
    const [x, y, width, height] = group._bounding;
    return [group.title, [x, y, x + width, y + height]];
  }),
  links: [...app.graph.links.values()].map((link) => ({
    ends: [link.origin_id, link.target_id],
    from: [...app.graph.getNodeById(link.origin_id).getOutputPos(link.origin_slot)],
    to: [...app.graph.getNodeById(link.target_id).getInputPos(link.target_slot)],
  })),
})
"""

_NOTE = """
() => {
  const note = document.querySelector('.comfy-markdown-content, .comfy-markdown .tiptap');
  const text = note.querySelector('h2');
  const holder = note.closest('.comfy-markdown') ?? note;
  return {
    font: parseFloat(getComputedStyle(text).fontSize),
    height: holder.clientHeight,
    needed: note.scrollHeight,
  };
}
"""


@pytest.fixture(scope="module")
def page(chromium, comfy_server):
    context = new_context(chromium)
    try:
        page = ComfyPage(context.new_page(), comfy_server.url)
        page.open("VideoDeblur_Deblur")
        yield page
    finally:
        context.close()


@pytest.fixture
def opened(path, page, comfy_server):
    """The page with the template open, whole in view as ComfyUI shows it."""
    known = comfy_server.object_info()
    missing = [node["type"] for node in read_nodes(path) if node["type"] not in known]
    if missing:
        assert path == VHS_WORKFLOW or NEWER_NODES[title(path)] in missing
        pytest.skip(f"this ComfyUI has no {missing[0]}")
    page.drop_workflow(path)
    page.page.wait_for_timeout(1000)
    page.page.keyboard.press("Escape")
    return page


def note(path):
    """Return the text of the one note of a workflow."""
    nodes = json.loads(path.read_text())["nodes"]
    (found,) = [node for node in nodes if node["type"] == "MarkdownNote"]
    (text,) = found["widgets_values"]
    return text


def spline(start, end):
    """Return points of a link as the page draws it, from an output to an input."""
    pull = math.dist(start, end) / 4
    points = [start, (start[0] + pull, start[1]), (end[0] - pull, end[1]), end]
    for step in range(101):
        t = step / 100
        shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        yield tuple(
            sum(s * point[axis] for s, point in zip(shares, points, strict=True))
            for axis in (0, 1)
        )


def hidden(links, boxes):
    """Return which links pass behind which nodes."""
    found = set()
    for link in links:
        for x, y in spline(link["from"], link["to"]):
            for node_id, (left, top, right, bottom) in boxes.items():
                if left + 2 < x < right - 2 and top + 2 < y < bottom - 2:
                    # A link starts and ends in its sockets, at most ten pixels inside.
                    is_end = int(node_id) in map(int, link["ends"])
                    if not is_end or left + 12 < x < right - 12:
                        found.add((*link["ends"], node_id))
    return found


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_the_check_finds_a_link_behind_a_node():
    link = {"ends": [1, 3], "from": (100, 50), "to": (500, 60)}
    boxes = {1: (0, 0, 100, 100), 2: (200, 0, 300, 100), 3: (500, 0, 600, 100)}
    assert hidden([link], boxes) == {(1, 3, 2)}
    boxes[2] = (200, 80, 300, 180)
    assert hidden([link], boxes) == set()
    assert hidden([{"ends": [3, 1], "from": (600, 50), "to": (0, 50)}], boxes) != set()


def test_titles_are_words_and_numbered_from_the_simplest():
    numbers = [path.stem[:2] for path in ALL_WORKFLOWS]
    assert numbers == [f"{index:02}" for index in range(1, len(numbers) + 1)]
    for path in ALL_WORKFLOWS:
        # Safe in an address, which the page does not escape, and as a file on Windows.
        assert re.fullmatch(r"\d\d [A-Z][A-Za-z ,-]+", path.stem), path.stem
    assert len(read_nodes(ALL_WORKFLOWS[0])) == min(map(len, map(read_nodes, ALL_WORKFLOWS)))


def test_help_pages_name_templates_that_exist():
    named = {
        name
        for page in (REPOSITORY / "web" / "docs").glob("*.md")
        for names in re.findall(r"[tT]emplates? ((?:\*[^*]+\*(?:, )?)+)", page.read_text())
        for name in re.findall(r"\*([^*]+)\*", names)
    }
    assert len(named) >= 5
    assert named <= {title(path) for path in ALL_WORKFLOWS}


@by_name
def test_the_first_run_has_a_clip(path):
    kinds = {node["type"] for node in read_nodes(path)}
    assert "VideoDeblur_ExampleClip" in kinds or path == VHS_WORKFLOW
    assert not {"LoadVideo", "LoadImage"} & kinds


@by_name
def test_one_note_says_what_happens_in_a_few_words(path):
    text = note(path)
    head, *paragraphs = text.split("\n\n")
    assert re.fullmatch(r"# [A-Z].+", head)
    # Second-level headings: running text is too small where the whole graph is in view.
    assert paragraphs
    assert all(re.match(r"## \S", paragraph) for paragraph in paragraphs)
    assert len(re.sub(r"\(http.+?\)", "", text)) < 450
    if title(path) in NEWER_NODES:
        assert re.search(r"Needs ComfyUI 0\.\d+ or newer", text)


@by_name
def test_models_of_other_nodes_can_be_had(path):
    for node in read_nodes(path):
        if node["type"] in ("UpscaleModelLoader", "FrameInterpolationModelLoader"):
            (name,) = node["widgets_values"]
            if title(path) == "With a first stage":
                # Its authors hand it out on a page, not under an address of its own.
                assert f"{name} of [NAFNet](https://github.com/megvii-research/NAFNet)" in note(
                    path
                )
                continue
            (model,) = node["properties"]["models"]
            assert model["name"] == name
            assert model["url"].startswith("https://")
            assert model["url"].endswith(f"/{model['name']}")
            assert model["directory"] in ("upscale_models", "frame_interpolation")


@by_name
def test_every_node_lies_in_one_group_and_nothing_overlaps(path):
    graph = json.loads(path.read_text())
    boxes = {
        node["id"]: (
            node["pos"][0],
            node["pos"][1] - TITLE_HEIGHT,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + node["size"][1],
        )
        for node in graph["nodes"]
    }
    groups = [
        (x, y, x + width, y + height)
        for x, y, width, height in (group["bounding"] for group in graph["groups"])
    ]
    assert not [pair for pair in combinations(boxes.values(), 2) if overlap(*pair)]
    assert not [pair for pair in combinations(groups, 2) if overlap(*pair)]
    for node in graph["nodes"]:
        around = [group for group in groups if overlap(group, boxes[node["id"]])]
        assert len(around) == (node["type"] != "MarkdownNote"), node["type"]
        for group in around:
            assert group[0] < boxes[node["id"]][0]
            assert group[2] > boxes[node["id"]][2]
    assert all(group["font_size"] >= 24 and group["title"] for group in graph["groups"])


@by_name
def test_no_link_passes_behind_a_node_in_the_page(path, opened):
    drawn = opened.page.evaluate(_DRAWN)
    assert len(drawn["links"]) == len(json.loads(path.read_text())["links"])
    assert hidden(drawn["links"], drawn["boxes"]) == set()
    assert not [pair for pair in combinations(drawn["boxes"].values(), 2) if overlap(*pair)]


@by_name
def test_groups_hold_their_nodes_as_the_page_draws_them(path, opened):
    drawn = opened.page.evaluate(_DRAWN)
    assert len(drawn["groups"]) == len(json.loads(path.read_text())["groups"])
    for group_title, around in drawn["groups"]:
        inside = [box for box in drawn["boxes"].values() if overlap(box, around)]
        assert inside, group_title
        for left, top, right, bottom in inside:
            assert around[0] < left, group_title
            assert around[1] < top, group_title
            assert right < around[2], group_title
            assert bottom < around[3], (group_title, bottom)


@by_name
def test_the_note_can_be_read_with_the_whole_graph_in_view(path, opened):
    scale = opened.page.evaluate("() => app.canvas.ds.scale")
    # Below 0.6 the page leaves out the words on nodes.
    assert scale >= 0.6
    note = opened.page.evaluate(_NOTE)
    assert note["font"] * scale >= 9
    assert note["needed"] <= note["height"] + 1
