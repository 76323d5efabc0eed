"""Restore many videos or folders of frames, part by part, with the workers of a pool.

Videos are read in order, here; their parts are restored in any order, anywhere; finished parts
are kept beside the output until it is complete, so that the next call goes on from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..models.config import DivdConfig
from ..restoration.settings import RestorationSettings
from ..restoration.streaming.planning import Position
from ..video.codecs import container_for
from ..video.encoder import EncodedFrame, PacketEncoder
from ..video.frames import FrameFolder, FrameFolderWriter
from ..video.output_lock import output_lock
from ..video.reader import VideoReader
from ..video.source import VideoError
from .batch_record import BatchRecord
from .files import (
    Report,
    TimedFrames,
    check_complete,
    join_parts,
    kept_parts,
    make_report,
    writer_for,
)
from .part_store import PartStore, file_identity, identity_digest, resume_folder
from .parts import PartTask, PlannedPart, plan_parts

BatchCallback = Callable[[float, int | None], None]
"""Called with (frames done, frames of all videos or None); may raise to cancel."""


class Pool(Protocol):
    """Who restores parts; see `ray_pool.RayPool`."""

    @property
    def wants_more(self) -> bool: ...
    @property
    def is_idle(self) -> bool: ...
    def submit(self, key: Any, frames: np.ndarray, task: PartTask) -> None: ...
    def completed(
        self, timeout_s: float
    ) -> Iterator[tuple[Any, list[EncodedFrame] | Exception]]: ...


@dataclass(kw_only=True)
class BatchClip:
    """A video or a folder of frames of a batch."""

    source: Path
    output: Path
    num_frames: int | None = None
    """As the file says, then those that were restored."""
    state: Literal["open", "restored", "skipped", "failed"] = "open"
    error: str = ""
    """What went wrong, in one line."""
    changes: Sequence[str] = ()
    """Of an output that was left alone: what it was made from that is different now."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What holds for all videos."""

    config: DivdConfig
    restoration: RestorationSettings
    identity: dict[str, Any]
    """JSON values that say which networks restore, and with what."""
    codec: str = "h264"
    crf: int | None = None
    overwrite: bool = False
    """Whether to restore again what is there already."""


def plan_batch(sources: Sequence[Path], folder: Path, codec: str) -> list[BatchClip]:
    """Name the outputs of videos; those that cannot be read have failed.

    Raises:
        FileNotFoundError: If a source or the folder's parent does not exist.
        ValueError: If two would become one file, one itself, or the folder is a file.
    """
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected a folder for the outputs")
    folder.mkdir(exist_ok=True)
    clips: list[BatchClip] = []
    for source in sources:
        clip = BatchClip(source=source, output=folder / source.resolve().name)
        clips.append(clip)
        try:
            if source.is_dir():
                clip.num_frames = len(FrameFolder(source))
                continue
            with VideoReader(source) as reader:
                clip.num_frames = reader.info.num_frames
                suffix = container_for(reader.info.audio_codecs, codec)
            clip.output = folder / f"{source.stem}{suffix}"
        except (ValueError, OSError) as error:
            _fail(clip, error)
    outputs: dict[Path, Path] = {}
    for clip in clips:
        if clip.output.exists() and clip.output.samefile(clip.source):
            raise ValueError(f"{clip.output}: is the input itself, choose another folder")
        other = outputs.setdefault(clip.output, clip.source)
        if other is not clip.source:
            raise ValueError(f"{other} and {clip.source} would both become {clip.output}")
    return clips


