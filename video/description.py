"""Carry over what a file says about itself: title, times, places, chapters, time code."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError

from .codecs import FORMATS
from .probe import average_rate

_OF_THE_FILE = {
    "software",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "timecode",
    "duration",
}
"""Keys that describe the container and not the film, and what is written elsewhere."""
_OF_A_STREAM = ("language", "title", "handler_name", "creation_time")


class Description:
    """What a source says about itself beside its streams."""

    def __init__(self, source: InputContainer, pictures: Any) -> None:
        """Read it.

        Args:
            source: The open file.
            pictures: Its stream of pictures; None, if it has none.
        """
        self._metadata = _plain(source.metadata)
        if self._metadata.get("creation_time", "").startswith("1970-01-01T00:00:00"):
            # No date: the start of the clock, which libav reads from WMV files that have none.
            del self._metadata["creation_time"]
        self._pictures = pictures
        # PyAV below 15 knows nothing of chapters.
        chapters = source.chapters() if hasattr(source, "chapters") else []
        self._chapters: Any = [
            {**each, "metadata": _as_utf8(each["metadata"])} for each in chapters
        ]
        self._timecode = _timecode(source)
        # Now, as a stream must not be asked after its file is closed.
        self._rate = None if pictures is None else average_rate(pictures)

    def container_options(self, suffix: str) -> dict[str, str]:
        """Return what libav's muxer must know before it keeps all keys."""
        # Phones store theirs by full names, which the usual list of mp4 and mov has not.
        named = any("." in key for key in self._metadata)
        return {"movflags": "use_metadata_tags"} if named and suffix != ".mkv" else {}

    def write(self, output: OutputContainer, video: Any, suffix: str, rate: Fraction) -> None:
        """Write it into an output, before its header.

        Args:
            output: The open file.
            video: Its stream of pictures.
            suffix: Of the file.
            rate: Frames per second of the pictures.
        """
        output.metadata.update(self._metadata)
        if self._pictures is not None:
            copy_stream_description(self._pictures, video, suffix)
        if self._chapters and hasattr(output, "set_chapters"):
            output.set_chapters(self._chapters)
        timecode = self._timecode_at(rate)
        if timecode and self._kept(suffix, rate, timecode) is not None:
            target = output if suffix == ".mkv" else video
            target.metadata["timecode"] = timecode

    def losses(self, suffix: str, rate: Fraction) -> list[str]:
        """Return what of it an output cannot hold, one line each."""
        losses = []
        timecode = self._timecode_at(rate)
        if timecode and self._kept(suffix, rate, timecode) is None:
            losses.append(
                f"its time code {timecode} is left out: {suffix} has none for "
                f"{float(rate):.6g} frames per second"
            )
        kept = self._kept(suffix, rate) or set()
        lost = sorted(key for key in self._metadata if key.lower() not in kept)
        if lost:
            losses.append(f"its tags {', '.join(lost)} are left out: {suffix} cannot hold them")
        return losses

    def _timecode_at(self, rate: Fraction) -> str:
        """Return the time code as the pictures of an output count: of twice as many, twice."""
        match = re.fullmatch(r"(.*[:;.])(\d+)", self._timecode)
        if match is None or self._rate is None:
            return self._timecode
        count = round(rate / self._rate)
        return f"{match[1]}{int(match[2]) * count:02}" if count > 1 else self._timecode

    def _kept(self, suffix: str, rate: Fraction, timecode: str = "") -> set[str] | None:
        """Try which keys a file holds; None: it would not be written at all."""
        file = io.BytesIO()
        options = self.container_options(suffix)
        try:
            with av.open(file, "w", format=FORMATS[suffix], options=options) as output:
                video: Any = output.add_stream("mjpeg", rate=rate)
                video.width = video.height = 16
                video.pix_fmt = "yuvj420p"
                output.metadata.update(self._metadata)
                if timecode:
                    video.metadata["timecode"] = timecode
                output.mux(video.encode(av.VideoFrame(16, 16, "yuvj420p")))
                output.mux(video.encode(None))
            file.seek(0)
            with av.open(file, "r") as written:
                return {key.lower() for key in written.metadata}
        except (ValueError, FFmpegError):
            return None


def copy_stream_description(source: Any, target: Any, suffix: str) -> None:
    """Carry over language, title and flags of a stream."""
    metadata = _plain(source.metadata)
    metadata.setdefault("title", metadata.get("name", ""))
    for key in _OF_A_STREAM:
        # Those of mp4 and mov say no more than the kind of stream.
        if metadata.get(key) and not (suffix == ".mkv" and key == "handler_name"):
            target.metadata[key] = metadata[key]
    # A number, as PyAV 14 takes nothing else.
    target.disposition = source.disposition.value


def as_utf8(text: str) -> str:
    """Return text with what is not UTF-8 in it replaced, as PyAV below 19 does by itself."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_rewritten(stream: Any) -> bool:
    """Tell whether a stream only stores what is written anew: chapters or the time code."""
    if stream.type != "data":
        return False
    is_chapters = int(getattr(stream, "discard", 0)) >= _DISCARD_ALL
    return is_chapters or "timecode" in {key.lower() for key in stream.metadata}


_DISCARD_ALL = 48
"""AVDISCARD_ALL: libav marks the text of mp4's chapters so."""


def _plain(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata without keys of the container, and without those by language."""
    metadata = _as_utf8(metadata)
    lower = {key.lower() for key in metadata}
    return {
        (key.lower() if key.isupper() else key): value
        for key, value in metadata.items()
        if key.lower() not in _OF_THE_FILE and key.lower().rpartition("-")[0] not in lower
    }


def _as_utf8(metadata: Mapping[str, str]) -> dict[str, str]:
    return {as_utf8(key): as_utf8(value) for key, value in metadata.items()}


def _timecode(source: InputContainer) -> str:
    for each in (source, *source.streams):
        for key, value in each.metadata.items():
            if key.lower() == "timecode":
                return value
    return ""
