"""Encoders that are let go before their end: a run was stopped."""

from __future__ import annotations

import gc
from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.video.encoder import PacketEncoder
from video_deblur.video.writer import VideoWriter


def stop_while_encoding(path, pixels, streams):
    """Encode a few frames in both ways and be interrupted; the streams stay alive."""
    options = {"width": 32, "height": 24, "time_base": Fraction(1, 25)}
    options |= {"average_rate": Fraction(25), "codec": "h265"}
    with VideoWriter(path, **options) as writer:
        encoder = PacketEncoder(writer.pictures, ".mkv")
        streams += [writer._stream, encoder._encoder._stream]
        for index in range(5):
            writer.write(pixels, index)
            encoder.encode(pixels, index, 1)
        raise KeyboardInterrupt


def test_a_stopped_libx265_is_emptied_before_it_is_freed(tmp_path):
    # Freed with frames inside it waits for ever or crashes, too seldom for a test to see.
    pixels, streams = np.zeros((24, 32, 3), np.uint8), []
    with pytest.raises(KeyboardInterrupt):
        stop_while_encoding(tmp_path / "out.mkv", pixels, streams)
    gc.collect()
    late = av.VideoFrame.from_ndarray(pixels).reformat(format="yuv420p")
    late.pts = 9
    for stream in streams:
        with pytest.raises(av.error.EOFError):
            stream.encode(late)