def restore_batch(
    clips: Sequence[BatchClip],
    pool: Pool,
    settings: BatchSettings,
    callback: BatchCallback | None = None,
) -> None:
    """Restore videos; what fails of one does not stop the others.

    Args:
        clips: From `plan_batch`; `state`, `num_frames` and `error` say what became of them.
        pool: Who restores.
        settings: What holds for all.
        callback: Progress; may raise to cancel: finished parts stay.
    """
    for clip in clips:
        if clip.state == "open" and _is_there(clip.output) and not settings.overwrite:
            clip.state = "skipped"
            record = BatchRecord(clip.output.parent)
            clip.changes = record.changes(clip.output, _made_from(clip, settings))
            clip.error = record.error(clip.output)
            if clip.error and not clip.changes:
                clip.state = "failed"
    wanted = [clip for clip in clips if clip.state == "open"]
    counts = [clip.num_frames for clip in wanted]
    total = None if None in counts else sum(count or 0 for count in counts)
    progress = _Progress(callback, total)
    with contextlib.ExitStack() as stack:
        works = [_ClipWork(clip, settings, stack, progress) for clip in wanted]
        parts = _all_parts(works)
        more = True
        while more or not pool.is_idle:
            while more and pool.wants_more:
                following = next(parts, None)
                more = following is not None
                if following is not None:
                    work, index, part = following
                    pool.submit((work, index), part.frames, part.task)
                    del part, following
            if not pool.is_idle:
                for (work, index), result in pool.completed(timeout_s=0.5):
                    work.add(index, result)
            progress.report()


class _Progress:
    def __init__(self, callback: BatchCallback | None, total: int | None) -> None:
        self._callback = callback
        self._total = total
        self.done = 0

    def report(self) -> None:
        if self._callback is not None:
            self._callback(self.done, self._total)


class _ClipWork:
    """A video between its first part and its output."""

    def __init__(
        self,
        clip: BatchClip,
        settings: BatchSettings,
        stack: contextlib.ExitStack,
        progress: _Progress,
    ) -> None:
        self._clip = clip
        self._settings = settings
        # Whatever ends the batch, what is open of a video is closed in order.
        self._stack = stack.enter_context(contextlib.ExitStack())
        self._progress = progress
        self._pending: dict[int, PlannedPart] = {}
        self._read = False

    def parts(self) -> Iterator[tuple[_ClipWork, int, PlannedPart]]:
        """Yield the parts that are to be restored; a failure ends them."""
        try:
            yield from self._parts()
        except (ValueError, OSError) as error:
            self._end(error)

    def _parts(self) -> Iterator[tuple[_ClipWork, int, PlannedPart]]:
        clip, settings = self._clip, self._settings
        ends = _FolderEnds if clip.source.is_dir() else _VideoEnds
        self._ends = ends(clip, settings, self._stack)
        identity = {**self._ends.identity, **settings.identity}
        store = PartStore(resume_folder(clip.output), identity, str(clip.output))
        self._store = self._stack.enter_context(kept_parts(store, clip.output))
        self._progress.done += store.num_kept
        self._ends.frames.begin(store.position)
        planned = plan_parts(
            self._ends.frames,
            settings.config,
            settings.restoration,
            self._ends.pictures,
            clip.output.suffix,
            store.position,
        )
        for index, part in enumerate(planned, store.next_index):
            if clip.state != "open":
                return
            if not store.has(index):
                # The pixels are on their way: only what is to be kept of them stays here.
                self._pending[index] = PlannedPart(
                    task=part.task,
                    frames=part.frames[:0],
                    position=part.position,
                    finished=part.finished,
                )
                yield self, index, part
        self._read = True
        self._finish_if_done()

    def add(self, index: int, result: list[EncodedFrame] | Exception) -> None:
        """Keep a part that was restored, and join all after the last one."""
        part = self._pending.pop(index)
        if self._clip.state != "open":
            return
        try:
            if isinstance(result, Exception):
                raise result
            self._store.add(result, part.position, part.finished, index)
            self._progress.done += part.task.num_frames
            self._finish_if_done()
        except (ValueError, OSError, RuntimeError) as error:
            self._end(error)

    def _finish_if_done(self) -> None:
        if not self._read or self._pending:
            return
        clip = self._clip
        report = self._ends.join(self._store)
        clip.num_frames = report.num_frames
        record, made_from = BatchRecord(clip.output.parent), _made_from(clip, self._settings)
        try:
            self._ends.check_complete(report)
        except VideoError as error:
            record.add(clip.output, made_from, str(error))
            raise
        record.add(clip.output, made_from)
        self._stack.close()
        clip.state = "restored"

    def _end(self, error: Exception) -> None:
        """Close what is open, which may say more about the error."""
        try:
            with self._stack:
                raise error
        except Exception as final:  # noqa: BLE001 (it goes into the report of the video)
            _fail(self._clip, final)


