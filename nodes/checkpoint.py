"""Load a checkpoint: the list of files, the cache of loaded ones, and the node."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import folder_paths
from comfy_api.latest import io

from ..models.bundled import BUNDLED, DEFAULT, DEFAULT_DIFFUSION, find_bundled, label_of
from ..models.checkpoint import read_info
from .backend import (
    CATEGORY,
    DTYPE_NAMES,
    DeblurEncoderType,
    LoadedCheckpoint,
    LoadedFeedForward,
    advanced,
    build_checkpoint,
    make_schema,
    refuse_without_sampler,
)

FOLDER = "video_deblur"
"""Folder of checkpoints under ComfyUI's models folder, and its name in extra_model_paths."""

_MAX_LOADED = 2


_Kept: TypeAlias = OrderedDict[tuple[Any, ...], LoadedCheckpoint | LoadedFeedForward]
"""The checkpoints used last, so that a node that loads its own does so once."""

_kept_by_nodes: weakref.ref[_Kept] | None = None


def _kept() -> _Kept:
    """Return what nodes keep, or nothing as long as there is none."""
    global _kept_by_nodes
    kept = _kept_by_nodes and _kept_by_nodes()
    if kept is None:
        kept = OrderedDict()
        _kept_by_nodes = weakref.ref(kept)
    return kept


class LoadingNode(io.ComfyNode):
    """A node that loads checkpoints: they stay in memory as long as ComfyUI keeps one.

    ComfyUI makes an instance of every node that it runs, and gives it up with its caches: when
    the user has memory freed, or runs a graph without the node. When it only needs room on a
    device, networks go to the host's memory and are not loaded again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._checkpoints = _kept()


def register_folder() -> None:
    """Make `models/video_deblur` known, beside what extra_model_paths.yaml names."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    # The folder starts without file types, which would list every file in it.
    folder_paths.folder_names_and_paths[FOLDER][1].update(folder_paths.supported_pt_extensions)


def checkpoint_input() -> io.Combo.Input:
    """Return the input that chooses a checkpoint."""
    return _checkpoint_input(
        [DEFAULT, *(name for name in BUNDLED if name != DEFAULT)],
        hint=" cpgd-tiny gains more; divd-tiny is the diffusion model that samplers run too.",
    )


def _checkpoint_input(bundled: Sequence[str], hint: str = "") -> io.Combo.Input:
    """Offer bundled checkpoints, the first of which is the default, and the user's files."""
    register_folder()
    labels = [label_of(name) for name in bundled]
    return io.Combo.Input(
        "checkpoint",
        options=[*labels, *folder_paths.get_filename_list(FOLDER)],
        default=labels[0],
        tooltip="Weights to restore with: the bundled ones, or a .safetensors file from "
        f"ComfyUI/models/video_deblur.{hint}",
    )


def checkpoint_path(name: str) -> Path:
    """Return the file a choice of `checkpoint_input` stands for.

    Raises:
        FileNotFoundError: If it is gone.
    """
    return find_bundled(name) or Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def fingerprint(name: str | None) -> str:
    """Return a text that changes when the file of a choice does.

    None stands for a name that another node makes: its value is part of the graph then.
    """
    if name is None:
        return "linked"
    try:
        state = checkpoint_path(name).stat()
    except FileNotFoundError:
        return "missing"
    return f"{state.st_mtime_ns} {state.st_size}"


def load_checkpoint(
    name: str, dtype: str = "auto", *, for_sampler: bool = False
) -> LoadedCheckpoint | LoadedFeedForward:
    """Load a choice of `checkpoint_input`, or return it where it still is loaded.

    Args:
        name: The choice.
        dtype: One of `DTYPE_NAMES`, for the UNet.
        for_sampler: Whether to refuse networks without a sampler.

    Raises:
        FileNotFoundError: If the file is gone.
        CheckpointError: If it is not a usable checkpoint.
    """
    path = checkpoint_path(name)
    key = (str(path), fingerprint(name), dtype)
    # Also of what another node has loaded already.
    if for_sampler:
        refuse_without_sampler(read_info(path))
    kept = _kept()
    if key not in kept:
        kept[key] = build_checkpoint(read_info(path), dtype)
        while len(kept) > _MAX_LOADED:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


class LoadCheckpoint(LoadingNode):
    """Read a checkpoint into MODEL, VAE and DEBLUR_ENCODER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_LoadCheckpoint",
            display_name="Load Deblur Checkpoint",
            category=CATEGORY,
            description="Load the networks that remove motion blur.",
            search_aliases=["deblur model", "motion blur", "divd", "loader"],
            inputs=[
                _checkpoint_input([DEFAULT_DIFFUSION]),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPE_NAMES),
                    default="auto",
                    tooltip="Number format in which the denoising network is kept. auto: half "
                    "precision where the checkpoint is stored so and the device is fast at it, "
                    "else float32. float8 takes half the memory of that and is less exact. "
                    "Encoders and decoder always use float32.",
                    **advanced(io.Combo.Input),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The denoising network, for Sample Deblurred Latents, KSampler and "
                    "LoRA loaders.",
                ),
                io.Vae.Output(display_name="VAE", tooltip="The autoencoder, a native VAE."),
                DeblurEncoderType.Output(
                    display_name="DEBLUR_ENCODER",
                    tooltip="The image encoders, for Encode Blurry Frames.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **others: Any) -> str:
        return fingerprint(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str, dtype: str) -> io.NodeOutput:
        loaded = load_checkpoint(checkpoint, dtype, for_sampler=True)
        assert isinstance(loaded, LoadedCheckpoint)
        return io.NodeOutput(loaded.model, loaded.vae, loaded.encoder)
