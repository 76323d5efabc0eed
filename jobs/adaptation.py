"""Adaptation to the clip of a file: its stretches are read, what was learned is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..images.folders import FrameFolder
from ..models.checkpoint import read_info, save_checkpoint
from ..models.tensor_file import (
    described_tensors,
    file_digest,
    read_header,
    read_tensors,
    write_tensors,
)
from ..restoration.adaptation.learners import check_adaptable
from ..restoration.adaptation.settings import AdaptationSettings
from ..restoration.adaptation.stretches import learn_from_stretches, plan_stretches
from ..restoration.adaptation.tuning import Adapted
from ..restoration.denoising.windows import Span
from ..restoration.engine import Engine
from ..restoration.progress import ProgressCallback
from ..restoration.settings import RestorationSettings
from ..video.frames import VideoFrame
from ..video.source import VideoError
from .kinds import input_kind
from .part_store import adapted_file

_PROVENANCE = "adaptation"
"""Key in the provenance of an adapted checkpoint, and in the header of what is kept."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where a resumable run keeps what was learned until its output is complete.

    A safetensors file with the weights, or without any where what was learned is dropped.
    """

    path: Path
    """Removed with the parts: see `PartStore.remove`."""
    identity: dict[str, Any]
    """JSON values that what is learned depends on besides the settings."""

    @classmethod
    def beside(cls, folder: Path, identity: dict[str, Any]) -> Kept:
        """Name the file that belongs to a folder of parts."""
        return cls(path=adapted_file(folder), identity=identity)

    def read(self, made_from: dict[str, Any]) -> Adapted | None:
        """Return what a run that was stopped has learned from the same; None: nothing."""
        if not self.path.exists():
            return None
        try:
            header = read_header(self.path)
            known = json.loads(header.pop("__metadata__")[_PROVENANCE])
            if known["made_from"] != made_from:
                return None
            tensors = described_tensors(self.path, header)
            # Copied: the file is removed before the engine.
            weights = {name: value.clone() for name, value in read_tensors(self.path, tensors)}
            return Adapted(weights=weights or None, gain_db=known["gain_db"])
        except (ValueError, KeyError):
            return None

    def write(self, made_from: dict[str, Any], adapted: Adapted) -> None:
        """Keep what was learned, or that it was dropped; missing folders are made.

        Raises:
            OSError: If the disk is full or cannot be written.
        """
        weights = adapted.weights or {}
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        known = json.dumps({"made_from": made_from, "gain_db": adapted.gain_db})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(self.path, shapes, weights.items(), torch.float16, {_PROVENANCE: known})

    @property
    def digest(self) -> str:
        """What tells it from what was learned another time."""
        return file_digest(self.path)


Clip = Callable[[], AbstractContextManager[tuple[Iterable[Sequence[np.ndarray]], int]]]
"""Opens a clip and gives its stretches, and how many frames they have together."""


def adapt_to_file(
    engine: Engine,
    source: Path,
    restoration: RestorationSettings,
    settings: AdaptationSettings,
    *,
    deinterlace: str = "off",
    kept: Kept | None = None,
    callback: ProgressCallback | None = None,
) -> Adapted:
    """Learn from a clip, or take up what a run that was stopped has learned.

    Args:
        engine: Left as it is; `tuning.with_engine` gives one that has learned.
        source: Video, folder of images or animation.
        restoration: What the user chose.
        settings: How long to learn, and how.
        deinterlace: As for `make_ends`.
        kept: Where to keep what is learned.
        callback: Progress; may raise to cancel.

    Raises:
        FileNotFoundError, ValueError: If the input cannot be read, is one picture, or the
            network cannot learn.
        OSError: If what was learned cannot be kept.
    """

    def clip() -> AbstractContextManager[tuple[Iterable[Sequence[np.ndarray]], int]]:
        return _opened(source, deinterlace)

    return adapt_once(engine, clip, restoration, settings, kept, callback)


def adapt_once(
    engine: Engine,
    clip: Clip,
    restoration: RestorationSettings,
    settings: AdaptationSettings,
    kept: Kept | None = None,
    callback: ProgressCallback | None = None,
) -> Adapted:
    """Do what `adapt_to_file` does, with a clip that is opened where it is needed."""
    check_adaptable(engine.config, restoration)
    made_from: dict[str, Any] = {}
    if kept is not None:
        made_from = {
            **kept.identity,
            "settings": dataclasses.asdict(restoration),
            "adaptation": dataclasses.asdict(settings),
        }
        known = kept.read(made_from)
        if known is not None:
            return known
    with clip() as (stretches, num_frames):
        adapted = learn_from_stretches(
            engine, stretches, num_frames, restoration, settings, callback
        )
    if kept is not None:
        kept.write(made_from, adapted)
    return adapted


def save_adapted(
    path: Path, checkpoint: str | Path, adapted: Adapted, clip: str, seed: int
) -> None:
    """Write what was learned as a checkpoint of its own.

    Args:
        path: Target, replaced if it exists; missing folders are made.
        checkpoint: What it began with; gives config, licence and provenance.
        adapted: With weights.
        clip: Name of the clip.
        seed: Of the adaptation.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    assert adapted.weights is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    info = read_info(checkpoint)
    known = {"clip": clip, "seed": seed, "gain_db": adapted.gain_db}
    save_checkpoint(
        path,
        adapted.weights,
        info.config,
        provenance={**info.provenance, _PROVENANCE: known},
        licence=info.licence,
    )


@contextlib.contextmanager
def _opened(
    source: Path, deinterlace: str
) -> Iterator[tuple[Iterable[Sequence[np.ndarray]], int]]:
    """Open an input; see `Clip`."""
    kind, _ = input_kind(source)
    if kind == "image":
        raise ValueError(
            f"{source}: is a single picture, and a network learns from neighbouring frames: "
            f"leave --adapt out"
        )
    if kind == "folder":
        folder = FrameFolder(source)
        folder.check_files()
        spans = plan_stretches(len(folder))
        pictures = ([folder[index].pixels for index in range(*span)] for span in spans)
        yield pictures, _length(spans)
        return
    # Not before: folders need no PyAV.
    from .clip_ends import open_clip

    with open_clip(source, deinterlace) as reader:
        spans = plan_stretches(reader.info.num_frames)
        yield _stretches(reader, spans), _length(spans)


def _length(spans: Sequence[Span]) -> int:
    return sum(stop - start for start, stop in spans)


def _stretches(frames: Any, spans: Sequence[Span]) -> Iterator[list[np.ndarray]]:
    """Read stretches; those of an input that ends early are shorter."""
    position = 0
    for start, stop in spans:
        _pass_over(frames, start - position)
        stretch = list(_pixels(islice(frames, stop - start)))
        position = stop
        yield stretch


def _pass_over(frames: Any, count: int) -> None:
    from ..images.clips import ImageClip

    if isinstance(frames, ImageClip):
        # Passes over frames before its first one only.
        for _ in islice(frames, count):
            pass
        return
    with contextlib.suppress(VideoError):
        frames.skip(count)


def _pixels(frames: Iterator[VideoFrame]) -> Iterator[np.ndarray]:
    """Yield frames up to where the input is damaged, which the run itself tells."""
    with contextlib.suppress(VideoError):
        for frame in frames:
            yield frame.pixels
