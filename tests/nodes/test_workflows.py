"""Every example workflow: fits the schemas, and runs through the API and in the page."""

from __future__ import annotations

import io
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_deblur.benchmarks.comfyui_server import (
    FOLDER_NAME,
    ComfyServer,
    ExecutionInterruptedError,
)

from .browser import ComfyPage, new_context
from .checkpoints import blurry_clip
from .other_models import FIRST_STAGE, write_first_stage, write_interpolator, write_upscaler
from .test_deblur_video import packets, write_clip
from .workflow_files import (
    ALL_WORKFLOWS,
    NEWER_NODES,
    VHS_WORKFLOW,
    WORKFLOWS,
    input_names,
    read_nodes,
    title,
    to_api,
    widget_values,
    widgets,
)

NUM_FRAMES, HEIGHT, WIDTH = 17, 256, 256
"""Of the clip that the workflows start from."""

EXPECTED = {
    "Deblur a video": (NUM_FRAMES, HEIGHT, WIDTH),
    # With bars for labels above.
    "Before and after, side by side": (NUM_FRAMES, HEIGHT + 20, 2 * WIDTH + 8),
    "Sharp photo from a clip or burst": (1, HEIGHT, WIDTH),
    "Compare with a slider": (1, HEIGHT, WIDTH),
    "Restore a region with a mask": (NUM_FRAMES, HEIGHT, WIDTH),
    "Deblur, then upscale": (NUM_FRAMES, 4 * HEIGHT, 4 * WIDTH),
    "Deblur, then slow motion": (2 * NUM_FRAMES - 1, HEIGHT, WIDTH),
    "Step by step": (NUM_FRAMES, HEIGHT, WIDTH),
    "With the stock KSampler": (NUM_FRAMES, HEIGHT, WIDTH),
    "See the coding priors": (NUM_FRAMES, HEIGHT, WIDTH),
    "With a first stage": (NUM_FRAMES, HEIGHT, WIDTH),
}
"""Frames, height and width of the last file that each workflow saves."""

by_name = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
every_one = pytest.mark.parametrize("path", ALL_WORKFLOWS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def server(comfy, comfy_server: ComfyServer):
    models = comfy_server.base / "models"
    write_upscaler(models)
    write_first_stage(models / FIRST_STAGE)
    if "FrameInterpolate" in comfy.nodes.NODE_CLASS_MAPPINGS:
        write_interpolator(models)
    return comfy_server


@pytest.fixture(scope="module")
def object_info(server: ComfyServer):
    return server.object_info()


@pytest.fixture(scope="module")
def page(chromium, server):
    context = new_context(chromium)
    try:
        page = ComfyPage(context.new_page(), server.url)
        page.open("VideoDeblur_Deblur")
        yield page
    finally:
        context.close()


def saved_shape(path: Path):
    if path.suffix == ".png":
        with Image.open(path) as image:
            return (1, image.height, image.width)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return (len(frames), *frames[0].shape[:2])


def with_preset(graph: dict, **inputs) -> dict:
    for node in graph.values():
        if "preset" in node["inputs"]:
            node["inputs"].update(inputs)
    return graph


def workflow(name: str) -> Path:
    return next(path for path in WORKFLOWS if title(path) == name)


def skip_without_its_nodes(path: Path, object_info: dict) -> None:
    node_id = NEWER_NODES.get(title(path))
    if node_id and node_id not in object_info:
        pytest.skip(f"this ComfyUI has no {node_id}")


def test_every_promised_workflow_exists():
    assert {title(path) for path in WORKFLOWS} == set(EXPECTED)
    assert VHS_WORKFLOW in ALL_WORKFLOWS


@every_one
def test_thumbnail_is_small_and_readable(path):
    with Image.open(path.with_suffix(".jpg")) as image:
        # Cards of the dialog are square.
        assert 500 <= image.width == image.height <= 800
    assert path.with_suffix(".jpg").stat().st_size < 100_000


@by_name
def test_widgets_fit_the_schemas(path, object_info):
    skip_without_its_nodes(path, object_info)
    for node in read_nodes(path):
        info = object_info[node["type"]]
        assert {slot["name"] for slot in node["inputs"]} <= set(input_names(info))
        for name, widget in widgets(node, info).items():
            value, options = widget.value, widget.options
            upload = any(options.get(f"{kind}_upload") for kind in ("image", "video"))
            if widget.choices and not upload:
                assert value in widget.choices, (node["type"], name)
            if widget.kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], (node["type"], name)
            if node["type"].startswith("VideoDeblur_"):
                assert value == options["default"], (node["type"], name)


def test_sampling_widgets_of_both_step_by_step_workflows_agree(object_info):
    found = []
    for name, node_id in (
        ("Step by step", "VideoDeblur_Sample"),
        ("With the stock KSampler", "KSampler"),
    ):
        node = next(node for node in read_nodes(workflow(name)) if node["type"] == node_id)
        values = widget_values(node, object_info[node_id])
        found.append([values[key] for key in ("steps", "cfg", "sampler_name", "scheduler")])
    assert found[0] == found[1]


@by_name
def test_workflow_runs_through_the_api(path, server, object_info):
    skip_without_its_nodes(path, object_info)
    files = server.run(to_api(path, object_info), timeout=600)
    assert saved_shape(files[-1]) == EXPECTED[title(path)]


