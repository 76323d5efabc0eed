"""Encode the sound of a stream to AAC, in step with its time stamps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.error import FFmpegError

_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
"""Samples per second that AAC players take."""
_TOLERANCE = Fraction(15, 1000)
"""Seconds that stamps may be off before samples are put in or left out.

Less than a frame of any codec, more than the rounding of stamps to milliseconds."""
_CHUNK = 1 << 16
"""Samples of silence made at a time."""
_BITS_PER_SAMPLE = 4
_MAX_BITS_PER_S = 96000
"""Per channel: transparent to most ears with libav's encoder."""


class SoundEncoder:
    """Decode the packets of one stream and encode them again.

    Where packets are damaged or missing there is silence, so that what follows keeps its time.
    """

    def __init__(self, output: OutputContainer, source: Any) -> None:
        """Add a stream to the output.

        Args:
            output: Its header is not yet written.
            source: The stream that is decoded.

        Raises:
            ValueError: If AAC takes no such sound; see `can_encode`.
        """
        context = source.codec_context
        self._source = source
        self._rate = _nearest_rate(context.sample_rate)
        layout = _aac_layout(context, self._rate)
        if layout is None:
            raise ValueError(f"AAC does not take {context.layout.name} at {self._rate} Hz")
        self._layout = layout
        self.stream: Any = output.add_stream("aac", rate=self._rate, layout=layout)
        self.stream.bit_rate = _bit_rate(context.channels, self._rate)
        self.stream.codec_context.time_base = Fraction(1, self._rate)
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None
        self._samples = np.zeros((0, 0), np.float32)
        self._start: Fraction | None = None
        self._num_taken = 0
        self._num_encoded = 0
        self._skip = 0
        self.num_damaged = 0
        """Packets that could not be decoded."""
        self.silence = Fraction(0)
        """Seconds that were put in where sound is missing."""

    @staticmethod
    def can_encode(source: Any) -> bool:
        """Tell whether a stream says enough of its sound to be encoded."""
        context = source.codec_context
        rate = context.sample_rate
        return bool(rate) and _aac_layout(context, _nearest_rate(rate)) is not None

    def encode(self, packet: Any) -> Iterator[Any]:
        """Yield the packets that are ready."""
        try:
            frames = packet.decode()
        except FFmpegError:
            self.num_damaged += 1
            return
        yield from self._encode_frames(frames)

    def flush(self) -> Iterator[Any]:
        """Yield the last packets; nothing can be encoded afterwards."""
        try:
            frames = self._source.codec_context.decode(None)
        except FFmpegError:
            frames = []
        yield from self._encode_frames(frames)
        yield from self._take(self._resampled(None))
        if self._num_taken:
            yield from self._encode_samples(last=True)
            yield from self.stream.encode(None)

    def _encode_frames(self, frames: list[Any]) -> Iterator[Any]:
        for frame in frames:
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if kind != self._kind:
                yield from self._take(self._resampled(None))
                self._kind = kind
                self._resampler = AudioResampler("fltp", self._layout, self._rate)
            yield from self._align(frame)
            frame.pts = None
            yield from self._take(self._resampled(frame))

    def _align(self, frame: Any) -> Iterator[Any]:
        """Put silence before a frame that is late, and mark samples of one that overlaps."""
        if frame.pts is None:
            self._start = self._start or Fraction(0)
            return
        time = frame.pts * (frame.time_base or self._source.time_base)
        if self._start is None:
            self._start = time
        late = round((time - self._start) * self._rate) - self._num_taken
        if abs(late) <= _TOLERANCE * self._rate:
            return
        self._skip = max(0, -late)
        self.silence += Fraction(max(0, late), self._rate)
        for done in range(0, late, _CHUNK):
            channels = len(self._samples) or self.stream.codec_context.channels
            silence = np.zeros((channels, min(_CHUNK, late - done)), np.float32)
            yield from self._take([silence])

    def _resampled(self, frame: Any) -> list[np.ndarray]:
        if self._resampler is None:
            return []
        return [each.to_ndarray() for each in self._resampler.resample(frame)]

    def _take(self, parts: list[np.ndarray]) -> Iterator[Any]:
        for part in parts:
            skipped = min(self._skip, part.shape[1])
            self._skip -= skipped
            part = part[:, skipped:]
            self._num_taken += part.shape[1]
            held = [self._samples] if self._samples.size else []
            self._samples = np.concatenate([*held, part], axis=1)
            yield from self._encode_samples()

    def _encode_samples(self, last: bool = False) -> Iterator[Any]:
        size = self.stream.codec_context.frame_size
        while self._samples.shape[1] >= size or (last and self._samples.shape[1]):
            samples = np.ascontiguousarray(self._samples[:, :size])
            self._samples = self._samples[:, size:]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
            frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
            frame.pts = round((self._start or 0) * self._rate) + self._num_encoded
            self._num_encoded += samples.shape[1]
            yield from self.stream.encode(frame)


def _nearest_rate(rate: int) -> int:
    """Return the lowest rate of AAC that loses nothing; the highest for still higher ones."""
    return min((each for each in _RATES if each >= rate), default=_RATES[0])


def _bit_rate(channels: int, rate: int) -> int:
    return channels * min(_MAX_BITS_PER_S, _BITS_PER_SAMPLE * rate)


def _aac_layout(context: Any, rate: int) -> str | None:
    """Return the layout of a stream, or the nearest that AAC takes."""
    usual = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
    for layout in (context.layout.name, usual.get(context.channels), "stereo"):
        if layout is not None and _aac_takes(layout, rate):
            return layout
    return None


def _aac_takes(layout: str, rate: int) -> bool:
    encoder: Any = av.CodecContext.create("aac", "w")
    try:
        encoder.layout, encoder.sample_rate, encoder.format = layout, rate, "fltp"
        encoder.time_base = Fraction(1, rate)
        encoder.open()
    except (ValueError, FFmpegError):
        return False
    return True
