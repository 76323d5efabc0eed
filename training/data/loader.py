"""Training clips in batches, drawn ahead in worker processes.

Everything random about a clip comes from generators of its own, seeded by the run's seed, the
number of the update and the clip's place in it. So an update sees the same clips however they
are shared among processes, workers and parts of a batch, and whether or not the run was
stopped in between.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import signal
import threading
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import DataConfig
from .clips import DrawnClip, choose, draw_clip, draw_image, finish_clips, synthetic_kinds
from .sources import SyntheticSource, open_sources

MOST_AT_ONCE = 32
"""Clips that a worker draws and hands over at a time: those of a large update are drawn by
several, and shared memory need not hold many updates."""


class TrainingData:
    """Sources of training clips, opened and checked.

    Args:
        specs: `KIND:PATH` or `KIND:PATH*WEIGHT` each; see `sources`.
        num_frames: Longest clip to be drawn, in frames.
        crop: Largest height and width of a clip, in pixels.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If a source cannot be used; the message names what is wrong in it.
    """

    def __init__(self, specs: Sequence[str], *, num_frames: int, crop: int) -> None:
        self.sources = open_sources(specs, num_frames=num_frames, crop=crop)
        self._weights = [source.weight for source in self.sources]
        self._num_frames, self._crop = num_frames, crop

    def check(self, config: DataConfig) -> None:
        """Make sure that clips of this kind can be drawn.

        Raises:
            ValueError: If they are longer or larger than the sources were checked for, or a
                source has nothing to make them of.
        """
        if config.num_frames > self._num_frames or config.crop > self._crop:
            raise ValueError(
                f"data opened for clips of up to {self._num_frames} frames and "
                f"{self._crop}x{self._crop} cannot give {config.num_frames} frames and "
                f"{config.crop}x{config.crop}"
            )
        for source in self.sources:
            if isinstance(source, SyntheticSource) and not synthetic_kinds(source, config):
                missing = "clips/" if source.photos else "photos/"
                raise ValueError(
                    f"{source.root}: has no {missing}, where photo_share and clip_share take "
                    "all clips from; change one of them"
                )

    def draw(self, config: DataConfig, seed: int, update: int, index: int) -> DrawnClip:
        """Draw one clip: the same one for the same arguments.

        Args:
            config: What the clip is to be like; see `check`.
            seed: Of the run.
            update: Number of the update.
            index: Place of the clip in the whole batch of the update.
        """
        generator = clip_generator(seed, update, index, "clip")
        source = self.sources[choose(self._weights, generator)]
        return draw_clip(source, config, generator)

    @staticmethod
    def finish(
        drawn: Sequence[DrawnClip], device: str | torch.device = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Blur and degrade drawn clips; see `clips.finish_clips`."""
        return finish_clips(drawn, device)

    def images(self, count: int, crop: int, generator: torch.Generator) -> Tensor:
        """Draw single sharp crops `[count, 3, crop, crop]` in 0..1."""
        images = []
        for _ in range(count):
            source = self.sources[choose(self._weights, generator)]
            images.append(draw_image(source, crop, generator))
        return torch.stack(images) / 255


