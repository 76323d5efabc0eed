from __future__ import annotations

from fractions import Fraction

import av
import av.subtitles.codeccontext
import pytest

from .footage import (
    MKV_PRIMING_S,
    restore,
    write_film,
)


def add_subtitles(codec, *texts):
    """Return what adds a stream of subtitles to `write_film`, one from 0.2 s on, 0.4 s long."""

    def subtitle(container, _):
        stream = container.add_mux_stream(codec)
        stream.time_base = Fraction(1, 1000)
        container.start_encoding()
        for index, text in enumerate(texts):
            packet = av.Packet(text)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = 200 + 400 * index
            packet.duration = 400
            container.mux(packet)

    return subtitle


def read_subtitles(path):
    """Return bytes, start and duration of each subtitle, times in seconds."""
    with av.open(str(path)) as container:
        return [
            (bytes(p), p.pts * p.time_base, p.duration * p.time_base)
            for stream in container.streams.subtitles
            for p in container.demux(stream)
            if p.size and bytes(p) != b"\0\0"
        ]


@pytest.mark.parametrize(
    ("codec", "text", "name", "kept_by", "other"),
    [
        ("subrip", b"Hello", "clip.mkv", (".mkv",), b"\0\5Hello"),
        ("mov_text", b"\0\5Hello", "clip.mp4", (".mp4", ".mov"), b"Hello"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_subtitles_of_text_are_copied_or_converted(
    suffix, codec, text, name, kept_by, other, tmp_path, caplog, monkeypatch
):
    source = write_film(tmp_path / name, more=add_subtitles(codec, text))
    output = tmp_path / f"out{suffix}"
    restore(source, output)
    expected = text if suffix in kept_by else other
    label = f"subtitle stream 2 ({codec.replace('subrip', 'srt')})"
    if suffix in kept_by or can_convert_text():
        late = MKV_PRIMING_S * (source.suffix == ".mp4" and suffix == ".mkv")
        ((found, start, duration),) = read_subtitles(output)
        assert (found, duration) == (expected, Fraction(2, 5))
        assert float(start) == pytest.approx(0.2 + late, abs=0.002)
    named = [label in message for message in caplog.messages]
    assert named == ([] if suffix in kept_by else [True])
    # As with versions of PyAV that do not encode subtitles.
    monkeypatch.setattr("video_deblur.video.subtitles._HAS_ENCODER", False)
    caplog.clear()
    restore(source, output)
    assert bool(read_subtitles(output)) == (suffix in kept_by)
    assert [f"{label} is left out" in m for m in caplog.messages] == named


def can_convert_text():
    return hasattr(av.subtitles.codeccontext.SubtitleCodecContext, "encode_subtitle")


@pytest.mark.skipif(not can_convert_text(), reason="this version of PyAV encodes no subtitles")
def test_styles_and_damage_of_subtitles_stay_in_their_lines(tmp_path, caplog):
    lines = (b"<i>slanted</i>\n\xc3\xbc", b"\xff\xfe", b"last")
    source = write_film(tmp_path / "clip.mkv", more=add_subtitles("subrip", *lines))
    restore(source, tmp_path / "out.mp4")
    restore(tmp_path / "out.mp4", tmp_path / "back.mkv")
    found = read_subtitles(tmp_path / "back.mkv")
    assert [text.replace(b"\r\n", b"\n") for text, _, _ in (found[0], found[-1])] == [
        lines[0],
        lines[2],
    ]
    assert all(text.count(b"\n") <= 1 for text, _, _ in found)
    # Styles are a box of their own in mov_text, not signs that players would show.
    first = read_subtitles(tmp_path / "out.mp4")[0][0]
    assert first[2:].startswith(b"slanted\n\xc3\xbc")
    assert b"styl" in first
