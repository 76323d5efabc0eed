"""The kinds of footage that the sweep tries."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

from .footage_clips import Footage


def sweep() -> list[Footage]:
    """Return the kinds that are tried."""
    kinds = [*_codecs(), *_audio(), *_timing(), *_shapes(), *_colours()]
    return list(dict.fromkeys(kinds))


def _codecs() -> list[Footage]:
    """Every container with the codecs that are met in it."""
    met = {
        ".mp4": "libx264 libx265 mpeg4 libvpx-vp9 libsvtav1 mjpeg",
        ".mov": "libx264 libx265 prores_ks mjpeg qtrle dnxhd png mpeg4 v210",
        ".mkv": "libx264 libx265 ffv1 libvpx libvpx-vp9 libsvtav1 mpeg2video mjpeg",
        ".webm": "libvpx libvpx-vp9 libsvtav1",
        ".avi": "mpeg4 msmpeg4 mjpeg huffyuv ffvhuff libx264 cinepak rawvideo magicyuv utvideo",
        ".ts": "libx264 libx265 mpeg2video mpeg1video",
        ".flv": "flv libx264",
        ".mpg": "mpeg1video mpeg2video",
        ".vob": "mpeg2video",
        ".wmv": "wmv2 msmpeg4",
        ".3gp": "h263 mpeg4 libx264",
        ".mxf": "mpeg2video libx264 prores_ks",
        ".nut": "ffv1 libx264",
        ".ogv": "libvpx",
        ".h264": "libx264",
        ".hevc": "libx265",
        ".ivf": "libvpx libvpx-vp9",
        ".gif": "gif",
        ".dv": "dvvideo",
    }
    stored = {
        "prores_ks": "yuv422p10le",
        "qtrle": "rgb24",
        "dnxhd": "yuv422p",
        "png": "rgb24",
        "mjpeg": "yuvj420p",
        "huffyuv": "yuv422p",
        "cinepak": "rgb24",
        "v210": "yuv422p10le",
        "gif": "pal8",
    }
    sizes = {"dnxhd": (1920, 1080), "h263": (176, 144), "dvvideo": (720, 576)}
    return [
        Footage(
            suffix=suffix,
            codec=codec,
            pix_fmt=stored.get(codec, "yuv420p"),
            size=sizes.get(codec, (160, 96)),
        )
        for suffix, codecs in met.items()
        for codec in codecs.split()
    ]


def _audio() -> list[Footage]:
    """Every container with the sound that is met in it."""
    met = {
        ".mp4": "aac libmp3lame ac3 eac3 alac libopus flac mp2 aac+ac3",
        ".mov": "aac pcm_s16le pcm_s24be pcm_f32le pcm_mulaw alac libmp3lame adpcm_ima_qt",
        ".mkv": "aac libopus vorbis flac ac3 pcm_s16le libmp3lame wavpack tta aac+flac",
        ".webm": "libopus vorbis",
        ".avi": "libmp3lame pcm_s16le adpcm_ima_wav pcm_mulaw ac3 mp2 ac3+mp2",
        ".ts": "aac mp2 ac3 libopus libmp3lame mp2+ac3",
        ".flv": "aac libmp3lame",
        ".mpg": "mp2",
        ".wmv": "wmav2",
        ".3gp": "amr_nb aac",
    }
    video = {".webm": "libvpx-vp9", ".wmv": "wmv2", ".mpg": "mpeg2video", ".avi": "mpeg4"}
    return [
        Footage(suffix=suffix, codec=video.get(suffix, "libx264"), audio=codec)
        for suffix, codecs in met.items()
        for codec in codecs.split()
    ]


def _timing() -> list[Footage]:
    """Rates and starts, with sound that must stay with the picture."""
    rates = [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(50)]
    rates += [Fraction(15), Fraction(1), Fraction(240), Fraction(25)]
    kinds = [
        Footage(suffix=suffix, rate=rate)
        for suffix, rate in itertools.product([".mp4", ".mkv", ".ts"], rates)
    ]
    for suffix, times in itertools.product(
        [".mp4", ".mov", ".mkv", ".ts"], ["variable", "late", "early", "b-frames"]
    ):
        if (suffix, times) != (".mkv", "early"):
            # Matroska stores no time before zero.
            kinds.append(Footage(suffix=suffix, times=times))
            kinds.append(Footage(suffix=suffix, times=times, audio="aac"))
    kinds += [
        Footage(suffix=".avi", codec="mpeg4", times="b-frames"),
        Footage(suffix=".avi", codec="libx264", times="b-frames"),
        Footage(suffix=".mp4", codec="libx265", times="b-frames"),
        Footage(suffix=".mkv", codec="libx265", times="b-frames", audio="libopus"),
        Footage(suffix=".mpg", codec="mpeg2video", times="b-frames", audio="mp2"),
        Footage(suffix=".h264", times="b-frames"),
        Footage(suffix=".webm", codec="libvpx-vp9", times="variable"),
        Footage(suffix=".flv", times="variable"),
    ]
    return kinds


def _shapes() -> list[Footage]:
    """Turned, with pixels that are not square, of odd sizes."""
    kinds = [
        Footage(suffix=suffix, rotation=rotation, size=size)
        for suffix in (".mp4", ".mov", ".mkv")
        for rotation in (90, 180, 270)
        for size in ((160, 96), (1280, 720))
        if suffix == ".mp4" or size == (160, 96)
    ]
    kinds += [
        Footage(suffix=suffix, aspect=aspect, codec=codec)
        for suffix, codec in (
            (".mp4", "libx264"),
            (".mkv", "libx264"),
            (".mkv", "ffv1"),
            (".ts", "mpeg2video"),
            (".mov", "libx264"),
            (".avi", "mpeg4"),
        )
        for aspect in (Fraction(64, 45), Fraction(10, 11))
    ]
    kinds += [
        Footage(suffix=suffix, aspect=Fraction(64, 45), rotation=rotation)
        for suffix in (".mp4", ".mov", ".mkv")
        for rotation in (90, 180)
    ]
    kinds += [
        Footage(suffix=".mkv", codec=codec, pix_fmt=pix_fmt, size=size)
        for size in ((161, 97), (162, 94))
        for codec, pix_fmt in (("ffv1", "yuv420p"), ("libx264", "yuv444p"))
    ]
    return kinds


def _colours() -> list[Footage]:
    """Pixel formats, tags, and none."""
    untagged = [
        Footage(suffix=suffix, codec=codec, pix_fmt=pix_fmt, size=size)
        for suffix, codec, pix_fmt in (
            (".mp4", "libx264", "yuv420p"),
            (".mov", "qtrle", "rgb24"),
            (".mkv", "ffv1", "bgr0"),
            (".mkv", "ffv1", "yuv422p"),
        )
        for size in ((720, 576), (1280, 720))
    ]
    formats = "yuv422p yuv444p yuv420p10le yuv422p10le yuv444p10le gray nv12 yuvj420p nv16"
    deep = [Footage(suffix=".mp4", pix_fmt=pix_fmt) for pix_fmt in formats.split()]
    lossless = "yuv410p yuv411p yuv440p yuv444p16le yuv420p12le gray gray16le gbrp10le bgra"
    deep += [
        Footage(suffix=".mkv", codec="ffv1", pix_fmt=pix_fmt)
        for pix_fmt in [*lossless.split(), "yuva420p", "gbrp16le"]
    ]
    deep += [Footage(suffix=".mp4", codec="libx265", pix_fmt="yuv420p10le")]
    base = Footage(suffix=".mp4")
    tagged = [
        _tagged(base, 1, 1, 1, 1),
        _tagged(base, 5, 1, 5, 6),
        _tagged(base, 6, 1, 6, 6),
        _tagged(base, 1, 2, 1, 1),
        _tagged(base, 7, 1, 7, 7),
        _tagged(base, 2, 0, 1, 13),
        _tagged(replace(base, size=(1280, 720)), 6, 1, 6, 6),
        _tagged(replace(base, suffix=".mkv"), 1, 2, 1, 13),
        _tagged(replace(base, suffix=".mkv", codec="ffv1"), 1, 1, 1, 1),
    ]
    ten_bit = replace(base, codec="libx265", pix_fmt="yuv420p10le")
    tagged += [
        _tagged(replace(ten_bit, suffix=suffix), 9, 1, 9, transfer)
        for suffix in (".mp4", ".mkv", ".mov")
        for transfer in (16, 18)
    ]
    tagged += [
        replace(_tagged(replace(ten_bit, suffix=suffix), 9, 1, 9, 16), mastering=True)
        for suffix in (".mp4", ".mkv", ".mov", ".ts")
    ]
    tagged.append(Footage(suffix=".mov", codec="prores_ks", pix_fmt="yuva444p10le"))
    return untagged + deep + tagged


def _tagged(footage: Footage, *numbers: int) -> Footage:
    space, sample_range, primaries, transfer = numbers
    return replace(
        footage, space=space, range=sample_range, primaries=primaries, transfer=transfer
    )
