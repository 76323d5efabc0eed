"""Counting what an update costs, at reduced width."""

from __future__ import annotations

import dataclasses

import pytest
from video_deblur.benchmarks.training_cost import REDUCED, count
from video_deblur.models.divd import Divd
from video_deblur.training.presets import PRESETS, TINY_MODEL


def small(stage, **changes):
    data = dataclasses.replace(stage.data, num_frames=4, crop=64)
    return dataclasses.replace(stage, data=data, **changes)


@pytest.fixture(scope="module")
def model():
    return Divd(REDUCED, device="meta")


def test_only_the_blur_encoder_counts_as_trained_in_the_first_stage(model):
    cost = count(REDUCED, small(PRESETS["paper"].stage1))
    assert cost.trained == sum(p.numel() for p in model.blur_encoder.parameters())
    assert cost.trained + cost.frozen == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_checkpointing_costs_operations_and_saves_memory(name):
    stage = getattr(PRESETS["paper"], name)
    with_it = count(REDUCED, small(stage, gradient_checkpointing=True))
    without = count(REDUCED, small(stage, gradient_checkpointing=False))
    assert with_it.flop > without.flop
    assert with_it.activation_bytes < without.activation_bytes


def test_operations_grow_with_frames():
    stage = small(PRESETS["paper"].stage2, pixel_loss="off", gradient_checkpointing=False)
    longer = dataclasses.replace(stage, data=dataclasses.replace(stage.data, num_frames=8))
    once, twice = count(REDUCED, stage), count(REDUCED, longer)
    # Attention over time grows with the square; the image tower sees one frame of both.
    assert twice.flop == pytest.approx(2 * once.flop, rel=0.1)


def test_the_bundled_size_counts_its_pixel_loss():
    stage = small(PRESETS["tiny-further"].joint)
    cost = count(TINY_MODEL, stage)
    without = count(TINY_MODEL, dataclasses.replace(stage, pixel_loss="off"))
    assert cost.flop > without.flop
    assert cost.activation_bytes > without.activation_bytes
    assert cost.trained > cost.frozen > 0
