"""The lists that must agree with the folders."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA_FOLDERS = ("models/weights", "evaluation/demo_clips", "web", "workflows")
CODE_FOLDERS = (
    *("cli", "jobs", "restoration", "synthesis", "training", "video"),
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
    for needed in ("models/weights/", "evaluation/demo_clips/", "web/docs/", "workflows/"):
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


def test_the_shipped_files_are_not_ignored_by_the_registry():
    lines = (ROOT / ".comfyignore").read_text().splitlines()
    # The rules are git's: without a slash in front, `docs/` is `web/docs/` as well.
    assert [line for line in lines if not line.startswith("/")] == []
    needed = {"models", "models/weights", "web", "web/docs", "workflows"}
    needed |= {"evaluation/demo_clips", "synthesis", "video", "restoration", "jobs", "nodes"}
    assert not needed & {line.strip("/") for line in lines}