class _VideoEnds:
    """Where the frames of a video come from, and where they go."""

    def __init__(
        self, clip: BatchClip, settings: BatchSettings, stack: contextlib.ExitStack
    ) -> None:
        reader = stack.enter_context(VideoReader(clip.source))
        writer = writer_for(reader, clip.source, clip.output, settings.codec, settings.crf)
        stack.enter_context(output_lock(clip.output))
        writer.remove_leftovers()
        # At once: what the encoder refuses is refused before the work.
        PacketEncoder(writer.pictures, clip.output.suffix).finish()
        self._writer = writer
        self.frames = TimedFrames(reader, writer.pictures.has_alpha)
        self.pictures = writer.pictures
        self.identity = {
            "input": file_identity(clip.source),
            "pictures": repr(writer.pictures),
        }

    def join(self, store: PartStore) -> Report:
        """Write the output from all of its parts."""
        return join_parts(store, self.frames, self._writer)

    def check_complete(self, report: Report) -> None:
        """Raise VideoError if the source ended early."""
        check_complete(self.frames, self._writer, report)


class _FolderEnds:
    """The same for a folder of images, which becomes a folder of PNG files."""

    pictures = None

    def __init__(
        self, clip: BatchClip, settings: BatchSettings, stack: contextlib.ExitStack
    ) -> None:
        self._folder = FrameFolder(clip.source)
        self._writer = FrameFolderWriter(clip.output)
        stack.enter_context(output_lock(clip.output))
        self.frames = _FolderFrames(self._folder)
        paths = [self._folder.path / name for name in self._folder.names]
        self.identity = {"frames": [file_identity(path) for path in paths]}

    def join(self, store: PartStore) -> Report:
        """Write the output from all of its parts."""
        with self._writer as writer:
            frames = store.encoded_frames()
            for name, frame in zip(self._folder.names, frames, strict=True):
                writer.write_encoded(frame.data, name)
        report = make_report(store.parts, store.num_frames)
        store.remove()
        return report

    def check_complete(self, report: Report) -> None:
        """Nothing to check: a frame that cannot be read is an error."""


class _FolderFrames:
    """As `TimedFrames`, of a folder; the time stamp is the index."""

    def __init__(self, folder: FrameFolder) -> None:
        self._folder = folder
        self._start = 0

    def begin(self, position: Position | None) -> None:
        self._start = 0 if position is None else position.read_from

    def __iter__(self) -> Iterator[np.ndarray]:
        indices = range(self._start, len(self._folder))
        return (self._folder[index].pixels for index in indices)

    def time_of(self, index: int) -> tuple[int, int]:
        return index, 1


def _is_there(output: Path) -> bool:
    """Tell whether an output exists; an empty folder does not count."""
    return any(output.iterdir()) if output.is_dir() else output.exists()


def _made_from(clip: BatchClip, settings: BatchSettings) -> dict[str, Any]:
    """Return what an output depends on, by what messages call it."""
    video = {} if clip.source.is_dir() else {"codec": settings.codec, "crf": settings.crf}
    files = [clip.source]
    if clip.source.is_dir():
        files = [clip.source / name for name in FrameFolder(clip.source).names]
    # Neither where a file lies nor when it was copied there.
    kept = ("size", "sha256_of_ends")
    identities = [file_identity(path) for path in files]
    return {
        "input": identity_digest(
            {"files": [[each[key] for key in kept] for each in identities]}
        ),
        "checkpoint": settings.identity["checkpoint"],
        "settings": vars(settings.restoration),
        **video,
    }


def _all_parts(works: Sequence[_ClipWork]) -> Iterator[tuple[_ClipWork, int, PlannedPart]]:
    for work in works:
        yield from work.parts()


def _fail(clip: BatchClip, error: Exception) -> None:
    clip.state = "failed"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join((text or type(error).__name__).split())
    named = str(clip.source) in line or str(clip.output) in line
    clip.error = line if named else f"{clip.source}: {line}"
