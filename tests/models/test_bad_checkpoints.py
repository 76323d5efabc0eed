"""Files that lie or are damaged, of every architecture: refused before memory is taken."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from video_deblur.models.checkpoint import CheckpointError, read_info
from video_deblur.models.registry import ARCHITECTURES

from .checkpoint_files import assert_refused, peak_memory_bytes, rewrite, rewrite_envelope
from .small_networks import SMALL, build, every_architecture, first_weight, write


@every_architecture
@pytest.mark.parametrize("cut", [1, 500])
def test_truncated_files_are_refused(tmp_path, name, cut):
    path = write(tmp_path, SMALL[name])
    path.write_bytes(path.read_bytes()[:-cut])
    assert_refused(path, "truncated or damaged", read_info)


@every_architecture
def test_weights_of_another_shape_or_name_are_refused(tmp_path, name):
    config = SMALL[name]
    key = first_weight(config)
    weights = dict(build(config).state_dict())
    wrong = {**weights, key: torch.zeros(1, 2, 3)}
    assert_refused(write(tmp_path, config, wrong), r"has shape \[1, 2, 3\]", read_info)
    more = {**weights, f"{key}.more": torch.zeros(1)}
    assert_refused(write(tmp_path, config, more), "has unknown weight", read_info)
    weights.pop(key)
    assert_refused(write(tmp_path, config, weights), f"is missing weight '{key}'", read_info)


@every_architecture
def test_a_part_that_is_missing_is_named(tmp_path, name):
    for prefix in ARCHITECTURES[name].prefixes:
        weights = {
            key: value
            for key, value in build(SMALL[name]).state_dict().items()
            if not key.startswith(prefix)
        }
        path = write(tmp_path, SMALL[name], weights)
        assert_refused(path, f"has no '{prefix}' weights, which .* needs", read_info)


@every_architecture
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, value):
    weights = {key: v.clone() for key, v in build(SMALL[name]).state_dict().items()}
    key = first_weight(SMALL[name])
    weights[key].view(-1)[0] = value
    assert_refused(write(tmp_path, SMALL[name], weights), f"'{key}' has values that are not")


def fields(config):
    """Yield the path and value of every field of a config."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from (((name, *where), inner) for where, inner in fields(value))
        else:
            yield (name,), value


def set_field(path, where, value):
    """Change one field of the config in a checkpoint."""

    def change(envelope):
        config = envelope["config"]
        for part in where[:-1]:
            config = config[part]
        config[where[-1]] = value

    rewrite_envelope(path, change)


@every_architecture
@pytest.mark.parametrize("number", [128, 65536, 2**40, 10**300])
def test_configs_of_huge_networks_are_refused_at_once(tmp_path, name, number):
    path = write(tmp_path, SMALL[name])
    honest = path.read_bytes()
    for where, value in fields(dataclasses.asdict(SMALL[name])):
        if type(value) is not int:
            continue
        path.write_bytes(honest)
        set_field(path, where, number)
        started, memory = time.process_time(), peak_memory_bytes()
        try:
            read_info(path)
        except CheckpointError as error:
            message = str(error)
            assert message.startswith(f"{path}: ")
            assert len(message) < 600
            assert "\n" not in message
        else:
            assert number <= 65536
        assert time.process_time() - started < 5
        assert peak_memory_bytes() - memory < 200e6


@every_architecture
def test_fields_of_another_type_are_named_in_a_short_line(tmp_path, name):
    path = write(tmp_path, SMALL[name])
    honest = path.read_bytes()
    for where, _ in fields(dataclasses.asdict(SMALL[name])):
        path.write_bytes(honest)
        set_field(path, where, "x" * 10_000)
        assert_refused(path, rf"config\.{'.'.join(where)}|{where[-1]} must be", read_info)
    path.write_bytes(honest)
    set_field(path, ("y" * 10_000,), 1)
    assert_refused(path, "unknown field 'yyy", read_info)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("divd", lambda config: config["unet"].update(layers_per_block=128)),
        ("divd", lambda config: config["image_encoder"].update(layers=128)),
        ("divd", lambda config: config["autoencoder"].update(blocks=[128, 128])),
        ("dblrnet", lambda config: config.update(num_units=128)),
    ],
)
def test_more_layers_than_a_file_has_weights_are_not_built(tmp_path, name, change):
    path = write(tmp_path, SMALL[name])
    rewrite_envelope(path, lambda envelope: change(envelope["config"]))
    assert_refused(path, "impossibly large network for the .* weights in the file", read_info)


@every_architecture
def test_a_huge_claim_is_refused_before_anything_is_allocated(tmp_path, name):
    key = first_weight(SMALL[name])
    path = write(tmp_path, SMALL[name])
    rewrite(path, lambda header: header[key].update(shape=[2**50, 2**50]))
    memory = peak_memory_bytes()
    assert_refused(path, "has shape")
    assert peak_memory_bytes() - memory < 100e6
