"""The example workflows as data: their widgets by name, and their graph in API format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .conftest import REPOSITORY

ALL_WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
VHS_WORKFLOW = REPOSITORY / "workflows" / "video_helper_suite.json"
"""Needs nodes of ComfyUI-VideoHelperSuite."""
WORKFLOWS = [path for path in ALL_WORKFLOWS if path != VHS_WORKFLOW]
"""Run on ComfyUI's own nodes and ours."""

_NOTES = ("Note", "MarkdownNote")
_WIDGET_KINDS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def read_nodes(path: Path) -> list[dict[str, Any]]:
    """Return the nodes of a workflow that run."""
    return [
        node for node in json.loads(path.read_text())["nodes"] if node["type"] not in _NOTES
    ]


def input_specs(node_info: dict[str, Any]) -> dict[str, tuple[str, list[Any], dict[str, Any]]]:
    """Return kind, choices and options of each input, in the order of the schema."""
    specs = {}
    for group in ("required", "optional"):
        for name, spec in node_info["input"].get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            kind, choices = spec[0], options.get("options", [])
            if isinstance(kind, list):
                kind, choices = "COMBO", kind
            specs[name] = (kind, choices, options)
    return specs


def widget_names(node_info: dict[str, Any]) -> list[str | None]:
    """Return the widgets as the page orders them; None stands for one it adds itself."""
    names: list[str | None] = []
    for name, (kind, _, options) in input_specs(node_info).items():
        if kind not in _WIDGET_KINDS:
            continue
        names.append(name)
        extra = ("control_after_generate", "image_upload", "video_upload")
        if any(options.get(key) for key in extra):
            names.append(None)
    return names


def widget_values(node: dict[str, Any], node_info: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a node's widgets by name."""
    values = node.get("widgets_values", [])
    if isinstance(values, dict):  # as VideoHelperSuite saves them, with what only its page uses
        page_only = ("videopreview", "choose video to upload")
        return {name: value for name, value in values.items() if name not in page_only}
    names = widget_names(node_info)
    assert len(values) == len(names), (node["type"], names, values)
    return {name: value for name, value in zip(names, values, strict=True) if name}


def to_api(path: Path, object_info: dict[str, Any]) -> dict[str, Any]:
    """Turn a workflow into the graph that `/prompt` takes."""
    links = {link[0]: link for link in json.loads(path.read_text())["links"]}
    graph = {}
    for node in read_nodes(path):
        inputs = widget_values(node, object_info[node["type"]])
        for slot in node["inputs"]:
            if slot.get("link") is not None:
                _, source, source_slot, *_ = links[slot["link"]]
                inputs[slot["name"]] = [str(source), source_slot]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph
