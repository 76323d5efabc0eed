"""ComfyUI imported into the test process, so that node classes can be called directly.

ComfyUI's modules have top-level names (`nodes`, `execution`, `folder_paths`, ...), parse the
command line and choose a device at import. `import_comfy` settles the three before anything
else of ComfyUI is imported; `load_extension` loads this repository as ComfyUI itself would.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import warnings
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from video_deblur.benchmarks.comfyui_server import FOLDER_NAME, wants_gpu

_MODULES = (
    "comfy.model_management",
    "comfy.model_base",
    "comfy.model_patcher",
    "comfy.model_sampling",
    "comfy.sample",
    "comfy.samplers",
    "comfy.sd",
    "comfy.utils",
    "execution",
    "folder_paths",
    "latent_preview",
    "nodes",
    "comfy_api.latest",
)


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in a thread: an open browser already owns this one's loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def import_comfy(comfyui_path: Path, base: Path) -> SimpleNamespace:
    """Import ComfyUI from its checkout, with all its folders under `base`.

    Returns:
        The modules by their last name (`comfy.model_management`, `comfy.nodes`,
        `comfy.folder_paths`, ...); `comfy.api` is `comfy_api.latest`; `comfy.base` is `base`.
    """
    known = sys.modules.get("nodes")
    if known is not None and not _is_inside(known, comfyui_path):
        raise RuntimeError(
            f"a module called `nodes` is already imported from {known!r}: ComfyUI's own "
            "nodes.py cannot be. Run pytest from the repository root."
        )
    sys.path.insert(0, str(comfyui_path))
    with warnings.catch_warnings():
        # ComfyUI and its requirements warn at import about each other's deprecations.
        warnings.simplefilter("ignore")
        args = importlib.import_module("comfy.cli_args").args  # parses [], not sys.argv
        args.cpu = not wants_gpu()
        args.base_directory = str(base)  # folder_paths reads it at import
        args.disable_api_nodes = True
        modules = {name.rpartition(".")[2]: importlib.import_module(name) for name in _MODULES}
    if not _is_inside(modules["nodes"], comfyui_path):
        raise RuntimeError(f"`import nodes` gave {modules['nodes']!r}, not ComfyUI's nodes.py")
    modules["api"] = modules.pop("latest")
    return SimpleNamespace(**modules, base=base)


def load_stock_extras(comfy: SimpleNamespace) -> None:
    """Register the nodes of `comfy_extras/` (samplers, video, upscaling, ...) in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_async(comfy.nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def load_extension(comfy: SimpleNamespace, folder: Path | None = None) -> dict[str, type]:
    """Load an extension folder (default: this repository) through ComfyUI's own loader.

    Returns:
        The extension's node classes by node id.

    Raises:
        RuntimeError: If ComfyUI reports that the import failed (the log holds the traceback).
    """
    before = set(comfy.nodes.NODE_CLASS_MAPPINGS)
    folder = folder or comfy.base / "custom_nodes" / FOLDER_NAME
    if not run_async(comfy.nodes.load_custom_node(str(folder), module_parent="custom_nodes")):
        raise RuntimeError(f"{folder}: IMPORT FAILED, see the captured log for the traceback")
    added = set(comfy.nodes.NODE_CLASS_MAPPINGS) - before
    return {node_id: comfy.nodes.NODE_CLASS_MAPPINGS[node_id] for node_id in sorted(added)}


_instances: dict[str, Any] = {}
"""Of the nodes that were called: the executor keeps one of each node of a graph."""


def forget_instances() -> None:
    """Give up what the executor would when it is told to free memory."""
    _instances.clear()


def call_node(comfy: SimpleNamespace, node_id: str, **inputs: Any) -> tuple[Any, ...]:
    """Run one node as the executor would and return its outputs.

    Widgets that are not given take the schema's default (a combo its first option).
    Gradients are off, as in ComfyUI.

    Raises:
        TypeError: If a required input without a default is missing, or an input is unknown.
    """
    import torch

    node_class = comfy.nodes.NODE_CLASS_MAPPINGS[node_id]
    values = _with_defaults(node_id, node_class.INPUT_TYPES(), inputs)
    with torch.inference_mode():
        if hasattr(node_class, "define_schema"):
            _instances[node_id] = _instances.get(node_id) or node_class()
            prepared = node_class.PREPARE_CLASS_CLONE(None)
            result = getattr(prepared, node_class.FUNCTION)(**values)
        else:
            result = getattr(node_class(), node_class.FUNCTION)(**values)
        if asyncio.iscoroutine(result):
            result = run_async(result)
    outputs = getattr(result, "args", result)
    if isinstance(outputs, dict):
        outputs = outputs.get("result", ())
    return tuple(outputs or ())


def _with_defaults(
    node_id: str, input_types: dict[str, dict], given: dict[str, Any]
) -> dict[str, Any]:
    required = input_types.get("required", {})
    optional = input_types.get("optional", {})
    unknown = sorted(set(given) - set(required) - set(optional))
    if unknown:
        raise TypeError(f"{node_id} has no input {unknown}; it has {[*required, *optional]}")
    values = dict(given)
    for name, spec in {**optional, **required}.items():
        if name in values:
            continue
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        choices = kind if isinstance(kind, list) else options.get("options", [])
        if "default" in options:
            values[name] = options["default"]
        elif choices:
            values[name] = choices[0]
        elif name in required:
            raise TypeError(f"{node_id} needs the input {name!r} ({kind})")
    return values


def _is_inside(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder.resolve())
