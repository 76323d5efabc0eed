"""The lists that must agree with the folders."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA_FOLDERS = ("models/weights", "evaluation/demo_clips", "locales", "web", "workflows")
CODE_FOLDERS = (
    *("cli", "images", "jobs", "restoration", "synthesis", "training", "video"),
    *("evaluation", "models", "nodes", "benchmarks"),
)
TOP_LEVEL_FILES = {
    ".comfyignore",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
}


def test_every_package_is_listed():
    folders = {
        ".".join(["video_deblur", *path.parent.relative_to(ROOT).parts])
        for path in ROOT.glob("*/**/__init__.py")
        if path.relative_to(ROOT).parts[0] not in {"tests", "build"}
        and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({"video_deblur", *folders})
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"video_deblur": "."}


def test_nothing_but_the_project_lies_at_the_top():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode != 0:
        pytest.skip("no git checkout")
    at_top = {name for name in tracked.stdout.splitlines() if "/" not in name}
    assert at_top == TOP_LEVEL_FILES


def test_every_data_file_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["video_deblur"]
    files = [f for folder in DATA_FOLDERS for f in (ROOT / folder).rglob("*") if f.is_file()]
    files += [
        file
        for folder in CODE_FOLDERS
        for file in (ROOT / folder).glob("*.*")
        if file.suffix not in {".py", ".pyc"} and not file.name.startswith(".")
    ]
    names = [file.relative_to(ROOT).as_posix() for file in files if file.name != ".gitkeep"]
    assert [name for name in names if not any(fnmatch(name, p) for p in patterns)] == []
    for needed in (f"{folder}/" for folder in DATA_FOLDERS):
        assert any(pattern.startswith(needed) for pattern in patterns)


def test_requirements_are_the_project_dependencies():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert wanted == PROJECT["project"]["dependencies"]


def test_requirements_have_no_upper_bounds():
    for requirement in PROJECT["project"]["dependencies"]:
        assert not re.search(r"<|==|~=|===|!=", requirement), requirement


def test_dependencies_are_static_and_the_version_is_three_numbers():
    assert "dynamic" not in PROJECT["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["project"]["version"])
    assert PROJECT["project"]["name"] == "video-deblur"
    assert "comfyui" not in PROJECT["project"]["name"].lower()


def test_the_licence_file_is_the_apache_licence():
    assert PROJECT["project"]["license"]["file"] == "LICENSE"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0" in text


def test_every_workflow_has_a_thumbnail():
    files = [path for path in (ROOT / "workflows").glob("*") if path.is_file()]
    graphs = [path for path in files if path.suffix == ".json"]
    assert bool(files) == bool(graphs)
    without = [path.name for path in graphs if not path.with_suffix(".jpg").is_file()]
    assert not without
    lonely = [
        p.name for p in files if p.suffix == ".jpg" and p.with_suffix(".json") not in graphs
    ]
    assert not lonely


@pytest.fixture(scope="module")
def archive() -> set[str]:
    """What the registry's package holds: git's files but those that .comfyignore names.

    Its rules are git's, so git applies them.
    """

    def listed(*options: str) -> set[str]:
        command = ["git", "ls-files", *options]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            pytest.skip("no git checkout")
        return set(found.stdout.splitlines())

    return listed() - listed("--cached", "--ignored", "--exclude-from=.comfyignore")


def imported_files(path: Path) -> set[Path]:
    """Return the files of the package that one imports at run time, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = path.parents[node.level - 1]
        target = folder.joinpath(*(node.module or "").split(".")) if node.module else folder
        names = [target.joinpath(alias.name) for alias in node.names]
        for each in (target, *names):
            found |= {f for f in (each.with_suffix(".py"), each / "__init__.py") if f.is_file()}
    return found


def run_time_files(start: Path) -> set[str]:
    """Return all files of the package that importing and using one may load."""
    pending, seen = [start], {start}
    while pending:
        fresh = imported_files(pending.pop()) - seen
        seen |= fresh
        pending += fresh
    return {path.relative_to(ROOT).as_posix() for path in seen}


def test_the_registry_package_holds_all_that_runs(archive):
    needed = run_time_files(ROOT / "__init__.py") | run_time_files(ROOT / "cli/__main__.py")
    assert len(needed) > 100
    assert needed - archive == set()
    data = {
        path.relative_to(ROOT).as_posix()
        for folder in DATA_FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.name != ".gitkeep"
    }
    assert data - archive == set()
    assert {"LICENSE", "README.md", "pyproject.toml", "requirements.txt"} <= archive


def test_the_registry_package_holds_nothing_that_only_developers_need(archive):
    folders = {name.partition("/")[0] for name in archive if "/" in name}
    assert folders & {"tests", "benchmarks", "docs", ".ci"} == set()
    lines = (ROOT / ".comfyignore").read_text().splitlines()
    # Without a slash in front, `docs/` is `web/docs/` as well.
    assert [line for line in lines if not line.startswith("/")] == []


def test_help_pages_and_templates_cite_nothing_that_is_not_packed(archive):
    pages = sorted((ROOT / "web").rglob("*.md")) + sorted((ROOT / "workflows").glob("*.json"))
    cited = {
        (page.name, name)
        for page in pages
        for name in re.findall(
            r"\b(?:docs|tests|benchmarks|evaluation|training)/[\w/.-]*\w",
            page.read_text(encoding="utf-8"),
        )
    }
    assert {(page, name) for page, name in cited if name not in archive} == set()


NODE_PACKAGES = {"torch", "numpy", "safetensors", "einops", "av", "cv2"}
COMFYUI = {
    *("comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview"),
    # What it reads upscale models with; here the command alone needs them.
    *("spandrel", "spandrel_extra_arches"),
}


def test_nodes_import_only_what_comfyui_has_and_opencv():
    found = set()
    for name in run_time_files(ROOT / "__init__.py"):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    assert found - sys.stdlib_module_names - COMFYUI - NODE_PACKAGES == set()


def test_the_table_of_packages_is_that_of_the_project():
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "docs/packages.md").read_text(), re.MULTILINE
    )
    table = {package: installed.strip("`") for package, installed, _ in rows}
    named = [re.split(r"[\[>=]", each)[0] for each in PROJECT["project"]["dependencies"]]
    expected = dict.fromkeys(named, "always")
    for extra, packages in PROJECT["project"]["optional-dependencies"].items():
        for package in packages:
            name = re.split(r"[\[>=]", package)[0]
            if name != PROJECT["project"]["name"]:
                expected.setdefault(name, extra)
    assert table == expected
    imported_as = {"opencv-python": "cv2"}
    by_nodes = {imported_as.get(name, name) for name, _, use in rows if "nodes," in use}
    assert by_nodes == NODE_PACKAGES


def test_sources_can_be_shown_on_a_windows_console():
    """Tracebacks do, and comfy-test refuses what code page 1252 does not know."""
    unknown = []
    for path in ROOT.glob("**/*.py"):
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            try:
                path.read_text(encoding="utf-8").encode("cp1252")
            except UnicodeEncodeError as error:
                unknown.append(f"{path}: {error}")
    assert unknown == []
