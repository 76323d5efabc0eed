"""Samplers are found in old and new schemas, and each is measured against euler at one step."""

from __future__ import annotations

import pytest
from video_deblur.benchmarks.comfyui_samplers import choices, comparison_graph


@pytest.mark.parametrize("is_new", [False, True])
def test_names_of_samplers_and_schedulers_are_found(is_new):
    def spec(names):
        return ["COMBO", {"options": names}] if is_new else [names, {}]

    required = {"sampler_name": spec(["euler", "heun"]), "scheduler": spec(["simple"])}
    info = {"KSampler": {"input": {"required": required}}}
    assert choices(info) == (["euler", "heun"], ["simple"])


def test_only_the_measured_sampler_differs_from_the_reference():
    graph = comparison_graph("heun", "karras", 4)
    reference, measured = (
        graph[name]["inputs"] for name in ("reference_latent", "measured_latent")
    )
    changed = {key: measured[key] for key in measured if measured[key] != reference[key]}
    assert changed == {"sampler_name": "heun", "scheduler": "karras", "steps": 4}
    links = [
        value[0]
        for node in graph.values()
        for value in node["inputs"].values()
        if isinstance(value, list)
    ]
    assert set(links) < set(graph)
