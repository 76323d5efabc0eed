"""Fixtures for tests against a real ComfyUI.

`COMFYUI_PATH` names a ComfyUI checkout whose requirements are installed in this environment
(besides: `requests`, and `playwright` with an installed Chromium for the browser tests).
Whatever uses one of these fixtures carries the mark `comfyui` and skips without it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from video_deblur.benchmarks.comfyui_server import ComfyServer, make_base_directory

from ..conftest import NO_COMFYUI
from . import browser as browser_module
from . import comfy_process

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).resolve().parents[2]
GRAPHS = Path(__file__).resolve().parent / "graphs"

# ComfyUI and the packages it brings use deprecated calls of each other; a warning of our own
# code should still fail the test.
_FOREIGN_WARNINGS = [
    "ignore::DeprecationWarning",
    "ignore::PendingDeprecationWarning",
    "ignore::FutureWarning",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        if "comfyui_path" in getattr(item, "fixturenames", ()):
            item.add_marker("comfyui")
        if item.get_closest_marker("comfyui"):
            for rule in _FOREIGN_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(rule))


@pytest.fixture(autouse=True)
def _skip_marked_tests_without_comfyui(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("comfyui"):
        request.getfixturevalue("comfyui_path")


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The ComfyUI checkout; skips when there is none."""
    value = os.environ.get("COMFYUI_PATH", "")
    if not value or not (Path(value) / "main.py").is_file():
        pytest.skip(NO_COMFYUI)
    return Path(value).resolve()


@pytest.fixture(scope="session")
def comfy(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """ComfyUI's modules in this process, stock nodes registered; see `import_comfy`."""
    base = tmp_path_factory.mktemp("comfy_in_process")
    make_base_directory(base, REPOSITORY)
    modules = comfy_process.import_comfy(comfyui_path, base)
    comfy_process.load_stock_extras(modules)
    return modules


@pytest.fixture(scope="session")
def extension_nodes(comfy: SimpleNamespace) -> dict[str, type]:
    """Our node classes by id, loaded by ComfyUI's own loader."""
    return comfy_process.load_extension(comfy)


@pytest.fixture(scope="session")
def call_node(comfy: SimpleNamespace) -> Iterator[Any]:
    """`call_node(node_id, **inputs) -> outputs`, in this process with schema defaults."""

    def call(node_id: str, **inputs: Any) -> tuple[Any, ...]:
        return comfy_process.call_node(comfy, node_id, **inputs)

    yield call
    comfy_process.forget_instances()


@pytest.fixture(scope="session")
def comfy_server(
    comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A running server whose only custom node is this repository."""
    if importlib.util.find_spec("requests") is None:
        pytest.skip("the package requests is missing: ComfyUI server tests skipped")
    base = tmp_path_factory.mktemp("comfy_server")
    make_base_directory(base, REPOSITORY)
    server = ComfyServer(comfyui_path, base)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def chromium(comfyui_path: Path) -> Iterator[Browser]:
    """A headless browser; skips when playwright or Chromium is missing."""
    executable = browser_module.find_chromium()
    if executable is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright or Chromium is missing: browser tests skipped")
    with browser_module.launch_chromium(executable) as running:
        yield running


@pytest.fixture
def comfy_page(
    chromium: Browser, comfy_server: ComfyServer
) -> Iterator[browser_module.ComfyPage]:
    """A fresh tab (nothing remembered from other tests), not opened yet: call `open`."""
    context = browser_module.new_context(chromium)
    try:
        yield browser_module.ComfyPage(context.new_page(), comfy_server.url)
    finally:
        context.close()


@pytest.fixture(scope="session")
def graphs() -> Path:
    """Folder of the graphs that only tests use."""
    return GRAPHS


@pytest.fixture(scope="session")
def random_checkpoint(comfy: SimpleNamespace, extension_nodes: dict[str, type]) -> Path:
    """A random checkpoint that the nodes of this process list as `random.safetensors`."""
    from .checkpoints import write_random_checkpoint

    return write_random_checkpoint(comfy.base / "models" / "video_deblur")


@pytest.fixture(scope="session")
def cpgd_files(random_checkpoint: Path) -> dict[str, Path]:
    """Checkpoints of CPGD-Net that the nodes list, by the names of `checkpoints.STAGES`."""
    from .checkpoints import STAGES, write_cpgd_checkpoint

    return {
        name: write_cpgd_checkpoint(random_checkpoint.with_name(name), second_stage=stage == 2)
        for stage, name in STAGES.items()
    }


@pytest.fixture(scope="session")
def our_module(extension_nodes: dict[str, type]) -> Any:
    """`our_module(name)`: a module of the extension as ComfyUI loaded it."""
    package = extension_nodes["VideoDeblur_Deblur"].__module__.partition(".nodes.")[0]
    return lambda name: importlib.import_module(f"{package}.{name}")


@pytest.fixture
def load_in_nodes(extension_nodes: dict[str, type], our_module: Any) -> Iterator[Any]:
    """Load a checkpoint as the nodes do; it is kept as long as by a graph with one."""
    node = extension_nodes["VideoDeblur_LoadCheckpoint"]()
    yield our_module("nodes.checkpoint").load_checkpoint
    del node


@pytest.fixture(scope="session")
def converted_checkpoint(
    comfy: SimpleNamespace, extension_nodes: dict[str, type], tmp_path_factory: Any
) -> Path:
    """A checkpoint from TF-T2V's layout that the nodes list as `converted.safetensors`."""
    from .checkpoints import write_converted_checkpoint

    sources = tmp_path_factory.mktemp("published")
    return write_converted_checkpoint(comfy.base / "models" / "video_deblur", sources)
