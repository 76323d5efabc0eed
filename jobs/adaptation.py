"""Adaptation to the clip of a file: its stretches are read, what was learned is kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..images.folders import FrameFolder
from ..models.checkpoint import CheckpointError, load_state_dict, read_info, save_checkpoint
from ..models.tensor_file import file_digest
from ..restoration.adaptation.learners import check_adaptable
from ..restoration.adaptation.settings import AdaptationSettings
from ..restoration.adaptation.stretches import learn_from_stretches, plan_stretches
from ..restoration.adaptation.tuning import Adapted
from ..restoration.denoising.windows import Span
from ..restoration.engine import Engine
from ..restoration.progress import ProgressCallback
from ..restoration.settings import RestorationSettings
from ..video.frames import VideoFrame
from ..video.hidden_names import hidden_sibling
from ..video.source import VideoError
from .kinds import input_kind

_PROVENANCE = "adaptation"
"""Key in the provenance of an adapted checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where a resumable run keeps what was learned until its output is complete."""

    path: Path
    """Hidden, beside the output."""
    identity: dict[str, Any]
    """JSON values that what is learned depends on besides the settings."""

    @classmethod
    def beside(cls, output: Path, identity: dict[str, Any]) -> Kept:
        """Name the file of an output."""
        path = hidden_sibling(output.absolute(), ".adapted.safetensors")
        return cls(path=path, identity=identity)

    def read(self, made_from: dict[str, Any]) -> Adapted | None:
        """Return what a run that was stopped has learned from the same; None: nothing."""
        if not self.path.exists():
            return None
        try:
            info = read_info(self.path)
            known = info.provenance.get(_PROVENANCE, {})
            if known.get("made_from") != made_from:
                return None
            weights = load_state_dict(info) if known["used"] else None
            if weights is not None:
                # Copied: the file is removed before the engine.
                weights = {name: value.clone() for name, value in weights.items()}
            return Adapted(weights=weights, gain_db=known["gain_db"])
        except (CheckpointError, KeyError):
            return None

    def write(self, made_from: dict[str, Any], engine: Engine, adapted: Adapted) -> None:
        """Keep what was learned, or that it was dropped."""
        known = {
            "made_from": made_from,
            "used": adapted.weights is not None,
            "gain_db": adapted.gain_db,
        }
        weights = engine.model.state_dict() if adapted.weights is None else adapted.weights
        save_checkpoint(self.path, weights, engine.config, provenance={_PROVENANCE: known})

    def remove(self) -> None:
        """Remove the file: the output is complete."""
        self.path.unlink(missing_ok=True)

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
        kept.write(made_from, engine, adapted)
    return adapted


def save_adapted(
    path: Path, checkpoint: str | Path, adapted: Adapted, clip: str, seed: int
) -> None:
    """Write what was learned as a checkpoint of its own.

    Args:
        path: Target, replaced if it exists.
        checkpoint: What it began with; gives config, licence and provenance.
        adapted: With weights.
        clip: Name of the clip.
        seed: Of the adaptation.
    """
    assert adapted.weights is not None
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
