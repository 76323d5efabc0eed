"""What Deblur Video does: restore a video into a file, in bounded memory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import folder_paths
import numpy as np
from comfy_api.latest import InputImpl, Types

from ..restoration.engine import Engine
from ..restoration.frames import rounded, to_array, usable_frames
from ..restoration.settings import RestorationSettings
from ..video.codecs import CODECS
from .adaptation import learned_from_ends, learned_from_frames
from .backend import LoadedCheckpoint, LoadedFeedForward, trim_window
from .checkpoint import checkpoint_path
from .first_stage import UpscaleStage
from .live import LiveView
from .memory import load_to_device
from .progress import Cancellable, raise_if_cancelled
from .temporary import PREFIX, temporary_file

if TYPE_CHECKING:
    from ..restoration.clip_priors import GivenPriors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoJob:
    """How a video is restored."""

    loaded: LoadedCheckpoint | LoadedFeedForward
    settings: RestorationSettings
    codec: str
    crf: int
    view: LiveView
    """Shows how far it is."""
    checkpoint: str
    """The choice that was loaded."""
    first: UpscaleStage | None
    """What else restores the frames."""
    priors: GivenPriors | None = None
    """Coding priors of the clip, where the networks read them and the user gave any."""
    adapt: bool = False
    """Whether the networks learn from the clip first."""

    def __post_init__(self) -> None:
        # At once: networks learn for minutes before they are needed.
        self.loaded.check_devices()

    def engine(self) -> Engine:
        """Return the library's engine on the networks."""
        engine = self.loaded.engine()
        engine.first_stage = self.first and self.first.stage
        engine.priors = self.priors
        return engine

    def load(self, height: int, width: int) -> None:
        """Have all that restores frames of this size on the device."""
        load_for(self.loaded, self.settings, height, width, self.first)


def restore_file(
    video: Any,
    job: VideoJob,
) -> Path:
    """Restore a file; a run that is cancelled goes on where it was when it is queued again."""
    from ..jobs.adaptation import Kept
    from ..jobs.files import Resumable, restore_ends
    from ..jobs.part_store import checkpoint_identity, file_identity, identity_digest
    from ..jobs.video_ends import VideoEnds
    from ..jobs.window import WindowEnds
    from ..video.codecs import container_for
    from ..video.reader import VideoReader

    source = video.get_stream_source()
    with VideoReader(source) as reader:
        info = reader.info
    identity = checkpoint_identity(checkpoint_path(job.checkpoint))
    identity.update(job.priors.identity if job.priors else {})
    settings, codec, crf = job.settings, job.codec, job.crf
    # One folder per work, as every run has an output of its own.
    start_s, duration_s = trim_window(video)
    work = {
        **identity,
        **(job.first.stage.identity if job.first else {}),
        "input": file_identity(source),
        "window": [start_s, duration_s],
        "codec": codec,
        "crf": crf,
        "adapt": job.adapt,
    }
    digest = identity_digest({**work, "settings": dataclasses.asdict(settings)})
    folder = Path(folder_paths.get_temp_directory()) / f"{PREFIX}parts_{digest}"
    suffix = container_for(info.audio_codecs, codec)

    def make_ends(path: Path) -> VideoEnds:
        if start_s or duration_s:
            return WindowEnds(source, path, codec, crf, start_s=start_s, duration_s=duration_s)
        return VideoEnds(source, path, codec, crf)

    if job.adapt:
        kept = Kept.beside(folder, work)
        with temporary_file(suffix) as unused:
            ends = make_ends(unused)
            ends.check = raise_if_cancelled
            size = (info.height, info.width)
            loaded = learned_from_ends(ends, job.loaded, job.checkpoint, settings, kept, size)
        unused.unlink(missing_ok=True)
        job = dataclasses.replace(job, loaded=loaded)
        identity["adaptation"] = kept.digest
    with temporary_file(suffix) as path, Cancellable():
        ends = make_ends(path)
        report = restore_ends(
            ends,
            job.engine(),
            settings,
            resumable=Resumable(folder=folder, identity=identity),
            callback=job.view.on_progress,
            before_segment=lambda: job.load(info.height, info.width),
            on_frame=job.view.on_frame,
            on_read=job.view.on_read,
            check=raise_if_cancelled,
            cancelled_by=(comfy.model_management.InterruptProcessingException,),
        )
    if job.priors and len(job.priors) > report.num_frames:
        # Only now: what a file says of its length may be wrong.
        logger.warning(
            "coding_priors: are of %d frames, the video had %d, for which they were right",
            len(job.priors),
            report.num_frames,
        )
    return path


