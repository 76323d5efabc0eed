"""Find out what a video file says about its pictures, before they are read."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from .color import bit_depth, has_alpha
from .color_tags import ColorTags
from .hdr import dynamic_hdr, hdr_metadata
from .info import VideoInfo
from .orientation import display_matrix, rotation, swaps_axes
from .source import VideoError

_DEFAULT_RATE = Fraction(25)


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the stream to restore.

    Raises:
        VideoError: If there is none.
    """
    for stream in container.streams.video:
        # The cover picture of a song is a video stream of one frame.
        if not stream.disposition & Disposition.attached_pic:
            return stream
    found = ", ".join(stream.type for stream in container.streams) or "nothing"
    raise VideoError(f"{name}: has no video stream (found: {found})")


def average_rate(stream: VideoStream) -> Fraction:
    """Return the frames per second that a stream says, or a guess."""
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE


def describe(container: InputContainer, stream: VideoStream, first: av.VideoFrame) -> VideoInfo:
    """Return what is known of a stream, of which one picture was decoded."""
    context = stream.codec_context
    rate = average_rate(stream)
    pix_fmt = first.format.name
    matrix = display_matrix(first)
    turned = swaps_axes(matrix)
    # Of the container before that of the pictures, as players do.
    aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
    duration = stream_duration(container, stream)
    estimate = round(duration * rate) if duration else None
    return VideoInfo(
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        average_rate=rate,
        time_base=stream.time_base or 1 / rate,
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
        sample_aspect_ratio=1 / aspect if turned else aspect,
        audio_codecs=tuple(s.codec_context.name for s in container.streams.audio),
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
        if stream.duration and stream.time_base:
            return stream.duration * stream.time_base
        tagged = tagged_duration(stream)
        if tagged is not None:
            return tagged
    return Fraction(container.duration, av.time_base) if container.duration else None


def tagged_duration(stream: VideoStream) -> Fraction | None:
    """Return Matroska's per-stream duration tag ("00:01:02.500000000"), in seconds."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def _num_frames(counted: int, estimate: int | None) -> int | None:
    # The count includes what an edit list cuts away; the duration does not.
    if estimate and counted > 1 + 1.02 * estimate:
        return estimate
    return counted or estimate or None
