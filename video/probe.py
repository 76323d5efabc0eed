"""Find out what a video file says about its pictures, before they are read."""

from __future__ import annotations

import contextlib
import itertools
import re
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from .color import bit_depth, has_alpha
from .color_tags import ColorTags
from .fields import field_order, upright_order
from .hdr import dynamic_hdr, hdr_metadata
from .info import VideoInfo
from .orientation import display_matrix, views
from .rationals import known
from .source import Source, VideoError, open_input
from .turning import rotation, swaps_axes

_DEFAULT_RATE = Fraction(25)
_MAX_RATE = 250
"""Frames per second; above, it may be a clock rate that libav takes for one."""
_NUM_MEASURED = 250
"""Packets from which a rate is measured."""
_MAX_ESTIMATE = 10**8
"""Frames: more than a month of video."""
_STILLS = Disposition.still_image | Disposition.timed_thumbnails
_PHOTO_CODECS = {"mjpeg", "png", "bmp", "jpegls", "jpeg2000", "webp", "tiff", "gif"}
"""Of thumbnails beside a video; alone they are a video."""


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the stream to restore: the one that a player shows.

    Moving pictures before stills and thumbnails, the default stream before others, video
    before a row of photos, then the larger picture, then the first.

    Raises:
        VideoError: If there is none.
    """
    # The cover picture of a song is a video stream of one frame. A stream of a codec that
    # is not known here has no context.
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic and stream.codec_context
    ]
    if not streams and any(
        stream.type == "video" and stream.codec_context is None for stream in container.streams
    ):
        raise VideoError(f"{name}: its video is in a codec that is not known here")
    if not streams:
        found = ", ".join(stream.type or "unknown" for stream in container.streams)
        raise VideoError(f"{name}: has no video stream (found: {found or 'nothing'})")
    return max(streams, key=lambda stream: (_precedence(stream), -stream.index))


def _precedence(stream: VideoStream) -> tuple[bool, bool, bool, int]:
    context, disposition = stream.codec_context, stream.disposition
    is_still = stream.frames == 1 or bool(disposition & _STILLS)
    return (
        not is_still,
        bool(disposition & Disposition.default),
        context.name not in _PHOTO_CODECS,
        context.width * context.height,
    )


def picture_rate(source: Source, stream: VideoStream, first: av.VideoFrame) -> Fraction:
    """Return the frames per second of a stream, of which one picture was decoded.

    Args:
        source: The file, which is read once more if what it says cannot be.
        stream: Of the open file.
        first: Its first picture.
    """
    rate, coded = average_rate(stream), known(stream.codec_context.framerate) or Fraction(0)
    if first.pts is None and _is_plausible(coded):
        # A bare stream of packets: libav says 25, only the pictures know.
        return coded
    if first.interlaced_frame and rate == 2 * coded:
        # One packet for each field.
        return coded
    if _is_plausible(rate):
        return rate
    measured = _measured_rate(source, stream.index)
    return measured if _is_plausible(measured) else rate


def stores_decoding_order(source: Source, container: InputContainer, index: int) -> bool:
    """Tell whether the stamps of a stream say when packets are decoded, and not shown.

    So it is in AVI, and in MXF of H.264 where the index does not say how pictures are
    reordered.
    """
    if container.format.name != "mxf":
        return container.format.name == "avi"
    with open_input(source) as again, contextlib.suppress(FFmpegError):
        packets = again.demux(again.streams[index])
        first = [packet for packet in itertools.islice(packets, _NUM_MEASURED) if packet.size]
        return all(packet.pts == packet.dts for packet in first)
    return False


def _is_plausible(rate: Fraction) -> bool:
    return 0 < rate <= _MAX_RATE


def _measured_rate(source: Source, index: int) -> Fraction:
    """Return frames per second from the first time stamps; 0 where there are none."""
    times: list[Fraction] = []
    try:
        with open_input(source) as container:
            for packet in container.demux(container.streams[index]):
                if packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts * packet.time_base)
                if len(times) == _NUM_MEASURED:
                    break
    except FFmpegError:
        # A damaged place: what came before is enough.
        pass
    span = max(times) - min(times) if times else Fraction(0)
    return ((len(times) - 1) / span).limit_denominator(1001) if span else Fraction(0)


def average_rate(stream: VideoStream) -> Fraction:
    """Return the frames per second that a stream says, or a guess."""
    for rate in map(known, (stream.average_rate, stream.guessed_rate)):
        if rate is not None and rate > 0:
            return rate
    return _DEFAULT_RATE


def describe(
    container: InputContainer, stream: VideoStream, first: av.VideoFrame, rate: Fraction
) -> VideoInfo:
    """Return what is known of a stream.

    Args:
        container: The open file.
        stream: Of that file.
        first: Its first picture.
        rate: Its `picture_rate`.
    """
    context = stream.codec_context
    pix_fmt = first.format.name
    matrix = display_matrix(first)
    turned = swaps_axes(matrix)
    # Of the container before that of the pictures, as players do.
    aspect = (
        known(stream.sample_aspect_ratio) or known(context.sample_aspect_ratio) or Fraction(1)
    )
    duration = stream_duration(container, stream)
    estimate = round(duration * rate) if duration else None
    return VideoInfo(
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        average_rate=rate,
        time_base=known(stream.time_base) or 1 / rate,
        num_frames=_num_frames(stream.frames, estimate),
        duration=duration,
        rotation=rotation(matrix),
        codec=context.name,
        pix_fmt=pix_fmt,
        bit_depth=bit_depth(pix_fmt),
        has_alpha=has_alpha(pix_fmt),
        color=_color_tags(context, first).decided(first.width, first.height, pix_fmt),
        hdr=hdr_metadata(first),
        dynamic_hdr=dynamic_hdr(first),
        views=views(first),
        sample_aspect_ratio=1 / aspect if turned else aspect,
        fields=upright_order(field_order(first, context), matrix, first.height),
        audio_codecs=tuple(
            s.codec_context.name if s.codec_context else "unknown"
            for s in container.streams.audio
        ),
    )


def _color_tags(context: Any, first: av.VideoFrame) -> ColorTags:
    """Return what a stream names, of the picture first: it has the last word in players."""

    def named(attribute: str, unspecified: int) -> int:
        value = int(getattr(first, attribute, unspecified))
        return int(getattr(context, attribute)) if value == unspecified else value

    return ColorTags(
        space=named("colorspace", 2),
        range=named("color_range", 0),
        primaries=named("color_primaries", 2),
        transfer=named("color_trc", 2),
    )


def stream_duration(container: InputContainer, stream: VideoStream | None) -> Fraction | None:
    """Return the seconds of the stream, or of the whole container."""
    if stream is not None:
        unit = known(stream.time_base)
        if stream.duration and stream.duration > 0 and unit:
            return stream.duration * unit
        tagged = tagged_duration(stream)
        if tagged is not None:
            return tagged
    duration = container.duration
    return Fraction(duration, av.time_base) if duration and duration > 0 else None


def tagged_duration(stream: VideoStream) -> Fraction | None:
    """Return Matroska's per-stream duration tag ("00:01:02.500000000"), in seconds."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def _num_frames(counted: int, estimate: int | None) -> int | None:
    # The count includes what an edit list cuts away; the duration does not. A damaged header
    # may say anything.
    if estimate and estimate > _MAX_ESTIMATE:
        estimate = None
    if estimate and counted > 1 + 1.02 * estimate:
        return estimate
    return counted or estimate or None
