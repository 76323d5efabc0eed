"""Write video files with the time stamps, audio and colour description of a source.

The file is written under a hidden temporary name beside its target and renamed when it is
complete: whatever interrupts the work, nothing incomplete has the final name.

Time stamps are stored as given in mp4 and mov. Matroska rounds them to milliseconds (the
frame rate is kept beside them and reads back as 30000/1001).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from .audio import PacketCopier
from .codecs import FORMATS, check_container, codec_named, pixel_format
from .color import REC709, ColorTags, PixelConverter, picture
from .reader import VideoInfo
from .source import Source


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
        sample_aspect_ratio: Fraction = Fraction(1),
        audio_from: Source | None = None,
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
            color: What to tag, and the matrix and range to convert with.
            sample_aspect_ratio: Width of a pixel over its height.
            audio_from: Video whose audio and subtitle packets are copied unchanged.

        Raises:
            ValueError: If the codec, file type, audio and options do not fit together, or
                the target is the source.
            FileNotFoundError: If the output folder or the audio source does not exist.
            PermissionError: If the output folder cannot be written to.
        """
        self.path = Path(path)
        self._size = (height, width)
        self._time_base = time_base
        self._rate = average_rate
        self._codec_name = codec
        self._alpha = has_alpha
        self._aspect = sample_aspect_ratio
        self._source = audio_from
        self._step = max(1, round(1 / (average_rate * time_base)))
        self._crf = _checked_crf(codec, crf)
        if has_alpha and not codec_named(codec).alpha:
            raise ValueError(f"{path}: {codec} has no transparency, use ffv1 or prores")
        check_container(self.path, codec)
        _check_target(self.path, audio_from)
        if audio_from is not None:
            copier = PacketCopier(audio_from)
            copier.close()
            check_container(self.path, codec, copier.audio_codecs)
        self._pix_fmt = pixel_format(codec, width, height, bit_depth, has_alpha)
        self._color = _stored_tags(codec, color)
        self._part = self.path.with_name(
            f".{self.path.stem}.part-{os.getpid()}{self.path.suffix}"
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
            sample_aspect_ratio=info.sample_aspect_ratio,
            audio_from=audio_from,
        )

    def __enter__(self) -> VideoWriter:
        self._num_frames = 0
        self._last_pts: int | None = None
        self._durations: dict[int, int] = {}
        self._converters: dict[str, PixelConverter] = {}
        self._copier: PacketCopier | None = None
        self._container: OutputContainer | None = None
        # A Python file: libav's own hides write errors that come while it closes.
        self._file: BinaryIO = open(self._part, "wb")
        try:
            name = FORMATS[self.path.suffix.lower()]
            # The start of a track is stored in ticks of the whole movie: milliseconds, if
            # not as fine as the video's own, which shifts a clip that starts late.
            options = {"movie_timescale": str(self._movie_timescale())}
            output = av.open(
                self._file, "w", format=name, options={} if name == "matroska" else options
            )
            self._container = output
            self._stream = self._add_video_stream(output)
            if self._source is not None:
                self._copier = PacketCopier(self._source)
                self._copier.attach(output, self.path.suffix.lower())
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
        self._check_frame(pixels, pts)
        source = picture(pixels, self._pix_fmt, self._alpha)
        layout = source.format.name
        if layout not in self._converters:
            height, width = self._size
            self._converters[layout] = PixelConverter(
                width, height, layout, self._pix_fmt, self._color
            )
        frame = self._converters[layout](source)
        frame.pts = pts
        frame.time_base = self._time_base
        if not codec_named(self._codec_name).rgb:
            # The converter names the matrix it used; the tag may be "unspecified".
            frame.colorspace = self._color.space
            frame.color_range = self._color.range
        self._durations[pts] = duration or self._step
        self._num_frames += 1
        self._last_pts = pts
        self._mux(frame)

    def _check_frame(self, pixels: np.ndarray, pts: int) -> None:
        expected = (*self._size, 4 if self._alpha else 3)
        if pixels.shape != expected or pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"{self.path}: frame {self._num_frames} must be {list(expected)} uint8 or "
                f"uint16, got {list(pixels.shape)} {pixels.dtype}"
            )
        if self._last_pts is None:
            return
        last, now = self._last_pts, pts
        if self.path.suffix.lower() == ".mkv":
            last, now = (self._milliseconds(p) for p in (last, now))
        if now <= last:
            raise ValueError(
                f"{self.path}: frame {self._num_frames} at pts {pts} does not come after the "
                f"one before it at {self._last_pts} ({self._time_base} s)"
            )

    def _milliseconds(self, pts: int) -> int:
        return math.floor(pts * self._time_base * 1000 + Fraction(1, 2))

    def _movie_timescale(self) -> int:
        ticks = self._time_base.denominator
        return ticks if ticks >= 10000 else ticks * math.ceil(10000 / ticks)

    def _add_video_stream(self, output: OutputContainer) -> VideoStream:
        codec = codec_named(self._codec_name)
        options = dict(codec.options)
        if self._crf is not None:
            options["crf"] = str(self._crf)
        stream = output.add_stream(codec.encoder, rate=self._rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = self._size
        stream.pix_fmt = self._pix_fmt
        stream.time_base = self._time_base
        context = stream.codec_context
        context.time_base = self._time_base
        context.thread_type = "AUTO"
        context.sample_aspect_ratio = self._aspect
        if not codec.rgb:
            context.colorspace = self._color.space
            context.color_range = self._color.range
        context.color_primaries = self._color.primaries
        context.color_trc = self._color.transfer
        if codec.encoder == "libx265" and self.path.suffix.lower() != ".mkv":
            context.codec_tag = "hvc1"  # The only one that Apple's players take.
        return stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame (None: what the encoder holds) and write its packets."""
        output = self._container
        assert output is not None
        with self._one_line_errors():
            for packet in self._stream.encode(frame):
                if packet.pts is not None:
                    # Encoders drop durations; without this the last frame's is lost.
                    packet.duration = self._durations.pop(packet.pts, self._step)
                    if self._copier is not None:
                        self._copier.copy_until(output, packet.pts * packet.time_base)
                output.mux(packet)

    def _finish(self) -> None:
        if self._num_frames == 0:
            raise ValueError(f"{self.path}: no frame was written")
        self._mux(None)
        output = self._container
        assert output is not None
        with self._one_line_errors():
            if self._copier is not None:
                self._copier.copy_until(output, None)
                self._copier.close()
            output.close()
            self._file.close()
            os.replace(self._part, self.path)

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
            raise self._unwritable(error) from error
        except FFmpegError as error:
            raise ValueError(
                f"{self.path}: {self._codec_name} could not be written ({error.strerror})"
            ) from error

    def _unwritable(self, error: OSError) -> OSError:
        number = error.errno or errno.EIO
        advice = "free some space" if number == errno.ENOSPC else "choose another output"
        return OSError(
            number, f"{self.path}: could not be written ({os.strerror(number)}), {advice}"
        )


def _checked_crf(codec: str, crf: int | None) -> int | None:
    default, highest = codec_named(codec).default_crf, codec_named(codec).max_crf
    if crf is None:
        return default
    if default is None:
        raise ValueError(f"{codec} has no crf, leave it out")
    if not 0 <= crf <= highest:
        raise ValueError(f"crf must be between 0 and {highest} for {codec}, got {crf}")
    return crf


def _stored_tags(codec: str, color: ColorTags) -> ColorTags:
    if codec_named(codec).rgb:
        return color
    tags = color.without_rgb()
    # The ProRes bitstream has no field for the range, and players assume limited.
    return replace(tags, range=1) if codec == "prores" else tags


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
