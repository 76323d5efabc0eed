"""Write video files with the time stamps, audio and colour description of a source.

The file is written under a hidden temporary name beside its target and renamed when it is
complete: whatever interrupts the work, nothing incomplete has the final name.

Time stamps are stored as given in mp4 and mov. Matroska rounds them to milliseconds (the rate
beside them reads back as 30000/1001), and what lies closer moves to the next one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError

from .codecs import FORMATS, check_container, codec_named
from .color_tags import REC709, ColorTags
from .encoder import (
    FrameEncoder,
    PictureFormat,
    cannot_encode,
    stored_tags,
    to_packet,
)
from .frames import EncodedFrame
from .hdr import HdrMetadata
from .hidden_names import hidden_stem, leftovers
from .info import FieldOrder, VideoInfo
from .matroska import reserve_display_size, write_display_size
from .output_file import OutputFile
from .output_place import unwritable
from .source import Source, VideoError, source_name
from .stream_copy import PacketCopier
from .stream_plan import check_audio_choice
from .ticks import MillisecondTicks

logger = logging.getLogger(__name__)


class VideoWriter:
    """Encode frames into a file, which appears when the `with` block ends well.

        with VideoWriter.like("out.mp4", reader.info, audio_from="in.mp4") as writer:
            for frame in reader:
                writer.write(frame.pixels, frame.pts, frame.duration)

    Any exception inside the block, cancelling included, removes what was written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        average_rate: Fraction,
        codec: str = "h264",
        crf: int | None = None,
        bit_depth: int = 8,
        has_alpha: bool = False,
        color: ColorTags = REC709,
        hdr: HdrMetadata | None = None,
        sample_aspect_ratio: Fraction = Fraction(1),
        fields: FieldOrder | None = None,
        audio_from: Source | None = None,
        audio: str = "copy",
    ) -> None:
        """Check everything that can be checked before the first frame.

        Args:
            path: Target, .mp4, .mov or .mkv; replaced if it exists.
            width: Pixels. Odd sizes are kept (stored as 4:4:4 where the codec needs it).
            height: Pixels.
            time_base: Seconds per unit of `pts`.
            average_rate: Frames per second, stored beside the time stamps.
            codec: A name of `codecs.CODECS`.
            crf: Quality of h264 and h265, 0 (lossless) to 51; None: nearly lossless.
            bit_depth: Of the source; above 8, h265, prores and ffv1 keep more than 8 bits.
            has_alpha: Pixels are RGBA; only prores and ffv1 store transparency.
            color: What to tag, and the matrix and range to convert with; the size
                decides what is open.
            hdr: Mastering display and light level; h264 has no room for them.
            sample_aspect_ratio: Width of a pixel over its height.
            fields: Which field is first, of interlaced frames.
            audio_from: Video whose sound, subtitles and other streams are brought along.
            audio: What to do with sound: "copy" encodes to AAC what the file cannot hold,
                "encode" all; "drop" leaves all out.

        Raises:
            ValueError: If the codec, file type, audio and options do not fit together, or
                the target is the source.
            FileNotFoundError: If the output folder or the audio source does not exist.
            PermissionError: If the output folder cannot be written to.
        """
        self.path = Path(path)
        self._source = audio_from
        self._audio = check_audio_choice(audio)
        self._ends_early = False
        self.sound_error: VideoError | None = None
        """Why the sound could not be copied to its end; the pictures are written anyway."""
        checked_crf = _checked_crf(codec, crf)
        if has_alpha and not codec_named(codec).alpha:
            raise ValueError(f"{path}: {codec} has no transparency, use ffv1 or prores")
        check_container(self.path, codec)
        _check_target(self.path, audio_from)
        if audio_from is not None:
            copier = PacketCopier(audio_from, self.path.suffix.lower(), audio)
            copier.close()
            losses = copier.description.losses(self.path.suffix.lower(), average_rate)
            name = source_name(audio_from)
            for warning in (*copier.plan.warnings, *(f"{name}: {each}" for each in losses)):
                logger.warning("%s", warning)
        self.pictures = PictureFormat(
            width=width,
            height=height,
            codec=codec,
            crf=checked_crf,
            bit_depth=bit_depth,
            has_alpha=has_alpha,
            color=stored_tags(codec, color, width, height),
            hdr=hdr,
            sample_aspect_ratio=sample_aspect_ratio,
            fields=fields,
            time_base=time_base,
            average_rate=average_rate,
        )
        """How the pictures are encoded; `PacketEncoder` takes it."""
        self._part = self.path.with_name(
            f"{hidden_stem(self.path.stem)}.part-{os.getpid()}{self.path.suffix}"
        )

    @classmethod
    def like(
        cls,
        path: str | Path,
        info: VideoInfo,
        *,
        codec: str = "h264",
        crf: int | None = None,
        audio_from: Source | None = None,
        audio: str = "copy",
    ) -> VideoWriter:
        """Return a writer with the size, timing, depth, alpha and colours of a source."""
        return cls(
            path,
            width=info.width,
            height=info.height,
            time_base=info.time_base,
            average_rate=info.average_rate,
            codec=codec,
            crf=crf,
            bit_depth=info.bit_depth,
            has_alpha=info.has_alpha,
            color=info.color,
            hdr=info.hdr,
            sample_aspect_ratio=info.sample_aspect_ratio,
            fields=info.fields,
            audio_from=audio_from,
            audio=audio,
        )

    def __enter__(self) -> VideoWriter:
        self._num_frames = 0
        self._last_pts: int | None = None
        self._end = Fraction(0)
        self._ticks = MillisecondTicks()
        self._copier: PacketCopier | None = None
        self._container: OutputContainer | None = None
        # Not libav's own: it hides write errors that come while it closes.
        self._file = OutputFile(self._part)
        try:
            suffix = self.path.suffix.lower()
            name = FORMATS[suffix]
            # The start of a track is stored in ticks of the whole movie: milliseconds, if
            # not as fine as the video's own, which shifts a clip that starts late.
            options = {"movie_timescale": str(self._movie_timescale())}
            if self._source is not None:
                self._copier = PacketCopier(self._source, suffix, self._audio)
                options |= self._copier.description.container_options(suffix)
            output = av.open(
                self._file, "w", format=name, options={} if name == "matroska" else options
            )
            self._container = output
            self._stream = self.pictures.add_stream(output, suffix)
            self._encoder = FrameEncoder(self._stream, self.pictures)
            if self._copier is not None:
                self._copier.attach(output)
                rate = self.pictures.average_rate
                self._copier.description.write(output, self._stream, suffix, rate)
            if self._shapes_pixels:
                reserve_display_size(self._stream)
            # Now, and not with the first frame: what is refused is refused before the work.
            with self._one_line_errors():
                output.start_encoding()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def write(self, pixels: np.ndarray, pts: int, duration: int | None = None) -> None:
        """Encode one frame.

        Args:
            pixels: `[H, W, C]` uint8, or uint16 over 0 to 65535; RGB, or RGBA with alpha.
            pts: Start of display in units of the time base, above that of the last frame.
            duration: Time on display, same unit; None: one frame at the average rate.

        Raises:
            ValueError: If shape, type or time stamp are not as described.
            OSError: If the disk is full or cannot be written.
        """
        self._check_frame(pixels)
        self._note(pts, duration)
        with self._one_line_errors():
            self._mux(self._encoder.encode(pixels, pts, duration))

    def write_encoded(self, frame: EncodedFrame) -> None:
        """Write a frame that a `PacketEncoder` of `pictures` has encoded.

        Raises:
            ValueError: If its time stamp is not above that of the last frame.
            OSError: If the disk is full or cannot be written.
        """
        self._note(frame.pts, frame.duration)
        with self._one_line_errors():
            self._mux([to_packet(frame, self._stream, self.pictures.time_base)])

    def remove_leftovers(self, source: Source) -> None:
        """Remove what killed runs left of this output; only where no other run can be at it.

        Args:
            source: The input, which stays.
        """
        stem, suffix = self.path.with_name(self.path.stem), self.path.suffix
        for leftover in leftovers(stem, suffix, source=source):
            leftover.unlink(missing_ok=True)

    def end_early(self) -> None:
        """Copy sound up to the last frame only: the source cannot be read further."""
        self._ends_early = True

    def _check_frame(self, pixels: np.ndarray) -> None:
        pictures = self.pictures
        expected = (pictures.height, pictures.width, 4 if pictures.has_alpha else 3)
        if pixels.shape != expected or pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"{self.path}: frame {self._num_frames} must be {list(expected)} uint8 or "
                f"uint16, got {list(pixels.shape)} {pixels.dtype}"
            )

    def _note(self, pts: int, duration: int | None) -> None:
        """Check that time moves on, and remember how far it came."""
        time_base = self.pictures.time_base
        if self._last_pts is not None and pts <= self._last_pts:
            raise ValueError(
                f"{self.path}: frame {self._num_frames} at pts {pts} does not come after "
                f"the one before it at {self._last_pts} ({time_base} s)"
            )
        self._num_frames += 1
        self._last_pts = pts
        self._end = (pts + (duration or self.pictures.step)) * time_base

    @property
    def _shapes_pixels(self) -> bool:
        """Whether the container must be told the shape of pixels beside the encoder."""
        return self.path.suffix.lower() == ".mkv" and self.pictures.sample_aspect_ratio != 1

    def _movie_timescale(self) -> int:
        ticks = self.pictures.time_base.denominator
        return ticks if ticks >= 10000 else ticks * math.ceil(10000 / ticks)

    def _mux(self, packets: list[Any]) -> None:
        """Write packets, and sound up to their time."""
        output = self._container
        assert output is not None
        for packet in packets:
            if packet.pts is not None:
                self._copy_sound(packet.pts * packet.time_base)
                if self.path.suffix.lower() == ".mkv":
                    self._ticks.place(packet)
            output.mux(packet)

    def _copy_sound(self, until: Fraction | None) -> None:
        if self._copier is None or self.sound_error is not None:
            return
        assert self._container is not None
        try:
            self._copier.copy_until(self._container, until)
        except VideoError as error:
            self.sound_error = error

    def _finish(self) -> None:
        if self._num_frames == 0:
            raise ValueError(f"{self.path}: no frame was written")
        output = self._container
        assert output is not None
        with self._one_line_errors():
            self._mux(self._encoder.flush())
            self._copy_sound(self._end if self._ends_early else None)
            if self._copier is not None:
                self._copier.close()
            output.close()
            self._file.check()
            if self._shapes_pixels:
                write_display_size(self._file, self.pictures.sample_aspect_ratio)
            self._file.close()
            os.replace(self._part, self.path)
        if self._ticks.num_moved:
            logger.warning(
                "%s: %d frames lie closer than the milliseconds that mkv counts in and come up "
                "to %.1f ms late; mp4 and mov keep the exact times",
                self.path,
                self._ticks.num_moved,
                float(1000 * self._ticks.furthest),
            )

    def _discard(self) -> None:
        """Close everything and remove the temporary file, whatever state it is in."""
        if self._copier is not None:
            self._copier.close()
        try:
            with contextlib.suppress(FFmpegError, OSError):
                if self._container is not None:
                    self._container.close()
            with contextlib.suppress(OSError):
                self._file.close()
        finally:
            self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turn what the disk or libav refuse into one line that names the file."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.path, error) from error
        except FFmpegError as error:
            if self._num_frames == 0:
                raise ValueError(
                    f"{self.path}: {cannot_encode(self.pictures, error)}"
                ) from error
            raise ValueError(
                f"{self.path}: {self.pictures.codec} could not be written ({error.strerror})"
            ) from error


def _checked_crf(codec: str, crf: int | None) -> int | None:
    default, highest = codec_named(codec).default_crf, codec_named(codec).max_crf
    if crf is None:
        return default
    if default is None:
        raise ValueError(f"{codec} has no crf, leave it out")
    if not 0 <= crf <= highest:
        raise ValueError(f"crf must be between 0 and {highest} for {codec}, got {crf}")
    return crf


def _check_target(path: Path, source: Source | None) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist, create it first")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, name a file in it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {folder} cannot be written to")
    both_exist = isinstance(source, str | Path) and Path(source).exists() and path.exists()
    if both_exist and os.path.samefile(str(source), path):
        raise ValueError(f"{path}: is the input itself, choose another output name")
