"""Decide what becomes of the sound, subtitles and other streams, before the first frame.

Copied where the output can hold it, else encoded or dropped: nothing beside the pictures may
cost the pictures.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Disposition

from .codecs import FORMATS, SUBTITLES, unsupported_audio
from .description import as_utf8, is_rewritten
from .probe import video_stream
from .sound import AacForm, aac_form
from .source import VideoError
from .subtitles import TEXT_CODECS, can_convert

AUDIO_CHOICES = ("copy", "encode", "drop")
"""What may be done with sound: `copy` encodes what the output cannot hold."""


_HOLDS_FILES = hasattr(OutputContainer, "add_attachment")
"""Whether PyAV writes attachments, and streams without a codec."""


@dataclass(frozen=True, kw_only=True)
class PlannedStream:
    """A stream of the source that has a place in the output."""

    stream: Any
    """Of the open source."""
    form: AacForm | None
    """How sound is encoded; None: its packets are copied, or it is no sound."""
    text_codec: str | None = None
    """What subtitles of text become; None: their packets are copied."""


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """What becomes of the streams of a source beside its pictures."""

    streams: Sequence[PlannedStream]
    warnings: Sequence[str]
    """What is lost or changed, one line each."""


def check_audio_choice(choice: str) -> str:
    """Return what is to be done with sound.

    Raises:
        ValueError: If there is no such choice.
    """
    if choice not in AUDIO_CHOICES:
        raise ValueError(f"audio must be one of {', '.join(AUDIO_CHOICES)}, got {choice!r}")
    return choice


def plan_streams(
    source: InputContainer, pictures: Any, name: str, suffix: str, audio: str
) -> StreamPlan:
    """Decide for each stream but the pictures.

    Args:
        source: Open; nothing is read from it.
        pictures: Its stream that is restored; None, if it has none.
        name: What warnings call it.
        suffix: Of the output.
        audio: What the user chose.
    """
    planned: list[PlannedStream] = []
    warnings: list[str] = []
    for stream in source.streams:
        if stream is pictures or is_rewritten(stream):
            continue
        form, text_codec = None, None
        if stream.type == "audio":
            action, reason, form = _plan_audio(stream, suffix, audio)
        else:
            action, reason = _plan_other(stream, suffix)
            text_codec = TEXT_CODECS[suffix] if action == "encode" else None
        if action != "drop":
            planned.append(PlannedStream(stream=stream, form=form, text_codec=text_codec))
        if reason:
            warnings.append(f"{name}: {stream_label(stream)} {reason}")
    return StreamPlan(streams=planned, warnings=warnings)


def codec_name(stream: Any) -> str:
    """Return libav's name of a stream's codec; "unknown" where it has none."""
    return stream.codec_context.name if stream.codec_context else "unknown"


def stream_label(stream: Any) -> str:
    """Return what messages call a stream, as ffprobe counts them."""
    language = stream.metadata.get("language", "und")
    details = as_utf8(stream.metadata.get("filename") or codec_name(stream))
    if language != "und":
        details += f", {language}"
    return f"{stream.type or 'unknown'} stream {stream.index} ({details})"


Action = Literal["copy", "encode", "drop"]


def _plan_audio(stream: Any, suffix: str, audio: str) -> tuple[Action, str, AacForm | None]:
    """Return what to do, what is to be said about it, and how it is encoded."""
    if audio == "drop":
        return "drop", "", None
    fits = not unsupported_audio(suffix, [codec_name(stream)])
    if audio == "copy" and fits and _accepted(stream, suffix):
        return "copy", "", None
    if stream.codec_context is None:
        return "drop", "is left out: its codec is not known here", None
    form = aac_form(stream)
    if form is None:
        return "drop", "is left out: it cannot be decoded", None
    reason = f"is encoded to AAC, as {suffix} cannot hold a copy"
    return "encode", "" if audio == "encode" else reason, form


def _plan_other(stream: Any, suffix: str) -> tuple[Action, str]:
    if is_cover(stream):
        # libav writes none into mov; one that is no picture fits into nothing but a file.
        kept = (
            _HOLDS_FILES if suffix == ".mkv" else suffix == ".mp4" and _accepted(stream, suffix)
        )
        return ("copy", "") if kept else ("drop", f"is left out: {suffix} cannot hold it")
    if stream.type == "subtitle" and codec_name(stream) not in SUBTITLES[suffix]:
        if can_convert(stream):
            reason = f"is converted to {TEXT_CODECS[suffix]}, as {suffix} cannot hold a copy"
            return "encode", reason
        return "drop", f"is left out: {suffix} cannot hold it"
    if not _accepted(stream, suffix):
        return "drop", f"is left out: {suffix} cannot hold it"
    if stream.type == "video":
        return "copy", "is copied as it is: only the main pictures are restored"
    return "copy", ""


def is_cover(stream: Any) -> bool:
    """Tell whether a stream is the one picture that file managers show."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def add_copy(output: Any, stream: Any) -> Any:
    """Add a stream for copies of packets to an output.

    Raises:
        ValueError: If the output cannot hold it.
    """
    # PyAV 14 crashes on streams without a codec.
    if stream.codec_context is None and not _HOLDS_FILES:
        raise ValueError(f"{stream_label(stream)} cannot be copied by this version of PyAV")
    # Of the decoder, as there need not be an encoder.
    return output.add_stream_from_template(stream, opaque=True)


def _accepted(stream: Any, suffix: str) -> bool:
    """Try whether an output can hold copies of a stream."""
    output = av.open(io.BytesIO(), "w", format=FORMATS[suffix])
    try:
        copy = add_copy(output, stream)
        output.start_encoding()
        if stream.type == "data":
            _write_one_packet(output, copy)
    except (ValueError, FFmpegError):
        return False
    finally:
        with contextlib.suppress(ValueError, FFmpegError):
            output.close()
    return True


def _write_one_packet(output: Any, stream: Any) -> None:
    """Write as the source would: some muxers take data streams and refuse their packets."""
    packet = av.Packet(b"data")
    packet.stream, packet.dts, packet.pts, packet.duration = stream, 0, 0, 1
    output.mux(packet)
    output.close()


def pictures_of(source: InputContainer, name: str) -> Any:
    """Return the stream that is restored; None, if there is only sound."""
    try:
        return video_stream(source, name)
    except VideoError:
        return None
