"""Restore many videos, folders of frames and images, part by part, with the workers of a pool.

The outputs lie in one folder. What is there already is left alone, and named where it was made
from something else (see `batch_record`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..restoration.settings import RestorationSettings
from .batch_record import BatchRecord
from .clip_work import ClipWork, Pool, restore_clips
from .ends import Ends
from .kinds import make_ends, output_name
from .part_store import file_identity, identity_digest, resume_folder
from .video_ends import VideoEnds

BatchCallback = Callable[[float, int | None], None]
"""Called with (frames done, frames of all videos or None); may raise to cancel."""


@dataclass(kw_only=True)
class BatchClip:
    """An input of a batch: a video, a folder of frames or an image."""

    source: Path
    output: Path
    is_folder: bool = False
    """Whether the output is a folder, whatever it is called."""
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

    config: Any
    """Of the checkpoint."""
    restoration: RestorationSettings
    identity: dict[str, Any]
    """JSON values that say which networks restore, and with what."""
    codec: str = "h264"
    crf: int | None = None
    audio: str = "copy"
    deinterlace: str = "off"
    first_config: Any = None
    """`FirstStage.planned_config`."""
    overwrite: bool = False
    """Whether to restore again what is there already."""


def plan_batch(
    sources: Sequence[Path],
    folder: Path,
    codec: str,
    audio: str = "copy",
    deinterlace: str = "off",
) -> list[BatchClip]:
    """Name the outputs of videos; those that cannot be read, or not be named, have failed.

    An input that is named twice is taken once.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If the folder is a file.
    """
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected a folder for the outputs")
    clips: list[BatchClip] = []
    for source in {source.resolve(): source for source in reversed(sources)}.values():
        clip = BatchClip(source=source, output=folder / source.resolve().name)
        clips.insert(0, clip)
        try:
            name, clip.num_frames, clip.is_folder = output_name(
                source, codec, audio, deinterlace
            )
            clip.output = folder / name
        except Exception as error:  # noqa: BLE001 (one clip must not end the others)
            _fail(clip, error)
    inputs = {clip.source.resolve() for clip in clips}
    named: dict[Path, list[BatchClip]] = {}
    for clip in clips:
        named.setdefault(clip.output, []).append(clip)
    for clip in clips:
        others = [str(c.source) for c in named[clip.output] if c is not clip]
        if clip.state == "failed":
            continue
        if others:
            text = f"would become {clip.output}, as would {', '.join(others)}; rename one"
            _fail(clip, ValueError(f"{clip.source}: {text}"))
        elif clip.output.resolve() in inputs:
            text = f"{clip.output}: is the input itself, choose another folder"
            _fail(clip, ValueError(f"{clip.source}: {text}"))
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
            _skip(clip, settings)
    wanted = [clip for clip in clips if clip.state == "open"]
    counts = [clip.num_frames for clip in wanted]
    total = None if None in counts else sum(count or 0 for count in counts)
    done = 0

    def count(num_frames: int) -> None:
        nonlocal done
        done += num_frames

    def progress() -> None:
        if callback is not None:
            callback(done, total)

    works = (_clip_work(clip, settings, count) for clip in wanted)
    restore_clips([work for work in works if work is not None], pool, progress)


def _skip(clip: BatchClip, settings: BatchSettings) -> None:
    """Note of an output that is there already what it was made from, and if it is whole."""
    clip.state = "skipped"
    try:
        record = BatchRecord(clip.output.parent)
        clip.changes = record.changes(clip.output, _made_from(clip, settings))
        clip.error = record.error(clip.output)
        if clip.error and not clip.changes:
            clip.state = "failed"
    except Exception as error:  # noqa: BLE001 (one clip must not end the others)
        _fail(clip, error)


def _clip_work(
    clip: BatchClip, settings: BatchSettings, on_frames: Callable[[int], None]
) -> ClipWork | None:
    """Return the work on a clip, which tells the clip and the record how it ended.

    None, and the clip has failed, where its input and output do not go together.
    """
    made_from: dict[str, Any] = {}

    def begin() -> None:
        # Now: the input may be gone when the output is written.
        made_from.update(_made_from(clip, settings))

    def note(work: ClipWork) -> None:
        error = work.error
        if work.report is not None:
            clip.num_frames = work.report.num_frames
            # With an error the output holds a part of the input only.
            error = _recorded_as(clip, made_from, error)
        if error is not None:
            _fail(clip, error)
        else:
            clip.state = "restored"

    try:
        ends = _ends(clip, settings)
    except Exception as error:  # noqa: BLE001 (one clip must not end the others)
        _fail(clip, error)
        return None

    return ClipWork(
        ends,
        resume_folder(clip.output),
        settings.identity,
        settings.config,
        settings.restoration,
        first_config=settings.first_config,
        on_frames=on_frames,
        on_begin=begin,
        on_end=note,
    )


def _recorded_as(
    clip: BatchClip, made_from: dict[str, Any], error: Exception | None
) -> Exception | None:
    """Record an output; returns what went wrong with it, or then with the record."""
    try:
        BatchRecord(clip.output.parent).add(clip.output, made_from, str(error or ""))
    except OSError as failure:
        cause = failure.strerror or failure
        return error or OSError(
            failure.errno,
            f"{clip.output}: is restored, but what it was made from could not be noted beside "
            f"it ({cause})",
        )
    return error


def _ends(clip: BatchClip, settings: BatchSettings) -> Ends:
    return make_ends(
        clip.source,
        f"{clip.output}/" if clip.is_folder else clip.output,
        settings.codec,
        settings.crf,
        audio=settings.audio,
        deinterlace=settings.deinterlace,
    )


def _is_there(output: Path) -> bool:
    """Tell whether an output exists; an empty folder does not count."""
    return any(output.iterdir()) if output.is_dir() else output.exists()


def _made_from(clip: BatchClip, settings: BatchSettings) -> dict[str, Any]:
    """Return what an output depends on, by what messages call it."""
    ends = _ends(clip, settings)
    # Neither where a file lies nor when it was copied there.
    kept = ("size", "sha256_of_ends")
    identities = [file_identity(path) for path in ends.input_files()]
    made_from = {
        "input": identity_digest(
            {"files": [[each[key] for key in kept] for each in identities]}
        ),
        "checkpoint": settings.identity["checkpoint"],
        "first stage": settings.identity.get("first_stage"),
        "settings": _recorded(settings.restoration),
    }
    if isinstance(ends, VideoEnds):
        made_from |= {
            "codec": settings.codec,
            "crf": settings.crf,
            "audio": settings.audio,
            "deinterlace": settings.deinterlace,
        }
    return made_from


def _recorded(settings: RestorationSettings) -> dict[str, Any]:
    """Return settings as records have them: older ones know of one network input only."""
    values = dict(vars(settings))
    if settings.network_input == "blurry":
        del values["network_input"]
    return values


def _fail(clip: BatchClip, error: Exception) -> None:
    clip.state = "failed"
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    line = " ".join((text or type(error).__name__).split())
    named = str(clip.source) in line or str(clip.output) in line
    clip.error = line if named else f"{clip.source}: {line}"
