"""Convert subtitles of text from the codec of one container to that of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from av.container import OutputContainer
from av.error import FFmpegError
from av.subtitles.codeccontext import SubtitleCodecContext

TEXT_CODECS = {".mp4": "mov_text", ".mov": "mov_text", ".mkv": "subrip"}
"""What subtitles of text are converted to, by the suffix of the output."""
_READ = {"subrip", "srt", "ass", "ssa", "webvtt", "mov_text", "text"}
_HAS_ENCODER = hasattr(SubtitleCodecContext, "encode_subtitle") and hasattr(
    SubtitleCodecContext, "subtitle_header"
)
"""Whether PyAV encodes subtitles: not yet in 14."""


def can_convert(stream: Any) -> bool:
    """Tell whether a stream is text that can be converted."""
    context = stream.codec_context
    return _HAS_ENCODER and context is not None and context.name in _READ


class SubtitleConverter:
    """Decode the packets of one stream of text and encode them again, each at its time."""

    def __init__(self, output: OutputContainer, source: Any, codec: str) -> None:
        """Add a stream to the output.

        Args:
            output: Its header is not yet written.
            source: A stream that `can_convert`.
            codec: libav's name of what it becomes.
        """
        self._source = source.codec_context
        self.stream: Any = output.add_stream(codec)
        self.stream.time_base = source.time_base
        self._source.open(strict=False)
        # The styles, in libav's common form of all text.
        self.stream.codec_context.subtitle_header = self._source.subtitle_header
        self.num_damaged = 0
        """Packets that could not be converted."""

    def convert(self, packet: Any) -> Iterator[Any]:
        """Yield the packet in the new codec; none where it says nothing, as mov_text's gaps."""
        try:
            subtitle = self._source.decode2(packet)
            if subtitle is None or not len(subtitle):
                return
            text = self.stream.codec_context.encode_subtitle(subtitle)
        except (ValueError, FFmpegError):
            self.num_damaged += 1
            return
        text.time_base = packet.time_base
        text.pts, text.dts, text.duration = packet.pts, packet.dts, packet.duration
        yield text
