"""The harness itself, proved with stock nodes only: a failure here is not the extension's."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from video_deblur.benchmarks.comfyui_server import (
    ComfyServer,
    ExecutionFailedError,
    ExecutionInterruptedError,
    PromptRejectedError,
)

from .browser import ComfyPage
from .comfy_process import load_extension

STOCK_COLOR = (0x33, 0x66, 0x99)

PROBE_NODES = """
from comfy_api.latest import ComfyExtension, io


class Probe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        number = io.Int.Input("number", default=7)
        outputs = [io.Int.Output()]
        return io.Schema(node_id="HarnessProbe", inputs=[number], outputs=outputs)

    @classmethod
    def execute(cls, number):
        return io.NodeOutput(number + 1)


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Probe]
"""

PROBE_ENTRY = """
async def comfy_entrypoint():
    from .nodes import Extension
    return Extension()
"""


def image_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def slow_graph(num_blurs: int = 20) -> dict:
    """Chain nodes that take about a second each: cancelling works between nodes."""
    graph = {"0": {"class_type": "EmptyImage", "inputs": {}}}
    graph["0"]["inputs"] = {"width": 1024, "height": 1024, "batch_size": 1, "color": 1}
    for index in range(1, num_blurs + 1):
        inputs = {"image": [str(index - 1), 0], "blur_radius": 31, "sigma": 5.0}
        graph[str(index)] = {"class_type": "ImageBlur", "inputs": inputs}
    graph["out"] = {"class_type": "PreviewImage", "inputs": {"images": [str(num_blurs), 0]}}
    return graph


def test_bare_import_of_nodes_gives_comfyui_and_not_our_package(comfy, comfyui_path):
    assert Path(sys.modules["nodes"].__file__) == comfyui_path / "nodes.py"
    assert "SaveImage" in comfy.nodes.NODE_CLASS_MAPPINGS


def test_in_process_comfyui_uses_temporary_folders(comfy):
    assert Path(comfy.folder_paths.get_output_directory()).is_relative_to(comfy.base)


def test_classic_node_called_in_process_takes_schema_defaults(call_node):
    (image,) = call_node("EmptyImage", width=16, height=8)
    assert image.shape == (1, 8, 16, 3)


def test_v3_node_called_in_process_returns_its_outputs(call_node):
    (frames,) = call_node("EmptyImage", width=16, height=8, batch_size=4)
    (video,) = call_node("CreateVideo", images=frames, fps=25.0)
    assert video.get_dimensions() == (16, 8)


def test_calling_a_node_with_an_unknown_input_names_it(call_node):
    with pytest.raises(TypeError, match="no input \\['colour'\\]"):
        call_node("EmptyImage", colour=3)


def test_extension_with_a_package_called_nodes_loads_as_comfyui_loads_it(
    comfy, call_node, tmp_path
):
    folder = tmp_path / "probe-pack"
    (folder / "nodes").mkdir(parents=True)
    (folder / "__init__.py").write_text(PROBE_ENTRY)
    (folder / "nodes" / "__init__.py").write_text(PROBE_NODES)
    assert list(load_extension(comfy, folder)) == ["HarnessProbe"]
    assert call_node("HarnessProbe") == (8,)


def test_extension_that_does_not_import_is_reported(comfy, tmp_path):
    folder = tmp_path / "broken-pack"
    folder.mkdir()
    (folder / "__init__.py").write_text(PROBE_ENTRY)
    with pytest.raises(RuntimeError, match="broken-pack: IMPORT FAILED"):
        load_extension(comfy, folder)


def test_server_runs_a_stock_graph_and_returns_its_files(comfy_server: ComfyServer, graphs):
    files = comfy_server.run(json.loads((graphs / "stock_image.api.json").read_text()))
    assert len(files) == 2
    with Image.open(files[0]) as image:
        assert image.size == (48, 32)
        assert image.getpixel((0, 0)) == STOCK_COLOR


def test_server_hands_back_an_uploaded_image(comfy_server: ComfyServer, tmp_path):
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    name = comfy_server.upload(tmp_path / "red.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (file,) = comfy_server.run(graph)
    assert image_size(file) == (20, 10)


def test_server_refuses_a_graph_that_does_not_validate(comfy_server: ComfyServer):
    graph = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    with pytest.raises(PromptRejectedError, match="images"):
        comfy_server.queue(graph)


def test_server_reports_the_message_of_a_failing_node(comfy_server: ComfyServer, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    name = comfy_server.upload(tmp_path / "broken.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    with pytest.raises(ExecutionFailedError, match="LoadImage: cannot identify image file"):
        comfy_server.run(graph)


def test_interrupt_ends_a_run_between_nodes(comfy_server: ComfyServer):
    seen = len(comfy_server.events())
    prompt_id = comfy_server.queue(slow_graph())
    comfy_server.wait_for_event("executing", since=seen)
    comfy_server.interrupt()
    with pytest.raises(ExecutionInterruptedError):
        comfy_server.wait(prompt_id, timeout=30)


def test_websocket_records_the_order_of_a_run(comfy_server: ComfyServer):
    seen = len(comfy_server.events())
    comfy_server.run(slow_graph(num_blurs=1))
    comfy_server.wait_for_event("execution_success", since=seen, timeout=10)
    kinds = [event.kind for event in comfy_server.events()[seen:]]
    assert kinds.index("execution_start") < kinds.index("executed")
    assert kinds.index("executed") < kinds.index("execution_success")


def test_server_writes_outside_the_checkout(comfy_server: ComfyServer, comfyui_path):
    (file,) = comfy_server.run(slow_graph(num_blurs=1))
    assert file.is_file()
    assert not file.resolve().is_relative_to(comfyui_path)


def test_dropped_workflow_runs_in_the_page(
    comfy_page: ComfyPage, comfy_server: ComfyServer, graphs, tmp_path
):
    comfy_page.open("SaveImage")
    comfy_page.drop_workflow(graphs / "stock_image.json")
    assert comfy_page.graph_to_prompt()["1"]["inputs"]["width"] == 64
    assert comfy_page.dialogs() == []
    assert comfy_page.run()["kind"] == "execution_success"
    saved = sorted((comfy_server.base / "output").glob("dropped_*.png"))
    assert image_size(saved[-1]) == (64, 40)
    comfy_page.fit_view()
    picture = comfy_page.screenshot(_screenshot_path(tmp_path, "harness_stock.png"))
    assert image_size(picture) == (1600, 900)


def test_cancel_button_ends_a_run_in_the_page(comfy_page: ComfyPage, tmp_path):
    comfy_page.open("ImageBlur")
    comfy_page.page.evaluate("(graph) => app.loadApiJson(graph, 'slow')", slow_graph())
    comfy_page.click_run()
    comfy_page.wait_for_event("execution_start")
    comfy_page.click_cancel()
    assert comfy_page.wait_for_end(timeout=30)["kind"] == "execution_interrupted"


def _screenshot_path(tmp_path: Path, name: str) -> Path:
    """Keep pictures under COMFYUI_SCREENSHOTS when it is set, for people to look at."""
    folder = Path(os.environ.get("COMFYUI_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