@by_name
def test_dropped_workflow_runs_from_the_button(path, page, server, object_info):
    skip_without_its_nodes(path, object_info)
    page.drop_workflow(path)
    assert page.dialogs() == []
    queued, graph = page.graph_to_prompt(), to_api(path, object_info)
    assert queued.keys() == graph.keys()
    for key, node in graph.items():
        # The page has widgets of its own besides, such as a preview.
        found = {name: queued[key]["inputs"].get(name) for name in node["inputs"]}
        assert found == node["inputs"]
    end = page.run(timeout=600)
    assert end["kind"] == "execution_success", end


def test_templates_and_help_pages_are_served(comfy_server, extension_nodes):
    import requests

    listed = requests.get(f"{comfy_server.url}/workflow_templates", timeout=10).json()
    names = {path.stem for path in ALL_WORKFLOWS}
    assert set(listed[FOLDER_NAME]) == names
    for name in names:
        url = f"{comfy_server.url}/api/workflow_templates/{FOLDER_NAME}/{name}.jpg"
        # The page writes the name into the address as it is, so that the browser escapes it.
        assert requests.get(url, timeout=10).content[:2] == b"\xff\xd8"
    for node_id in extension_nodes:
        url = f"{comfy_server.url}/extensions/{FOLDER_NAME}/docs/{node_id}.md"
        assert requests.get(url, timeout=10).text.startswith("# ")


def test_progress_moves_and_the_preview_shows_a_picture(server, object_info):
    graph = to_api(workflow("Step by step"), object_info)
    sampler = next(key for key, node in graph.items() if "denoise" in node["inputs"])
    graph[sampler]["inputs"].update(seed=11, steps=3, window=4, overlap=2)
    seen = len(server.events())
    server.run(graph, timeout=600)
    events = server.events()[seen:]
    values = [
        event.data["value"]
        for event in events
        if event.kind == "progress" and event.data["node"] == sampler
    ]
    # Two windows in each of three steps, and the end.
    assert len(set(values)) >= 7
    assert values == sorted(values)
    previews = [event.data for event in events if event.kind == "preview"]
    picture = np.asarray(Image.open(io.BytesIO(previews[-1])).convert("L"), dtype=float)
    assert picture.std() > 4


def test_second_run_with_another_seed_loads_nothing(server, object_info):
    graph = to_api(workflow("Deblur a video"), object_info)
    server.run(with_preset(graph, seed=21), timeout=600)
    before = server.log_text()
    server.run(with_preset(graph, seed=22), timeout=600)
    news = server.log_text()[len(before) :]
    assert "Prompt executed" in news
    assert "Requested to load" not in news
    assert "model weight dtype" not in news


def test_a_long_run_stops_soon_after_cancelling_and_leaves_nothing(server, object_info):
    temporary = server.base / "temp"
    before = {path.name for path in temporary.rglob("*")}
    graph = with_preset(
        to_api(workflow("Deblur a video"), object_info), seed=31, preset="paper"
    )
    seen = len(server.events())
    prompt_id = server.queue(graph)
    server.wait_for_event("progress", since=seen, timeout=60)
    cancelled = time.monotonic()
    server.interrupt()
    with pytest.raises(ExecutionInterruptedError):
        server.wait(prompt_id, timeout=30)
    assert time.monotonic() - cancelled < 5
    # The result of the run before goes when the next one begins.
    assert {path.name for path in temporary.rglob("*")} <= before


def test_sound_that_mp4_cannot_hold_is_kept_and_can_be_saved(server, tmp_path):
    source = write_clip(tmp_path / "pcm.mkv", blurry_clip(3, 32, 48), 25, sound="pcm_s16le")
    name = server.upload(source)
    graph = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": name}},
        "2": {"class_type": "VideoDeblur_DeblurVideo", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0]}},
    }
    graph["2"]["inputs"].update(checkpoint="divd-tiny (bundled)", preset="fast", strength=1.0)
    graph["2"]["inputs"].update(seed=0, codec="h264", crf=14)
    # With format auto, ComfyUI copies any sound into a file named .mp4, which libav refuses.
    graph["3"]["inputs"].update(filename_prefix="pcm", format="mp4", codec="auto")
    (saved,) = server.run(graph)
    assert saved_shape(saved) == (3, 32, 48)
    restored = max((server.base / "temp").glob("video_deblur_*.mkv"))
    assert packets(str(restored), "audio")[0][1] == packets(str(source), "audio")[0][1]


def test_cancel_button_stops_a_run_in_the_page(page):
    path = workflow("Sharp photo from a clip or burst")
    page.drop_workflow(path)
    node = next(node for node in read_nodes(path) if node["type"] == "VideoDeblur_Deblur")
    page.set_widget(node["id"], "preset", "paper")
    page.set_widget(node["id"], "seed", 41)
    page.click_run()
    page.wait_for_event("progress")
    page.click_cancel()
    assert page.wait_for_end(timeout=30)["kind"] == "execution_interrupted"


def test_the_server_logs_no_warning_of_ours(server):
    lines = [line for line in server.log_text().splitlines() if "video" in line.lower()]
    # A template that needs nodes of others is run without them; ours must be there.
    ours = [line for line in lines if "missing_node_type" not in line or "VideoDeblur_" in line]
    assert not [line for line in ours if "warn" in line.lower() or "error" in line.lower()]
