"""The example workflow around ComfyUI-VideoHelperSuite, and a ComfyUI that lacks it.

Runs where VideoHelperSuite is a custom node of the checkout that COMFYUI_PATH names.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_deblur.benchmarks.comfyui_server import (
    ComfyServer,
    PromptRejectedError,
    make_base_directory,
)

from .browser import ComfyPage, new_context
from .checkpoints import blurry_clip
from .conftest import REPOSITORY
from .test_deblur_video import write_clip
from .workflow_files import VHS_WORKFLOW, read_nodes, to_api

# No multiples of 8, to which the loader's formats for other models scale.
NUM_FRAMES, HEIGHT, WIDTH = 5, 50, 66
RATE = Fraction(25)
BRIGHTNESS = (0.2126, 0.7152, 0.0722)


@pytest.fixture(scope="module")
def vhs_server(comfyui_path, tmp_path_factory):
    """A server with VideoHelperSuite and this repository."""
    folders = [
        path
        for path in (comfyui_path / "custom_nodes").iterdir()
        if path.name.lower() == "comfyui-videohelpersuite"
    ]
    if not folders:
        pytest.skip(
            "no ComfyUI-VideoHelperSuite in custom_nodes of COMFYUI_PATH: its workflow not run"
        )
    base = tmp_path_factory.mktemp("vhs_server")
    make_base_directory(base, REPOSITORY)
    link = base / "custom_nodes" / folders[0].name
    link.symlink_to(folders[0].resolve(), target_is_directory=True)
    server = ComfyServer(comfyui_path, base)
    try:
        server.start()
        frames = blurry_clip(NUM_FRAMES, HEIGHT, WIDTH)
        server.upload(write_clip(base / "blurry.mp4", frames, RATE, sound="aac"))
        yield server
    finally:
        server.stop()


def assert_whole(path: Path) -> None:
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == RATE
        assert len(container.streams.audio) == 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.shape(frames) == (NUM_FRAMES, HEIGHT, WIDTH, 3)


def test_workflow_runs_through_the_api(vhs_server):
    graph = to_api(VHS_WORKFLOW, vhs_server.object_info())
    (saved,) = vhs_server.run(graph, timeout=120)
    assert_whole(saved)


def test_dropped_workflow_runs_from_the_button(vhs_server, chromium):
    context = new_context(chromium)
    try:
        page = ComfyPage(context.new_page(), vhs_server.url)
        page.open("VHS_LoadVideo")
        page.drop_workflow(VHS_WORKFLOW)
        assert page.dialogs() == []
        in_page = {k: node["inputs"] for k, node in page.graph_to_prompt().items()}
        through_api = to_api(VHS_WORKFLOW, vhs_server.object_info())
        assert in_page == {k: node["inputs"] for k, node in through_api.items()}
        end = page.run(timeout=120)
        assert end["kind"] == "execution_success", end
    finally:
        context.close()
    # Video Combine leaves the video without sound beside the one with it.
    assert_whole(max((vhs_server.base / "output").rglob("*-audio.mp4")))


def test_frames_of_its_loader_come_out_as_those_of_the_stock_loader(vhs_server):
    graph = to_api(VHS_WORKFLOW, vhs_server.object_info())
    deblur = next(key for key, node in graph.items() if "Deblur" in node["class_type"])
    combine = next(key for key, node in graph.items() if "Combine" in node["class_type"])
    graph[combine] = {
        "class_type": "SaveImage",
        "inputs": {"images": [deblur, 0], "filename_prefix": "vhs"},
    }
    theirs = vhs_server.run(graph, timeout=120)
    graph["stock"] = {"class_type": "LoadVideo", "inputs": {"file": "blurry.mp4"}}
    graph["frames"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["stock", 0]}}
    graph[deblur]["inputs"]["frames"] = ["frames", 0]
    graph[combine]["inputs"]["filename_prefix"] = "stock"
    ours = vhs_server.run(graph, timeout=120)
    assert len(theirs) == len(ours) == NUM_FRAMES
    for a, b in zip(theirs, ours, strict=True):
        pixels = [np.asarray(Image.open(path), dtype=float) for path in (a, b)]
        # 4:2:0 halves the resolution of colours, which newer loaders fill in otherwise; and
        # OpenCV and libswscale round otherwise.
        assert np.abs((pixels[0] - pixels[1]) @ BRIGHTNESS).mean() < 2


def test_without_it_the_page_names_the_missing_nodes(comfy_page, comfy_server):
    missing = {node["type"] for node in read_nodes(VHS_WORKFLOW) if "VHS" in node["type"]}
    comfy_page.open("VideoDeblur_Deblur")
    comfy_page.drop_workflow(VHS_WORKFLOW)
    # Older pages open a dialog with the nodes, newer ones a panel with their pack.
    details = '[data-testid="error-overlay-see-errors"]'
    comfy_page.page.locator(f".p-dialog, {details}").first.wait_for(timeout=10_000)
    if comfy_page.page.locator(details).count():
        comfy_page.page.locator(details).dispatch_event("click")
        missing = {"comfyui-videohelpersuite"}
    for name in missing:
        comfy_page.page.get_by_text(name).first.wait_for(timeout=10_000)
    graph = {"1": {"class_type": "VHS_LoadVideo", "inputs": {}}}
    with pytest.raises(PromptRejectedError, match="VHS_LoadVideo"):
        comfy_server.queue(graph)
