"""Restore files: a video, a folder of images, an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..restoration.engine import Engine
from ..restoration.settings import RestorationSettings
from ..restoration.streaming.stream import FrameCallback, FramesCallback, restore_segments
from ..video.source import Source
from .clip_work import ClipWork, restore_clips
from .ends import Ends
from .image_ends import FolderEnds, ImageEnds
from .local_pool import LocalPool
from .report import Report


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """Keep finished parts, and go on from those of a run that was stopped."""

    folder: Path
    """Where they are kept; removed when the output is complete."""
    identity: dict[str, Any]
    """JSON values that say which checkpoint restores: the rest is known here."""


def restore_ends(
    ends: Ends,
    engine: Engine,
    settings: RestorationSettings,
    *,
    resumable: Resumable | None = None,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
    before_segment: Callable[[], None] | None = None,
    on_frame: FramesCallback | None = None,
    on_read: Callable[[int, int | None], None] | None = None,
    check: Callable[[], None] | None = None,
    cancelled_by: tuple[type[BaseException], ...] = (),
) -> Report:
    """Restore an input of any kind into its output.

    Args:
        ends: What reads the one and writes the other.
        engine: What restores.
        settings: What the user chose.
        resumable: Whether and where to keep finished parts.
        measure_blur: Whether to measure blur even if no frame is to be left alone.
        callback: Progress; may raise to cancel, which leaves nothing under the output's name.
        before_segment: Called before each segment.
        on_frame: Called with each frame that is restored.
        on_read: As `Ends.on_read`.
        check: Called now and then while files are read and written; may raise to cancel.
        cancelled_by: What the callbacks raise to cancel; other errors of a clip have its parts
            on their way finished first.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used, or another run writes
            the same output.
        VideoError: If a video ends early or changes its size. The output then holds what came
            before, and the message says so.
    """
    ends.on_read, ends.check = on_read, check
    if resumable is not None:
        return _restore_in_parts(
            ends,
            engine,
            settings,
            resumable,
            measure_blur,
            callback,
            before_segment,
            on_frame,
            cancelled_by,
        )
    with ends:
        segments = restore_segments(
            ends.frames(),
            engine,
            settings,
            measure_blur=measure_blur,
            callback=callback,
            num_frames=ends.num_frames,
            before_segment=before_segment,
            on_frame=on_frame,
        )
        report = ends.write(segments)
    ends.check_complete(report)
    return report


def restore_file(
    source: Source,
    output: str | Path,
    engine: Engine,
    settings: RestorationSettings,
    *,
    codec: str = "h264",
    crf: int | None = None,
    audio: str = "copy",
    deinterlace: str = "off",
    resumable: Resumable | None = None,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
    before_segment: Callable[[], None] | None = None,
) -> Report:
    """Restore a video file: time stamps stay as they are, and so does sound where it can.

    Args:
        source: Path or binary file object.
        output: Target, replaced when complete.
        engine: What restores.
        settings: What the user chose.
        codec: One of `video.codecs.CODECS`.
        crf: Quality of h264 and h265; None: nearly lossless.
        audio: "copy" (what the output cannot hold is encoded to AAC), "encode" or "drop".
        deinterlace: One of `video.fields.DEINTERLACE`.
        resumable: As for `restore_ends`, and so are the rest and the errors.
        measure_blur: See there.
        callback: See there.
        before_segment: See there.
    """
    # Here, so that folders of images are restored without PyAV.
    from .video_ends import VideoEnds

    return restore_ends(
        VideoEnds(source, output, codec, crf, audio, deinterlace),
        engine,
        settings,
        resumable=resumable,
        measure_blur=measure_blur,
        callback=callback,
        before_segment=before_segment,
    )


def restore_folder(
    source: str | Path,
    output: str | Path,
    engine: Engine,
    settings: RestorationSettings,
    *,
    resumable: Resumable | None = None,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
) -> Report:
    """Restore a folder of images into a folder of PNG files of the same names.

    Arguments and errors as for `restore_ends`.
    """
    return restore_ends(
        FolderEnds(source, output),
        engine,
        settings,
        resumable=resumable,
        measure_blur=measure_blur,
        callback=callback,
    )


def restore_image(
    source: str | Path,
    output: str | Path,
    engine: Engine,
    settings: RestorationSettings,
    *,
    measure_blur: bool = False,
    callback: FrameCallback | None = None,
) -> Report:
    """Restore one image into a PNG file.

    Arguments and errors as for `restore_ends`.
    """
    return restore_ends(
        ImageEnds(source, output),
        engine,
        settings,
        measure_blur=measure_blur,
        callback=callback,
    )


def _restore_in_parts(
    ends: Ends,
    engine: Engine,
    settings: RestorationSettings,
    resumable: Resumable,
    measure_blur: bool,
    callback: FrameCallback | None,
    before_segment: Callable[[], None] | None,
    on_frame: FramesCallback | None,
    cancelled_by: tuple[type[BaseException], ...],
) -> Report:
    """Restore a batch of one clip in this process."""
    first = engine.first_stage
    identity = {
        **resumable.identity,
        **(first.identity if first else {}),
        "settings": dataclasses.asdict(settings),
        "device": engine.device.type,
        "dtype": str(engine.dtype),
    }
    work = ClipWork(
        ends,
        resumable.folder,
        identity,
        engine.config,
        settings,
        first_config=first and first.planned_config,
        measure_blur=measure_blur,
        cancelled_by=cancelled_by,
    )

    def progress(done: float) -> None:
        if callback is not None:
            callback(done, ends.num_frames)

    pool = LocalPool(
        engine,
        settings,
        callback=progress,
        before_segment=before_segment,
        on_frame=on_frame,
        check=ends.check,
    )
    restore_clips([work], pool)
    if work.error is not None:
        raise work.error
    assert work.report is not None
    if callback is not None:
        callback(work.report.num_frames, work.report.num_frames)
    return work.report
