"""Copy the audio and subtitle packets of one file into another, unchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container import OutputContainer
from av.error import FFmpegError

from .codecs import SUBTITLES
from .source import Source, VideoError, open_input, source_name

logger = logging.getLogger(__name__)


class PacketCopier:
    """Feed the packets of a source into an output as its video advances."""

    def __init__(self, source: Source) -> None:
        """Open the source.

        Raises:
            FileNotFoundError: If the path does not exist.
            VideoError: If libav cannot read it.
        """
        self._name = source_name(source)
        self._input = open_input(source)
        self.audio_codecs = tuple(s.codec_context.name for s in self._input.streams.audio)
        self._copies: dict[int, Any] = {}
        self._pending: tuple[Fraction, Any] | None = None
        self._packets: Iterator[tuple[Fraction, Any]] = iter(())

    def attach(self, output: OutputContainer, suffix: str) -> None:
        """Add a stream to the output for each stream that is copied."""
        streams: list[Any] = list(self._input.streams.audio)
        for subtitle in self._input.streams.subtitles:
            name = subtitle.codec_context.name if subtitle.codec_context else "unknown"
            if name in SUBTITLES[suffix]:
                streams.append(subtitle)
            else:
                logger.warning(
                    "%s: %s subtitles cannot be copied to %s", self._name, name, suffix
                )
        for stream in streams:
            name = stream.codec_context.name
            try:
                copy = output.add_stream_from_template(stream)
            except ValueError as error:
                raise ValueError(
                    f"{self._name}: its {name} {stream.type} cannot be copied to {suffix}, "
                    "convert it to aac first"
                ) from error
            copy.metadata.update(
                {k: v for k, v in stream.metadata.items() if k in ("language", "title")}
            )
            self._copies[stream.index] = copy
        if streams:
            self._packets = self._read(streams)

    def copy_until(self, output: OutputContainer, time: Fraction | None) -> None:
        """Write the packets that start up to `time` (seconds), or all that are left."""
        while True:
            if self._pending is None:
                self._pending = self._next()
            if self._pending is None or (time is not None and self._pending[0] > time):
                return
            packet, self._pending = self._pending[1], None
            output.mux(packet)

    def close(self) -> None:
        """Close the source."""
        self._input.close()

    def _next(self) -> tuple[Fraction, Any] | None:
        try:
            return next(self._packets, None)
        except av.error.EOFError:
            return None
        except FFmpegError as error:
            raise VideoError(
                f"{self._name}: its audio cannot be read to the end ({error.strerror})"
            ) from error

    def _read(self, streams: list[Any]) -> Iterator[tuple[Fraction, Any]]:
        for packet in self._input.demux(streams):
            if packet.size == 0 and packet.dts is None:
                continue
            if packet.dts is None:
                packet.dts = packet.pts
            time = (packet.dts or 0) * packet.time_base
            packet.stream = self._copies[packet.stream.index]
            yield time, packet
