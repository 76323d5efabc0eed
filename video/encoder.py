"""Encode frames into packets: a stream of any output file, fed frame by frame.

A packet can leave the process as an `EncodedFrame` and be written by another one: the stream
that `add_stream` gives to a file is the same each time, so the packets fit.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from .codecs import codec_named, codes_fields, pixel_format
from .color import PixelConverter, picture
from .color_tags import ColorTags
from .frames import EncodedFrame
from .hdr import HdrMetadata, add_to_container
from .info import FieldOrder


@dataclass(frozen=True, kw_only=True)
class PictureFormat:
    """How the pictures of a file are encoded."""

    width: int
    height: int
    codec: str
    """A name of `codecs.CODECS`."""
    crf: int | None
    """Checked; None where the codec has none."""
    bit_depth: int
    """Of the source."""
    has_alpha: bool
    color: ColorTags
    """As stored: see `stored_tags`."""
    hdr: HdrMetadata | None
    sample_aspect_ratio: Fraction
    fields: FieldOrder | None
    """Of interlaced pictures."""
    time_base: Fraction
    """Seconds per unit of `pts`."""
    average_rate: Fraction
    """Frames per second."""

    @property
    def pix_fmt(self) -> str:
        """Name of the stored pixel format in libav."""
        return pixel_format(self.codec, self.width, self.height, self.bit_depth, self.has_alpha)

    @property
    def step(self) -> int:
        """Duration of one frame at the average rate, in units of the time base."""
        return max(1, round(1 / (self.average_rate * self.time_base)))

    def add_stream(self, output: OutputContainer, suffix: str) -> VideoStream:
        """Add the video stream to an output file of this suffix."""
        codec = codec_named(self.codec)
        options = dict(codec.options)
        if self.crf is not None:
            options["crf"] = str(self.crf)
        if self.hdr and codec.encoder == "libx265":
            options["x265-params"] += self.hdr.x265_params()
        if self.fields and codec.encoder == "libx264" and codes_fields(self.codec, self.height):
            # The flag of the pictures alone comes too late for the order in their headers.
            options["x264-params"] = {"top": "tff=1", "bottom": "bff=1"}[self.fields]
        stream = output.add_stream(codec.encoder, rate=self.average_rate, options=options)
        assert isinstance(stream, VideoStream)
        if self.hdr and codec.hdr_in_container:
            add_to_container(stream, self.hdr)
        stream.height, stream.width = self.height, self.width
        stream.pix_fmt = self.pix_fmt
        stream.time_base = self.time_base
        context = stream.codec_context
        context.time_base = self.time_base
        context.framerate = self.average_rate
        context.thread_type = "AUTO"
        context.sample_aspect_ratio = self.sample_aspect_ratio
        context.colorspace = self.color.space
        context.color_range = self.color.range
        context.color_primaries = self.color.primaries
        context.color_trc = self.color.transfer
        if self.fields:
            self._flag_fields(context)
        if codec.encoder == "libx265" and suffix != ".mkv":
            context.codec_tag = "hvc1"  # The only one that Apple's players take.
        return stream

    def _flag_fields(self, context: Any) -> None:
        if hasattr(context, "field_order"):  # PyAV 15; without it the pictures alone say it.
            context.field_order = {"top": 2, "bottom": 3}[self.fields or "top"]
        if codes_fields(self.codec, self.height):
            context.flags |= Flags.interlaced_dct


class FrameEncoder:
    """Feed frames to a stream, get packets."""

    def __init__(self, stream: VideoStream, pictures: PictureFormat) -> None:
        self._stream = stream
        self._pictures = pictures
        self._durations: dict[int, int] = {}
        self._converters: dict[str, PixelConverter] = {}
        self._began = False

    def encode(self, pixels: np.ndarray, pts: int, duration: int | None) -> list[Any]:
        """Encode one frame; returns the packets that are ready, none or some."""
        pictures = self._pictures
        source = picture(pixels, pictures.pix_fmt, pictures.has_alpha)
        layout = source.format.name
        if layout not in self._converters:
            self._converters[layout] = PixelConverter(
                pictures.width,
                pictures.height,
                layout,
                pictures.pix_fmt,
                pictures.color,
                fields=pictures.fields,
            )
        frame = self._converters[layout](source)
        frame.pts = pts
        frame.time_base = pictures.time_base
        _tag(frame, pictures.color)
        self._durations[pts] = duration or pictures.step
        self._began = True
        return self._packets(frame)

    def flush(self) -> list[Any]:
        """Return the packets the encoder still holds; nothing can be encoded afterwards."""
        if not self._began:
            return []
        self._began = False
        return self._packets(None)

    def __del__(self) -> None:
        # libx265 hangs or crashes when it is freed with frames inside: a run was stopped.
        if self._began and codec_named(self._pictures.codec).encoder == "libx265":
            with contextlib.suppress(FFmpegError):
                self.flush()

    def _packets(self, frame: av.VideoFrame | None) -> list[Any]:
        packets = self._stream.encode(frame)
        for packet in packets:
            if packet.pts is not None:
                # Encoders drop durations; without this the last frame's is lost.
                packet.duration = self._durations.pop(packet.pts, self._pictures.step)
        return packets


class PacketEncoder:
    """Encode frames without a file; the first packet is a key frame."""

    def __init__(self, pictures: PictureFormat, suffix: str) -> None:
        """Open an encoder as a file of this suffix would.

        Raises:
            ValueError: If the encoder does not take such pictures.
        """
        # Never read: PyAV gives encoders to files alone.
        self._container = av.open(io.BytesIO(), "w", format="matroska")
        stream = pictures.add_stream(self._container, suffix)
        try:
            self._container.start_encoding()
        except FFmpegError as error:
            raise cannot_encode(pictures, error) from error
        self._encoder = FrameEncoder(stream, pictures)

    def encode(self, pixels: np.ndarray, pts: int, duration: int) -> list[EncodedFrame]:
        """Encode one frame; returns the packets that are ready."""
        return _portable(self._encoder.encode(pixels, pts, duration))

    def finish(self) -> list[EncodedFrame]:
        """Return the last packets and close the encoder."""
        packets = _portable(self._encoder.flush())
        self._container.close()
        return packets


def to_packet(frame: EncodedFrame, stream: VideoStream, time_base: Fraction) -> Any:
    """Return a packet of a stream from an encoded frame."""
    packet = av.Packet(frame.data)
    packet.stream = stream
    packet.pts = packet.dts = frame.pts
    packet.time_base = time_base
    packet.duration = frame.duration
    packet.is_keyframe = frame.is_keyframe
    return packet


def cannot_encode(pictures: PictureFormat, error: FFmpegError) -> ValueError:
    """Return one line on what an encoder refuses: nearly always the size."""
    return ValueError(
        f"{pictures.codec} cannot encode {pictures.width}x{pictures.height} pixels as "
        f"{pictures.pix_fmt} here ({error.strerror}); ffv1 takes any size, and so does a "
        "folder of images"
    )


def stored_tags(codec: str, color: ColorTags, width: int, height: int) -> ColorTags:
    """Return the colour description that a codec stores for a source of this one.

    Args:
        codec: A name of `codecs.CODECS`.
        color: Of the source; decided by the size of its pictures as coded, if it has one.
        width: Of the output, pixels: decides what is still open, the matrix of RGB included.
        height: Of the output, pixels.
    """
    if codec_named(codec).rgb:
        return color.decided(width, height, "gbrp")
    tags = color.decided(width, height, "yuv420p")
    if color.is_rgb:
        tags = replace(tags, range=1)
    return _prores_tags(tags) if codec == "prores" else tags


# What the header of a ProRes picture has numbers for (SMPTE RDD 36); others read back as
# unspecified, whatever the container says.
_PRORES_SPACES = {1: 1, 4: 6, 5: 6, 6: 6, 9: 9, 10: 9}
_PRORES_PRIMARIES = (1, 5, 6, 9, 11, 12)
_PRORES_TRANSFERS = (1, 16, 18)


def _prores_tags(tags: ColorTags) -> ColorTags:
    return ColorTags(
        space=_PRORES_SPACES.get(tags.space, 1),
        # It has no field for the range, and players assume limited.
        range=1,
        primaries=tags.primaries if tags.primaries in _PRORES_PRIMARIES else 1,
        transfer=tags.transfer if tags.transfer in _PRORES_TRANSFERS else 1,
    )


def _tag(frame: Any, color: ColorTags) -> None:
    """Name the colours of a picture: encoders of FFmpeg 8 follow it, and not the stream."""
    frame.colorspace = color.space
    frame.color_range = color.range
    if hasattr(frame, "color_primaries"):  # PyAV 15; the FFmpeg of 14 follows the stream.
        frame.color_primaries = color.primaries
        frame.color_trc = color.transfer


def _portable(packets: list[Any]) -> list[EncodedFrame]:
    return [
        EncodedFrame(
            data=bytes(packet),
            pts=packet.pts,
            duration=packet.duration,
            is_keyframe=bool(packet.is_keyframe),
        )
        for packet in packets
    ]
