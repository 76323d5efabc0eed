"""The extension as the registry packs it, without the packages that it must not need."""

from __future__ import annotations

import builtins
import importlib.util
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from video_deblur.benchmarks.comfyui_server import FOLDER_NAME, ComfyServer, make_base_directory

from .conftest import REPOSITORY

ALLOWED = ("torch", "numpy", "safetensors", "einops", "av", "cv2")

_BLOCK = """
import builtins, sys

ALLOWED = {allowed!r}
COMFYUI = ("comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview")
original = builtins.__import__


def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    top = name.partition(".")[0]
    ours = {folder!r} in str((globals or {{}}).get("__file__", ""))
    if ours and not level and top not in (*ALLOWED, *COMFYUI, *sys.stdlib_module_names):
        raise ImportError(f"the test blocks {{name}}")
    return original(name, globals, locals, fromlist, level)


builtins.__import__ = guarded
NODE_CLASS_MAPPINGS = {{}}
"""


def packed_files() -> list[str]:
    def listed(*options: str) -> set[str]:
        command = ["git", "ls-files", *options]
        found = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        if found.returncode != 0:
            pytest.skip("no git checkout: the registry's package cannot be listed")
        return set(found.stdout.splitlines())

    return sorted(listed() - listed("--cached", "--ignored", "--exclude-from=.comfyignore"))


@pytest.fixture(scope="module")
def packed_server(
    comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    if importlib.util.find_spec("requests") is None:
        pytest.skip("the package requests is missing: ComfyUI server tests skipped")
    base = tmp_path_factory.mktemp("packed")
    make_base_directory(base, REPOSITORY)
    folder = base / "custom_nodes" / FOLDER_NAME
    folder.unlink()
    for name in packed_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    # ComfyUI loads extensions by name: this one comes first.
    (base / "custom_nodes" / "000_block.py").write_text(
        _BLOCK.format(allowed=ALLOWED, folder=str(folder))
    )
    server = ComfyServer(comfyui_path, base)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def every_node() -> dict:
    """Return a graph that runs each node once."""

    def node(kind: str, **inputs: object) -> dict:
        return {"class_type": f"VideoDeblur_{kind}", "inputs": inputs}

    checkpoint = {"checkpoint": "divd-tiny (bundled)"}
    restore = {**checkpoint, "preset": "fast", "strength": 1.0, "seed": 0, "skip_sharp": True}
    sample = {"seed": 0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "denoise": 1.0}
    sample |= {"scheduler": "simple", "window": 16, "overlap": 8, "tile": 0}
    return {
        "clip": node("ExampleClip", clip="shake"),
        "load": node("LoadCheckpoint", **checkpoint, dtype="auto"),
        "encode": node("EncodeFrames", encoder=["load", 2], frames=["clip", 1]),
        "sample": node(
            "Sample",
            model=["load", 0],
            positive=["encode", 0],
            negative=["encode", 1],
            latent=["encode", 2],
            **sample,
        ),
        "decode": node(
            "DecodeLatents",
            vae=["load", 1],
            latent=["sample", 0],
            strength=1.0,
            color_match=False,
        ),
        "borrow": node("Borrow", frames=["decode", 0], scene_cuts=True),
        "measure": node("MeasureBlur", frames=["borrow", 0]),
        "frames": node("Deblur", frames=["clip", 1], **restore),
        "blur": node(
            "SynthesizeBlur", sharp=["frames", 0], amount=9.0, seed=1, length=1, pauses=False
        ),
        "fidelity": node("MeasureRestoration", restored=["blur", 0], sharp=["blur", 1]),
        "compare": node(
            "Compare",
            before=["blur", 0],
            after=["blur", 1],
            view="crops",
            position=0.5,
            labels=True,
        ),
        "priors": node("CodingPriors", video=["clip", 0], source="auto", scale=0.0),
        "video": node("DeblurVideo", video=["clip", 0], codec="h264", crf=14, **restore),
        "saved video": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["video", 0], "filename_prefix": "packed", "format": "auto"}
            | {"format.codec": "auto", "codec": "auto"},
        },
        "saved frames": {
            "class_type": "SaveImage",
            "inputs": {"images": ["frames", 0], "filename_prefix": "packed"},
        },
        "saved pictures": {
            "class_type": "SaveImage",
            "inputs": {"images": ["compare", 0], "filename_prefix": "packed"},
        },
        "saved priors": {
            "class_type": "SaveImage",
            "inputs": {"images": ["priors", 0], "filename_prefix": "packed"},
        },
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["measure", 2]}},
        "figures": {"class_type": "PreviewAny", "inputs": {"source": ["fidelity", 2]}},
    }


def test_every_node_runs_from_the_package_with_nothing_else(packed_server, extension_nodes):
    graph = every_node()
    assert {n["class_type"] for n in graph.values()} >= set(extension_nodes)
    saved = packed_server.run(graph, timeout=240)
    assert {path.suffix for path in saved} == {".mp4", ".png"}
    assert "the test blocks" not in packed_server.log_text()


def test_the_block_works(tmp_path):
    """Or the test above could not fail."""
    original, path = builtins.__import__, tmp_path / "block.py"
    path.write_text(_BLOCK.format(allowed=ALLOWED, folder="/ours/"))
    try:
        namespace = runpy.run_path(str(path))
    finally:
        builtins.__import__ = original
    ours, theirs = {"__file__": "/ours/a.py"}, {"__file__": "/theirs/a.py"}
    with pytest.raises(ImportError, match="the test blocks pytest"):
        namespace["guarded"]("pytest", ours)
    namespace["guarded"]("pytest", theirs)
    namespace["guarded"]("json", ours)


def test_help_pages_and_templates_come_with_the_package(packed_server, extension_nodes):
    import requests

    for node_id in extension_nodes:
        url = f"{packed_server.url}/extensions/{FOLDER_NAME}/docs/{node_id}.md"
        assert requests.get(url, timeout=10).text.startswith("# ")
    listed = requests.get(f"{packed_server.url}/workflow_templates", timeout=10).json()
    names = {path.stem for path in (REPOSITORY / "workflows").glob("*.json")}
    assert set(listed[FOLDER_NAME]) == names
