"""Every architecture of the registry, and a newcomer to it."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from video_deblur.cli import main
from video_deblur.models.checkpoint import (
    CheckpointError,
    load_model,
    read_info,
    save_checkpoint,
)
from video_deblur.models.config import DivdConfig
from video_deblur.models.dblrnet import DblrNetConfig
from video_deblur.models.registry import (
    ARCHITECTURES,
    KINDS,
    Architecture,
    architecture_of,
    register,
)
from video_deblur.restoration import load
from video_deblur.restoration.settings import RestorationSettings

from .checkpoint_files import assert_refused, rewrite_envelope
from .small_networks import SMALL, build, every_architecture, write

ROOT = Path(__file__).parents[2]
BARE_PARAMETERS = {"divd": {"SelfAttention", "VisionTransformer"}}
"""Modules with parameters of their own: the image tower has open_clip's names for them."""
every_feed_forward = pytest.mark.parametrize(
    "name", [a.name for a in ARCHITECTURES.values() if a.kind == "feed_forward"]
)


def test_every_architecture_has_a_small_network_here():
    assert list(SMALL) == list(ARCHITECTURES)
    for name, architecture in ARCHITECTURES.items():
        assert architecture.name == name
        assert architecture_of(type(SMALL[name])) is architecture


@every_architecture
def test_what_is_written_is_read(tmp_path, name):
    config = SMALL[name]
    network = build(config)
    path = write(tmp_path, config, network.state_dict())
    info = read_info(path)
    assert (info.architecture, info.config) == (ARCHITECTURES[name], config)
    assert info.provenance == {"steps": 3}
    assert info.num_parameters == sum(
        value.numel() for value in network.state_dict().values() if value.is_floating_point()
    )
    for loaded in (load_model(path), load_model(info)):
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        assert loaded.state_dict().keys() == network.state_dict().keys()
        for key, value in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key
        assert loaded.config == config


@every_architecture
def test_parts_that_make_pixels_may_keep_more_exact_numbers(tmp_path, name):
    architecture = ARCHITECTURES[name]
    network = load_model(
        write(tmp_path, SMALL[name]), dtype=torch.bfloat16, pixel_dtype=torch.float32
    )
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            exact = key.startswith(architecture.pixel_prefixes)
            assert value.dtype == (torch.float32 if exact else torch.bfloat16), key


@every_architecture
def test_info_shows_any_architecture(tmp_path, name, capsys):
    assert main(["info", str(write(tmp_path, SMALL[name]))]) == 0
    shown = capsys.readouterr().out
    architecture = ARCHITECTURES[name]
    assert f"architecture  {name} ({architecture.title}): {architecture.summary}\n" in shown
    assert f"kind          {architecture.kind}\n" in shown
    for prefix in architecture.prefixes:
        assert f"\n  {prefix.removesuffix('.')} " in shown
    for field in dataclasses.fields(SMALL[name]):
        assert f'"{field.name}": ' in shown


class Counted:
    """A namespace of layer classes that are told from `torch.nn`'s."""


for _layer in ("Linear", "Conv2d", "Conv3d", "GroupNorm", "LayerNorm", "Embedding"):
    setattr(Counted, _layer, type(_layer, (getattr(nn, _layer),), {}))
Counted.BatchNorm2d = type("BatchNorm2d", (nn.BatchNorm2d,), {})


@every_architecture
def test_every_layer_with_weights_is_one_of_the_operations(name):
    own = tuple(value for value in vars(Counted).values() if isinstance(value, type))
    network = build(SMALL[name], operations=Counted, dtype=torch.float64)
    layers = [m for m in network.modules() if list(m.parameters(recurse=False))]
    assert layers
    others = {type(m).__name__ for m in layers if not isinstance(m, own)}
    assert others == BARE_PARAMETERS.get(name, set())
    assert {p.dtype for p in network.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    "name", ["nafnet", "DIVD", "", 5, None, ["divd"], {"divd": 1}, "x" * 10_000, "a\nb"]
)
def test_an_unknown_architecture_is_named_with_those_that_are_known(tmp_path, name):
    path = write(tmp_path, SMALL["dblrnet"])
    rewrite_envelope(path, lambda envelope: envelope.update(architecture=name))
    assert_refused(
        path, r"unknown architecture .* \(known: divd, dblrnet, maxim, cpgd\)\. ", read_info
    )


def test_who_needs_one_architecture_is_told_what_a_file_holds(tmp_path):
    path = write(tmp_path, SMALL["dblrnet"])
    assert read_info(path, config_type=DblrNetConfig).config == SMALL["dblrnet"]
    with pytest.raises(CheckpointError) as caught:
        read_info(path, config_type=DivdConfig)
    assert str(caught.value) == (
        f"{path}: holds DBLRNet, a feed-forward network. This needs a checkpoint of DIVD."
    )


