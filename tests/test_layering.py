"""The rules on who may import whom, read from the source with ast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("video", "images", "models", "synthesis", "restoration", "jobs", "training"),
    *("evaluation", "cli", "benchmarks", "nodes"),
)
COMFYUI = {
    *("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths"),
    *("execution", "latent_preview", "node_helpers", "nodes", "server"),
}
HEAVY = {
    *("diffusers", "open_clip", "transformers", "accelerate", "ray", "torchmetrics"),
    "skimage",
}
MAY_IMPORT = {
    "": {"nodes"},
    "video": {"video"},
    "images": {"images", "video"},
    "models": {"models"},
    "synthesis": {"synthesis", "images", "video", "models"},
    "restoration": {"restoration", "video", "models"},
    "jobs": {"jobs", "restoration", "images", "video", "models"},
    "training": {"training", "synthesis", "restoration", "images", "video", "models"},
    "evaluation": {"evaluation", "jobs", "restoration", "images", "video", "models"},
    "nodes": set(FOLDERS) - {"training", "cli", "benchmarks"},
    "cli": set(FOLDERS) - {"nodes", "benchmarks"},
    "benchmarks": set(FOLDERS) - {"nodes"},
}
"""By folder; "" is the root's `__init__.py`."""
FILE_ACCESS = {"bundled.py", "checkpoint.py", "tensor_file.py"}
"""Files of `models` that may open files, beside `import_weights`."""


def sources() -> list[Path]:
    files = [*ROOT.glob("*.py")]
    for folder in FOLDERS:
        files += (ROOT / folder).rglob("*.py")
    return sorted(files)


def folder_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(node: ast.AST, inside_function: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield the import statements that run, and whether a function holds them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, inside_function
        elif only_for_types(child):
            continue
        else:
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(child, inside_function or function)


def absolute_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name.partition(".")[0] for alias in statement.names]
    assert isinstance(statement, ast.ImportFrom)
    return [] if statement.level else [str(statement.module).partition(".")[0]]


def relative_targets(path: Path, statement: ast.stmt) -> list[str]:
    """Return the folders of the package that a statement reaches; "" is the root."""
    if not isinstance(statement, ast.ImportFrom) or not statement.level:
        return []
    package = path.relative_to(ROOT).parent.parts
    assert statement.level - 1 <= len(package), f"{path}: import leaves the package"
    base = package[: len(package) - statement.level + 1]
    if statement.module:
        base = (*base, *statement.module.split("."))
    reached = [base[0]] if base else [alias.name for alias in statement.names]
    return [name if name in FOLDERS else "" for name in reached]


def parsed() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sources()]


def test_the_rules_see_the_whole_package():
    names = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert {"__init__.py", "models/unet3d.py", "restoration/engine.py"} <= names
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders <= set(FOLDERS)


def test_only_nodes_import_comfyui():
    wrong = [
        f"{path.relative_to(ROOT)}:{statement.lineno}"
        for path, tree in parsed()
        if folder_of(path) != "nodes"
        for statement, _ in imports(tree)
        if COMFYUI & set(absolute_names(statement))
    ]
    assert not wrong


def test_imports_inside_the_package_are_relative():
    own = {"video_deblur", *FOLDERS} - {"nodes"}
    wrong = [
        f"{path.relative_to(ROOT)}:{statement.lineno}"
        for path, tree in parsed()
        for statement, _ in imports(tree)
        if own & set(absolute_names(statement))
    ]
    assert not wrong


def test_dependencies_point_one_way():
    wrong = []
    for path, tree in parsed():
        folder = folder_of(path)
        for statement, _ in imports(tree):
            for target in relative_targets(path, statement):
                # "": the version, which the root holds.
                if target and target not in MAY_IMPORT[folder]:
                    line = f"{path.relative_to(ROOT)}:{statement.lineno}"
                    wrong.append(f"{line} imports {target}")
    assert not wrong


def test_the_root_imports_nothing_when_it_is_imported():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    at_once = [name for s, inside in imports(tree) if not inside for name in absolute_names(s)]
    assert set(at_once) <= {"__future__", "typing"}


def test_heavy_packages_are_imported_where_their_work_starts():
    wrong = [
        f"{path.relative_to(ROOT)}:{statement.lineno}"
        for path, tree in parsed()
        for statement, inside_function in imports(tree)
        if not inside_function and HEAVY & set(absolute_names(statement))
    ]
    assert not wrong


def test_networks_do_no_file_access_except_checkpoints():
    forbidden = {
        *("open", "read_bytes", "read_text", "write_bytes", "write_text", "mkdir", "unlink"),
        *("safe_open", "save_file", "load_file", "imread", "imwrite", "iterdir", "glob"),
    }
    wrong = []
    for path, tree in parsed():
        if folder_of(path) != "models" or path.name in FILE_ACCESS:
            continue
        if "import_weights" in path.parts:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", None))
                owner = getattr(getattr(node.func, "value", None), "id", None)
                if name in forbidden or (owner, name) in {("torch", "load"), ("torch", "save")}:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {name}")
        for statement, _ in imports(tree):
            if {"pathlib", "os", "io", "shutil", "tempfile"} & set(absolute_names(statement)):
                wrong.append(f"{path.relative_to(ROOT)}:{statement.lineno} imports for files")
    assert not wrong


def loaded_after(*modules: str) -> set[str]:
    code = (
        f"import sys, {', '.join(modules)}; print(*(n.partition('.')[0] for n in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("video_deblur", HEAVY | COMFYUI | {"torch", "numpy", "cv2", "av", "einops"}),
        ("video_deblur.restoration.engine", HEAVY | COMFYUI | {"torchvision"}),
        # So that training on photos runs where PyAV is not installed.
        ("video_deblur.training.recipe", HEAVY | COMFYUI | {"torchvision", "av"}),
        ("video_deblur.models.checkpoint", HEAVY | COMFYUI | {"torchvision", "cv2", "av"}),
    ],
)
def test_importing_the_engine_loads_no_heavy_package(module, unwanted):
    assert not loaded_after(module) & unwanted
