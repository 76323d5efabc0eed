"""What the repository says to contributors is what is done."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import cv2
import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]


def _workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def _pyproject(pattern: str) -> str:
    found = re.search(pattern, (ROOT / "pyproject.toml").read_text())
    assert found is not None, pattern
    return found[1]


def test_the_tests_run_what_must_pass_on_the_oldest_python_that_is_supported() -> None:
    job = _workflow("tests.yml")["jobs"]["package"]
    assert {"run": ".ci/run"} in job["steps"]
    oldest = _pyproject(r'requires-python = ">=([0-9.]+)"')
    assert oldest in job["strategy"]["matrix"]["python"]


def test_the_node_tests_name_the_oldest_comfyui_that_is_supported() -> None:
    job = _workflow("tests.yml")["jobs"]["nodes"]
    oldest = _pyproject(r'requires-comfyui = ">=([0-9.]+)"')
    versions = job["strategy"]["matrix"]["comfyui"]
    assert f"v{oldest}" in versions
    assert len(versions) >= 2


def test_publishing_needs_a_secret() -> None:
    steps = _workflow("publish.yml")["jobs"]["registry"]["steps"]
    publish = next(step for step in steps if "publish" in step.get("uses", ""))
    assert publish["if"] == "env.TOKEN != ''"


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")))
def test_issue_forms_have_unique_fields(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))


def test_faults_come_with_the_log_and_the_checkpoint() -> None:
    text = (ROOT / ".github/ISSUE_TEMPLATE/fault.yml").read_text()
    assert "video-deblur info" in text
    assert "log" in text


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_address_that_is_not_known_stands_in_one_file_and_is_filled_in() -> None:
    place = "OWNER/" + "video-deblur"
    command = ["git", "grep", "--files-with-matches", place]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode == 128:
        pytest.skip("no git checkout")
    assert set(found.stdout.split()) == {"pyproject.toml", ".github/workflows/publish.yml"}
    steps = _workflow("publish.yml")["jobs"]["registry"]["steps"]
    runs = [step.get("run", "") for step in steps]
    filled = next(i for i, run in enumerate(runs) if f"s|{place}|$GITHUB_REPOSITORY|" in run)
    published = next(i for i, step in enumerate(steps) if "publish" in step.get("uses", ""))
    assert filled < published


def test_the_version_is_the_same_everywhere() -> None:
    version = _pyproject(r'(?m)^version = "([^"]+)"')
    assert f'__version__ = "{version}"' in (ROOT / "__init__.py").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(("key", "ratio", "most"), [("Icon", 1, 400), ("Banner", 21 / 9, 4000)])
def test_icon_and_banner_have_the_shape_that_the_registry_wants(
    key: str, ratio: float, most: int
) -> None:
    path = ROOT / _pyproject(rf'(?m)^{key} = "https://\S+/HEAD/(\S+)"')
    height, width = cv2.imread(str(path)).shape[:2]
    assert width / height == pytest.approx(ratio, rel=0.01)
    assert width <= most