@every_feed_forward
def test_a_feed_forward_network_restores_the_middle_frame(name):
    network = build(SMALL[name])
    assert network.num_frames % 2 == 1
    around = torch.rand(network.config.num_frames, 3, 20, 24)
    restored = network.restore_frame(around)
    assert (restored.shape, restored.dtype) == ((3, 20, 24), torch.float32)
    changed = around.clone()
    changed[network.num_frames // 2] *= 0.5
    assert not torch.allclose(network.restore_frame(changed), restored)


@every_feed_forward
def test_a_tile_with_its_reach_around_equals_the_whole_frame(name, assert_same):
    network = build(SMALL[name])
    if network.reach is None:
        pytest.skip("looks at all of the frame")
    reach, size = network.reach, 4
    side = 2 * reach + 3 * size
    around = torch.rand(network.config.num_frames, 3, side, side)
    whole = network.restore_frame(around)
    first, last = size, side - size
    tile = network.restore_frame(around[..., first:last, first:last])
    inside = slice(reach, reach + size)
    assert_same(
        tile[:, inside, inside],
        whole[:, first + reach : first + reach + size, first + reach : first + reach + size],
    )
    # And no less would do.
    middle = first + reach
    changed = around.clone()
    changed[..., middle, middle - reach] += 1
    assert not torch.equal(
        network.restore_frame(changed)[:, middle, middle], whole[:, middle, middle]
    )


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """A newcomer's config."""

    channels: int = 4
    num_frames: int = 1


class Toy(nn.Module):
    """A newcomer's network: all that its own file holds."""

    reach = 1
    bytes_per_pixel = 64

    def __init__(self, config, *, device=None, dtype=None, operations=nn):
        super().__init__()
        self.config = config
        make = {"device": device, "dtype": dtype}
        self.first = operations.Conv2d(3, config.channels, 3, padding=1, **make)
        self.last = operations.Conv2d(config.channels, 3, 1, **make)

    def restore_frame(self, around):
        return around[0] + self.last(self.first(around).relu())[0]


@pytest.fixture
def toy():
    """The newcomer's entry: all that is added to the registry."""
    register(
        Architecture(
            name="toy",
            title="Toy",
            summary="two convolutions",
            kind="feed_forward",
            config_type=ToyConfig,
            build=Toy,
            prefixes=("first.", "last."),
        )
    )
    yield ARCHITECTURES["toy"]
    del ARCHITECTURES["toy"]


def test_a_newcomer_is_written_shown_loaded_and_run(toy, tmp_path, capsys):
    network = build(ToyConfig())
    path = write(tmp_path, ToyConfig(), network.state_dict())
    around = torch.rand(1, 3, 8, 8)
    loaded = load_model(path)
    torch.testing.assert_close(loaded.restore_frame(around), network.restore_frame(around))
    assert main(["info", str(path)]) == 0
    assert "architecture  toy (Toy): two convolutions\n" in capsys.readouterr().out
    # The engine of its kind runs it, and nothing else had to learn its name.
    engine = load.load_deblurrer(path, "cpu", "float32")
    frames = torch.rand(3, 8, 8, 3)
    restored = engine.restore(frames, RestorationSettings(borrow=False))
    expected = loaded.restore_frame(frames[1:2].movedim(-1, 1)).movedim(0, -1)
    torch.testing.assert_close(restored[1], expected.clamp(0, 1))


def test_a_newcomer_s_bad_files_are_refused_as_all_others(toy, tmp_path):
    path = write(tmp_path, ToyConfig())
    rewrite_envelope(path, lambda envelope: envelope["config"].update(channels=10**9))
    assert_refused(path, "has shape|large|built", read_info)
    rewrite_envelope(path, lambda envelope: envelope.update(architecture="tay"))
    assert_refused(
        path,
        r"unknown architecture 'tay' \(known: divd, dblrnet, maxim, cpgd, toy\)",
        read_info,
    )


def test_names_kinds_and_config_classes_are_checked_when_registered(toy):
    for change, message in (
        ({}, "'toy' is registered already"),
        ({"name": "other"}, "'other' has the config class of 'toy'"),
        ({"name": "other", "kind": "magic"}, "kind must be one of diffusion, feed_forward"),
    ):
        with pytest.raises(ValueError, match=message):
            register(dataclasses.replace(toy, **change))
    assert list(ARCHITECTURES) == [*SMALL, "toy"]


def test_a_config_of_no_architecture_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="no architecture has configs of class ToyConfig"):
        save_checkpoint(tmp_path / "a.safetensors", {}, ToyConfig(), provenance={})
    assert not list(tmp_path.iterdir())


def test_a_kind_that_no_engine_runs_is_refused_by_name(tmp_path, monkeypatch):
    path = write(tmp_path, SMALL["dblrnet"])
    monkeypatch.setattr(load, "ENGINES", {"diffusion": load.ENGINES["diffusion"]})
    with pytest.raises(ValueError, match="no engine here runs networks of kind") as caught:
        load.load_deblurrer(path, "cpu")
    assert str(caught.value).startswith(f"{path}: holds DBLRNet, a feed-forward network")


def test_engines_are_of_known_kinds():
    assert set(load.ENGINES) <= set(KINDS)


def test_only_the_registry_lists_architectures():
    allowed = {
        "models/bundled.py",  # a checkpoint that is called what its network is
        "models/registry.py",
        "nodes/checkpoint.py",  # a word that users search the node by
        "training/presets.py",  # what trains a network is named after it
    }
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ROOT.iterdir()
        if folder.is_dir() and folder.name != "tests" and not folder.name.startswith(".")
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in set(ARCHITECTURES)
    }
    assert found == allowed