def restore_components(
    video: Any,
    job: VideoJob,
) -> Path:
    """Restore a video that exists only as frames, without encoding them first."""
    from ..jobs.parts import PartEncoder
    from ..restoration.streaming.stream import restore_stream
    from ..video.coding_priors import check_number
    from ..video.writer import VideoWriter

    settings, codec = job.settings, job.codec
    parts = video.get_components()
    with Cancellable():
        images = usable_frames(parts.images)
    num_frames, height, width = images.shape[:3]
    if job.priors:
        check_number(job.priors.priors, num_frames)
    if job.adapt:
        loaded = learned_from_frames(images, job.loaded, job.checkpoint, settings)
        job = dataclasses.replace(job, loaded=loaded)
    rate = frame_rate(parts.frame_rate)
    # As deep as the codec can store.
    deep = CODECS[codec].max_depth > 8
    dtype = np.dtype(np.uint16 if deep else np.uint8)
    frames = (to_array(rounded(image[..., :3], dtype)) for image in images)
    with temporary_file(".mp4") as path, _sound_of(parts) as sound:
        writer = VideoWriter(
            path,
            width=width,
            height=height,
            time_base=1 / (rate * rate.denominator),
            average_rate=rate,
            codec=codec,
            crf=job.crf,
            bit_depth=CODECS[codec].max_depth,
            audio_from=sound,
        )
        step = rate.denominator
        times = ((index * step, step) for index in range(num_frames))
        with (
            writer,
            # In a thread: large frames take seconds, and an encoder keeps many to the end.
            PartEncoder(writer.pictures, path.suffix, times, raise_if_cancelled) as encoder,
            Cancellable(),
        ):
            restored = restore_stream(
                frames,
                job.engine(),
                settings,
                job.view.on_progress,
                num_frames,
                lambda: job.load(height, width),
                job.view.on_frame,
            )
            for frame in restored:
                encoder.put(frame)
            for encoded in encoder.finish():
                writer.write_encoded(encoded)
    return path


def frame_rate(rate: Fraction) -> Fraction:
    """Return the rate that was meant by one that went through a float, in frames per second.

    Get Video Components gives 30000/1001 as a float, and Create Video takes what the float is
    to the bit: a quotient of numbers that no container stores.

    Args:
        rate: Above 0.

    Returns:
        The closest one with 1001 or less below the line, as every standard rate has it; of
        rates below 1 the closest whose reciprocal has. After an hour at 24 frames per second
        or more frames are at most 0.1 ms from where they were.
    """
    if rate < 1:
        return 1 / Fraction(1 / rate).limit_denominator(1001)
    return Fraction(rate).limit_denominator(1001)


def load_for(
    loaded: LoadedCheckpoint | LoadedFeedForward,
    settings: RestorationSettings,
    height: int,
    width: int,
    first: UpscaleStage | None,
    num_frames: int | None = None,
) -> None:
    """Have ComfyUI load what restores frames of this size, in pixels; see `memory_bytes`."""
    from ..restoration.borrowing.passes import borrowing_bytes

    memory = loaded.memory_bytes(settings, height, width, num_frames)
    # Frames borrow while the next ones are decoded.
    memory += settings.borrow * borrowing_bytes(height, width)
    if first is not None:
        memory += first.memory_bytes(settings, height, width)
    load_to_device(loaded.patchers(), memory, first and first.model)


@contextmanager
def _sound_of(parts: Any) -> Iterator[str | None]:
    """Give a file with the sound of video components, or None where there is none."""
    if parts.audio is None:
        yield None
        return
    with temporary_file(".mp4") as path:
        # ComfyUI cuts the sound to the number of frames, so that many small ones it is.
        images = parts.images[:1, :1, :1, :3].expand(len(parts.images), 16, 16, 3)
        small = Types.VideoComponents(
            images=images, audio=parts.audio, frame_rate=parts.frame_rate
        )
        InputImpl.VideoFromComponents(small).save_to(str(path))
        try:
            yield str(path)
        finally:
            path.unlink(missing_ok=True)
