"""Graphs that users have saved keep their settings: widgets are saved by position.

`graphs/saved_values.json` holds, for each node, every list of widgets (name and value, in
order) that a template of this repository ever had. Add a line when a node gains a widget.
"""

from __future__ import annotations

import json

import pytest

from .conftest import GRAPHS
from .workflow_files import ALL_WORKFLOWS, read_nodes, widgets

SAVED = json.loads((GRAPHS / "saved_values.json").read_text())
_PAGE_ONLY = "control_after_generate"


@pytest.mark.parametrize("node_id", list(SAVED))
def test_saved_values_arrive_at_the_inputs_that_they_were_for(extension_nodes, node_id):
    info = {"input": extension_nodes[node_id].INPUT_TYPES()}
    for row in SAVED[node_id]:
        found = widgets({"type": node_id, "widgets_values": list(row.values())}, info)
        names = [name for name in row if name != _PAGE_ONLY]
        # By order too: equal values in other places would hide a change.
        assert list(found)[: len(names)] == names
        assert {name: found[name].value for name in names} == {n: row[n] for n in names}
        for name, widget in list(found.items())[len(names) :]:
            assert widget.value == widget.options["default"], name


@pytest.mark.parametrize("path", ALL_WORKFLOWS, ids=lambda path: path.stem)
def test_what_templates_hold_now_is_recorded(extension_nodes, path):
    for node in read_nodes(path):
        if node["type"] in extension_nodes:
            recorded = [len(row) for row in SAVED.get(node["type"], [])]
            # Nodes without a record have no widget.
            assert len(node.get("widgets_values", [])) in (recorded or [0]), node["type"]


def test_the_page_fills_old_graphs_as_they_were_saved(comfy_page, tmp_path):
    rows = [(node_id, row) for node_id, saved in SAVED.items() for row in saved]
    nodes = [
        {
            "id": number,
            "type": node_id,
            "pos": [400 * number, 0],
            "size": [300, 400],
            "flags": {},
            "order": number,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "properties": {},
            "widgets_values": list(row.values()),
        }
        for number, (node_id, row) in enumerate(rows, 1)
    ]
    graph = {"last_node_id": len(nodes), "last_link_id": 0, "nodes": nodes, "links": []}
    graph |= {"groups": [], "config": {}, "extra": {}, "version": 0.4}
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(graph))
    comfy_page.open("VideoDeblur_Deblur")
    comfy_page.drop_workflow(path)
    prompt = comfy_page.graph_to_prompt()
    for number, (node_id, row) in enumerate(rows, 1):
        filled = prompt[str(number)]["inputs"]
        expected = {name: value for name, value in row.items() if name != _PAGE_ONLY}
        assert {name: filled.get(name) for name in expected} == expected, node_id
