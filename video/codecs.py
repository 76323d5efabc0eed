"""Which codecs can be written, in which files, and what those files can hold."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""File suffixes that can be written, and libav's names for them."""

# What players expect, which is less than libavformat writes (pcm and vorbis in mp4 play in
# few).
_PCM = tuple(
    f"pcm_{kind}"
    for kind in ("s16le", "s16be", "s24le", "s24be", "s32le", "s32be", "f32le", "f32be")
)
_AUDIO = {
    ".mp4": {"aac", "mp3", "mp3float", "mp2", "ac3", "eac3", "alac", "opus", "flac", "dca"},
    ".mov": {
        *("aac", "mp3", "mp3float", "mp2", "ac3", "eac3", "alac", *_PCM),
        *("pcm_mulaw", "pcm_alaw", "pcm_s8", "pcm_u8", "adpcm_ima_qt"),
    },
}
SUBTITLES = {
    ".mp4": {"mov_text"},
    ".mov": {"mov_text"},
    ".mkv": {"subrip", "srt", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle"}
    | {"pgssub", "dvdsub", "dvbsub", "dvb_subtitle"},
}
"""Subtitle codecs that each file can hold."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """One way to encode the pictures."""

    encoder: str
    """libav's name."""
    suffixes: tuple[str, ...]
    """Files it may be written into; the first is the one to suggest."""
    default_crf: int | None
    """Nearly lossless to the eye; None: the encoder has no such setting."""
    max_crf: int = 51
    options: dict[str, str] = field(default_factory=dict)
    max_depth: int = 10
    """Bits per colour that it keeps of a source that has them."""
    alpha: bool = False
    rgb: bool = False
    """Stored as RGB, so that a round trip is exact."""
    fields: bool = False
    """Whether pictures can be coded as, or flagged as, two fields."""
    hdr_in_container: bool = False
    """Whether the container says what HDR screens are told, and not the stream."""


# No B-frames: with them the last packet written is not the last frame shown, and the mp4
# writer of libavformat drops that frame's duration (seen with 60.26 and 62.28).
CODECS = {
    "h264": Codec(
        encoder="libx264",
        suffixes=(".mp4", ".mov", ".mkv"),
        default_crf=14,
        # 10-bit H.264 plays almost nowhere.
        max_depth=8,
        fields=True,
        # x264's macroblock tree gives other bits from run to run with AVX-512 (3 to 23 of
        # 40 encodes of the same frames differed), also with a single thread.
        options={"preset": "medium", "bf": "0", "mbtree": "0"},
    ),
    "h265": Codec(
        encoder="libx265",
        suffixes=(".mp4", ".mov", ".mkv"),
        default_crf=16,
        options={"preset": "medium", "x265-params": "bframes=0:log-level=none"},
    ),
    "ffv1": Codec(
        encoder="ffv1",
        suffixes=(".mkv",),
        default_crf=None,
        options={"level": "3", "slicecrc": "1"},
        max_depth=16,
        alpha=True,
        fields=True,
        rgb=True,
        hdr_in_container=True,
    ),
    "prores": Codec(
        encoder="prores_ks",
        suffixes=(".mov", ".mkv"),
        default_crf=None,
        options={"vendor": "apl0"},
        alpha=True,
        fields=True,
        hdr_in_container=True,
    ),
}
"""Codecs by the name users give."""


def codec_named(name: str) -> Codec:
    """Return a codec.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in CODECS:
        raise ValueError(f"codec {name!r} is unknown, choose one of {', '.join(CODECS)}")
    return CODECS[name]


def pixel_format(name: str, width: int, height: int, depth: int, alpha: bool) -> str:
    """Choose the stored pixel format of a codec.

    4:2:0 halves both sides of the chroma planes, so an odd side would lose a line of
    pixels: such sizes are stored as 4:4:4, which fewer hardware players decode.
    """
    odd = bool(width % 2 or height % 2)
    if name == "ffv1":
        if depth > 8:
            return "gbrap16le" if alpha else "gbrp16le"
        return "bgra" if alpha else "bgr0"
    if name == "prores":
        if alpha:
            return "yuva444p10le"
        return "yuv444p10le" if odd else "yuv422p10le"
    chroma = "444" if odd else "420"
    deep = min(depth, codec_named(name).max_depth) > 8
    return f"yuv{chroma}p10le" if deep else f"yuv{chroma}p"


def codes_fields(name: str, height: int) -> bool:
    """Tell whether a codec flags interlaced pictures of this height as such.

    H.264 codes pairs of macroblocks, and libx264 refuses other than whole ones of chroma.
    """
    return codec_named(name).fields and (name != "h264" or height % 4 == 0)


def unsupported_audio(suffix: str, audio_codecs: Sequence[str]) -> list[str]:
    """Return the audio codecs that a file of this suffix cannot hold."""
    allowed = _AUDIO.get(suffix) or _muxable(FORMATS[suffix])
    return [codec for codec in audio_codecs if codec not in allowed]


def container_for(audio_codecs: Sequence[str], codec: str, suffix: str = ".mp4") -> str:
    """Choose a suffix that holds this codec and copies of these audio streams.

    Args:
        audio_codecs: libav names, as in `VideoInfo.audio_codecs`; none, where the sound is
            encoded or dropped.
        codec: A name of `CODECS`.
        suffix: What is preferred, with the dot.

    Returns:
        `suffix` where it can hold both; the codec's usual one where `suffix` cannot hold
        the codec; ".mkv" where that can hold more of the audio.

    Raises:
        ValueError: If the codec is unknown.
    """
    suffixes = codec_named(codec).suffixes
    wanted = suffix.lower() if suffix.lower() in suffixes else suffixes[0]
    refused = [len(unsupported_audio(each, audio_codecs)) for each in (wanted, ".mkv")]
    return ".mkv" if refused[1] < refused[0] else wanted


def check_container(path: Path, codec: str) -> None:
    """Refuse a file name whose format cannot hold the codec.

    Raises:
        ValueError: With the suffix that can.
    """
    suffix = path.suffix.lower()
    suffixes = codec_named(codec).suffixes
    if suffix not in suffixes:
        instead = " or ".join(suffixes)
        raise ValueError(
            f"{path}: {codec} is not written to {suffix or 'a file without suffix'}, "
            f"name the output {instead}"
        )


@functools.cache
def _muxable(container: str) -> frozenset[str]:
    """Return the codecs that libavformat lets PyAV write into a container.

    The ffmpeg tool itself puts more into Matroska, by the tags that AVI uses.
    """
    # Here, since folders of images ask for the names of formats without PyAV.
    import av

    with av.open(io.BytesIO(), "w", format=container) as output:
        return frozenset(output.supported_codecs)
