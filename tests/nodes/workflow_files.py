"""The example workflows as data: their widgets by name, and their graph in API format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .conftest import REPOSITORY

ALL_WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
VHS_WORKFLOW = REPOSITORY / "workflows" / "10 With VideoHelperSuite.json"
"""Needs nodes of ComfyUI-VideoHelperSuite."""
WORKFLOWS = [path for path in ALL_WORKFLOWS if path != VHS_WORKFLOW]
"""Run on ComfyUI's own nodes and ours."""

NEWER_NODES = {
    "Compare with a slider": "ImageCompare",
    "Deblur, then slow motion": "FrameInterpolate",
}
"""Templates by title that need a node which the oldest supported ComfyUI lacks."""

_NOTES = ("Note", "MarkdownNote")
_WIDGET_KINDS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
_EXTRA_WIDGET = ("control_after_generate", "image_upload", "video_upload")


def title(path: Path) -> str:
    """Return a workflow's name without the number that orders it."""
    return path.stem.partition(" ")[2]


def read_nodes(path: Path) -> list[dict[str, Any]]:
    """Return the nodes of a workflow that run."""
    return [
        node for node in json.loads(path.read_text())["nodes"] if node["type"] not in _NOTES
    ]


@dataclass(frozen=True)
class Widget:
    """A widget of a node: what its schema says, and the value that a workflow gives it."""

    kind: str
    choices: list[Any]
    options: dict[str, Any]
    value: Any


def input_names(node_info: dict[str, Any]) -> list[str]:
    """Return the inputs of a node in the order of the schema."""
    return [name for name, _ in _specs(node_info["input"])]


def widgets(node: dict[str, Any], node_info: dict[str, Any]) -> dict[str, Widget]:
    """Return the widgets of a node by name, filled by position as the page fills them.

    Widgets that a newer ComfyUI has at the end keep their defaults.
    """
    values = list(node.get("widgets_values", []))
    found = dict(_filled(node_info["input"], values, ""))
    assert not values, (node["type"], list(found), values)
    return found


def widget_values(node: dict[str, Any], node_info: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a node's widgets by name."""
    values = node.get("widgets_values", [])
    if isinstance(values, dict):  # as VideoHelperSuite saves them, with what only its page uses
        page_only = ("videopreview", "choose video to upload")
        return {name: value for name, value in values.items() if name not in page_only}
    return {name: widget.value for name, widget in widgets(node, node_info).items()}


def _specs(groups: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for group in ("required", "optional"):
        yield from groups.get(group, {}).items()


def _filled(
    groups: dict[str, Any], values: list[Any], prefix: str
) -> Iterator[tuple[str, Widget]]:
    """Take the values of widgets off a list, those of a chosen option right after it."""
    for name, spec in _specs(groups):
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        choices = options.get("options", [])
        if isinstance(kind, list):
            kind, choices = "COMBO", kind
        if kind == _DYNAMIC:
            choices = [choice["key"] for choice in choices]
        elif kind not in _WIDGET_KINDS:
            continue
        default = options.get("default", choices[0] if choices else None)
        value = values.pop(0) if values else default
        # The page adds widgets of its own.
        if values and any(options.get(key) for key in _EXTRA_WIDGET):
            values.pop(0)
        yield prefix + name, Widget(kind, choices, options, value)
        if kind == _DYNAMIC:
            chosen = next(o for o in options["options"] if o["key"] == value)
            yield from _filled(chosen["inputs"], values, f"{prefix}{name}.")


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
        if "compare_view" in input_names(object_info[node["type"]]):
            inputs["compare_view"] = {"__value__": ["", ""]}  # as the page fills it
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph
