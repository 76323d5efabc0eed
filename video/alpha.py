"""Transparency that is stored beside the pictures and not in them: VP8 and VP9 in WebM.

Each packet carries a second picture, of the alpha plane. FFmpeg's own decoders leave it out,
those of libvpx put both together.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import av
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def decoder_for(stream: VideoStream, name: str) -> VideoCodecContext:
    """Return what decodes all of a stream; its own decoder wherever that does.

    Args:
        stream: Of an open file.
        name: What warnings call the file.
    """
    own = cast(Any, stream.codec_context)
    decoder = _DECODERS.get(own.name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if decoder is None or tags.get("alpha_mode") != "1":
        return own
    if decoder not in av.codecs_available:
        logger.warning("%s: transparency is not read, this PyAV has no %s", name, decoder)
        return own
    context = av.CodecContext.create(decoder, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = own.extradata
    return context