class ClipLoader:
    """The clips of one process, update by update, drawn ahead in worker processes.

    Args:
        data: Where clips come from.
        phases: From which update on which kind of clips is drawn; the first from 0 on.
        clips: Clips per update, over all processes.
        seed: Of the run.
        rank: Number of this process.
        world: Number of processes.
        num_workers: Worker processes; 0 draws clips when they are asked for.

    Raises:
        ValueError: If the clips cannot be shared evenly or the data cannot give them.
    """

    def __init__(
        self,
        data: TrainingData,
        phases: Sequence[tuple[int, DataConfig]],
        *,
        clips: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
    ) -> None:
        if clips < 1 or clips % world:
            raise ValueError(
                f"{clips} clips per update cannot be shared evenly by {world} processes; "
                f"choose a multiple of {world}"
            )
        starts = [start for start, _ in phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"phases must start at update 0 and grow, got {starts}")
        for _, config in phases:
            data.check(config)
        share = clips // world
        self._places = range(rank * share, (rank + 1) * share)
        self._clips = _Clips(data, tuple(phases), seed)
        self._num_workers = num_workers

    def batches(self, first_update: int, last_update: int) -> Iterator[list[DrawnClip]]:
        """Yield this process's clips of every update from the first to before the last.

        Raises:
            OSError: If a file cannot be read any more.
            ValueError: If a file is not what it was.
        """
        # Said once and in a line of our own, by `preflight`.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        updates = range(first_update, last_update)
        if self._num_workers and updates:
            # OpenCV keeps data for every thread, behind a lock. A thread that is just ending
            # may hold it while workers are forked; there it stays held, and a worker that has
            # to make its data waits for ever. It takes over what this thread has from here.
            self._clips[first_update, self._places[0]]
        pieces = [
            self._places[first : first + MOST_AT_ONCE]
            for first in range(0, len(self._places), MOST_AT_ONCE)
        ]
        loader = DataLoader(
            self._clips,
            batch_sampler=(
                [(update, place) for place in piece] for update in updates for piece in pieces
            ),
            collate_fn=_pack,
            num_workers=self._num_workers,
            worker_init_fn=_prepare_worker,
            # Its own, or the loader would advance the generator of the whole process.
            generator=torch.Generator(),
        )
        clips: list[DrawnClip] = []
        for piece in loader:
            if isinstance(piece, Exception):
                raise piece
            clips += piece
            if len(clips) == len(self._places):
                yield clips
                clips = []


@dataclass(frozen=True)
class _Clips(Dataset["DrawnClip | Exception"]):
    """Clips by update and place: what worker processes hold."""

    data: TrainingData
    phases: tuple[tuple[int, DataConfig], ...]
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> DrawnClip | Exception:
        update, place = key
        phase = bisect_right([start for start, _ in self.phases], update) - 1
        try:
            return self.data.draw(self.phases[phase][1], self.seed, update, place)
        except (OSError, ValueError) as error:
            # For the main process to raise: from here it would arrive with a traceback.
            return error


def clip_generator(seed: int, update: int, place: int, purpose: str) -> torch.Generator:
    """Return a CPU generator for one clip of one update, whatever process draws it.

    Args:
        seed: Of the run.
        update: Number of the update.
        place: Of the clip in the whole batch of the update.
        purpose: What is drawn; each purpose has numbers of its own.
    """
    # Hashed, since generators with seeds close to each other start out alike.
    key = f"{purpose} {seed} {update} {place}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def _prepare_worker(worker: int) -> None:
    # Not 1: that waits for threads of OpenCV's pool, which a forked process does not have.
    cv2.setNumThreads(0)
    # Ctrl-C reaches every process; the main one ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One that was killed cannot, and workers would wait for it for ever, their queue full.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _pack(batch: list[DrawnClip | Exception]) -> list[DrawnClip] | Exception:
    """Move the pixels of a batch into one storage, or return its first error.

    Between processes each storage is a file, open until its clip is used: with many clips,
    workers and batches ahead they would pass the usual limit of 1024.
    """
    clips: list[DrawnClip] = []
    for clip in batch:
        if isinstance(clip, Exception):
            return clip
        clips.append(clip)
    names = ("source", "blurry", "foreground")
    parts = [[getattr(clip, name) for name in names] for clip in clips]
    pixels = torch.cat([p.flatten() for part in parts for p in part if p is not None])
    packed, start = [], 0
    for clip, part in zip(clips, parts, strict=True):
        moved: dict[str, Tensor] = {}
        for name, old in zip(names, part, strict=True):
            if old is not None:
                moved[name] = pixels[start : start + old.numel()].view(old.shape)
                start += old.numel()
        packed.append(dataclasses.replace(clip, **moved))
    return packed
