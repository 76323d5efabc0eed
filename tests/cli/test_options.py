from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest
from video_deblur.cli.options import add_engine_options, settings_of
from video_deblur.models.bundled import DEFAULT
from video_deblur.models.checkpoint import read_info


def settings(arguments, config, caplog):
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    caplog.clear()
    found = settings_of(config, parser.parse_args(arguments))
    return found, [record.getMessage() for record in caplog.records]


def test_the_default_checkpoint_is_bundled(caplog):
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    assert parser.parse_args([]).checkpoint == DEFAULT


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "4"], "--steps"),
        (["--preset", "paper"], "--preset"),
        (["--guidance-scale", "2", "--solver", "ddim"], "--solver, --guidance-scale"),
    ],
)
def test_steps_for_a_network_without_are_said_to_change_nothing(arguments, named, caplog):
    without = SimpleNamespace(takes_steps=False)
    _, said = settings([*arguments, "--checkpoint", "some.safetensors"], without, caplog)
    expected = "no effect on some.safetensors, which takes no denoising steps"
    assert [line.split(";")[0] for line in said] == [f"{named}: {expected}"]
    _, said = settings(arguments, read_info("divd-tiny").config, caplog)
    assert not said
    # A first stage may be a network with steps.
    _, said = settings([*arguments, "--first-stage", "divd-tiny"], without, caplog)
    assert not said


def test_orientations_for_a_network_with_steps_are_said_to_change_nothing(caplog):
    config = read_info("divd-tiny").config
    _, said = settings(["--self-ensemble", "8", "--checkpoint", "divd-tiny"], config, caplog)
    assert said == ["--self-ensemble: no effect on divd-tiny, which takes denoising steps"]
    found, said = settings(
        ["--preset", "detailed", "--checkpoint", "divd-tiny"], config, caplog
    )
    assert found.steps == 1
    assert said == ["--preset detailed: no effect on divd-tiny, which takes denoising steps"]
    found, said = settings(["--self-ensemble", "8"], SimpleNamespace(), caplog)
    assert found.self_ensemble == 8
    assert not said
    found, said = settings(["--preset", "detailed"], SimpleNamespace(), caplog)
    assert found.self_ensemble == 4
    assert not said


def test_other_options_are_heeded_by_all(caplog):
    found, said = settings(["--strength", "0.5"], SimpleNamespace(), caplog)
    assert found.strength == 0.5
    assert not said
