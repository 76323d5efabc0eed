from __future__ import annotations

import re
from fractions import Fraction

import av
import av.subtitles.codeccontext
import numpy as np
import pytest
from video_deblur.video.codecs import container_for, unsupported_audio
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

from .footage import (
    audio_codecs,
    audio_packets,
    clicks,
    end_of,
    heard_clicks,
    restore,
    write_film,
    write_sound,
)


def num_frames(path):
    with VideoReader(path) as reader:
        return sum(1 for _ in reader)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("clip.mov", "pcm_mulaw", 8000, "mono"),
        ("clip.avi", "adpcm_ima_wav", 22050, "stereo"),
        ("clip.wmv", "wmav2", 44100, "stereo"),
        ("clip.mkv", "pcm_s16le", 48000, "5.1"),
    ],
)
def test_sound_that_cannot_be_copied_is_encoded_in_time(
    name, codec, rate, layout, suffix, tmp_path, caplog
):
    source = write_film(tmp_path / name, codec, rate=rate, layout=layout)
    output = tmp_path / f"out{suffix}"
    restore(source, output)
    kept = audio_codecs(output) == [codec]
    assert kept == (
        (suffix, codec)
        in {
            (".mov", "pcm_mulaw"),
            (".mov", "pcm_s16le"),
            (".mkv", "pcm_s16le"),
        }
    )
    if kept:
        assert audio_packets(output) == audio_packets(source)
        assert caplog.messages == []
    else:
        assert audio_codecs(output) == ["aac"]
        (warning,) = caplog.messages
        assert f"clip{source.suffix}: audio stream" in warning
        assert f"({codec}) is encoded to AAC" in warning
    with av.open(str(source)) as before, av.open(str(output)) as after:
        channels = [each.streams.audio[0].codec_context.channels for each in (before, after)]
        assert channels[0] == channels[1]
    # A tick of Matroska, whose stamps are in milliseconds.
    np.testing.assert_allclose(heard_clicks(output), heard_clicks(source), atol=0.0012)
    assert num_frames(output) == num_frames(source)


def write_tones(path, layout, num_samples=24000):
    """Write sound of which each channel has a tone of its own: 300 Hz, 400 Hz and so on."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=48000, layout=layout)
        tones = 300 + 100 * np.arange(stream.codec_context.channels)
        waves = 8000 * np.sin(2 * np.pi * np.arange(num_samples)[:, None] / 48000 * tones)
        packed = waves.astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "s16", layout)
        frame.sample_rate, frame.pts = 48000, 0
        output.mux([*stream.encode(frame), *stream.encode(None)])


def write_beside_black(path, sound):
    """Write one black picture with the sound of another file."""
    with VideoWriter(
        path,
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        audio_from=sound,
    ) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0)


def heard_tones(path):
    """Return the tone of each channel, in Hz."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        layout = stream.codec_context.layout
        packed = av.AudioResampler("flt", layout, 48000)
        frames = [each for frame in container.decode(stream) for each in packed.resample(frame)]
    sound = np.concatenate(
        [frame.to_ndarray().reshape(-1, layout.nb_channels) for frame in frames]
    )
    middle = sound[len(sound) // 2 - 4800 : len(sound) // 2 + 4800]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(9600)[:, None], axis=0))
    return [int(each) * 5 for each in spectrum.argmax(0)]


def test_packets_shorter_than_a_tick_are_encoded_without_gaps(tmp_path, caplog):
    # As TrueHD in mkv: 0.8 ms each, and stamps in whole milliseconds.
    with av.open(str(tmp_path / "tones.mkv"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=48000, layout="mono")
        wave = (8000 * np.sin(2 * np.pi * np.arange(24000) / 48000 * 300)).astype(np.int16)
        for begin in range(0, 24000, 20):
            part = wave[None, begin : begin + 20]
            frame = av.AudioFrame.from_ndarray(part, "s16", "mono")
            frame.sample_rate, frame.pts = 48000, begin
            output.mux(stream.encode(frame))
    write_beside_black(tmp_path / "out.mp4", tmp_path / "tones.mkv")
    (message,) = caplog.messages
    assert "is encoded to AAC" in message
    assert end_of(tmp_path / "out.mp4", "audio") == pytest.approx(0.5, abs=0.022)


@pytest.mark.parametrize("layout", ["mono", "5.1", "7.1"])
def test_each_channel_is_encoded_at_its_place(layout, tmp_path):
    write_tones(tmp_path / "tones.mov", layout)
    write_beside_black(tmp_path / "out.mp4", tmp_path / "tones.mov")
    expected = [
        300 + 100 * channel for channel in range({"mono": 1, "5.1": 6, "7.1": 8}[layout])
    ]
    heard = heard_tones(tmp_path / "out.mp4")
    # The fourth channel is for low frequencies, of which encoders keep no others.
    assert heard[:3] + heard[4:] == expected[:3] + expected[4:]


def test_channels_in_an_order_of_quicktimes_own_find_their_places(tmp_path):
    write_tones(tmp_path / "tones.mov", "7.1")
    data = bytearray((tmp_path / "tones.mov").read_bytes())
    start = data.index(b"chan") + 8
    # By tag in place of a bit for each: sides before backs, which libav holds in a list of
    # its own; PyAV freed that twice, and the process aborted.
    assert data[start : start + 8] == bytes.fromhex("000100000000063f")
    data[start : start + 8] = bytes.fromhex("0080000800000000")
    (tmp_path / "tones.mov").write_bytes(data)
    write_beside_black(tmp_path / "out.mp4", tmp_path / "tones.mov")
    heard = heard_tones(tmp_path / "out.mp4")
    assert heard[:3] + heard[4:] == [300, 400, 500, 900, 1000, 700, 800]


@pytest.mark.parametrize("audio", ["copy", "encode"])
@pytest.mark.parametrize("start", [Fraction(1, 3), Fraction(-1, 5)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_keeps_its_offset_to_the_pictures(suffix, start, audio, tmp_path):
    source = write_film(tmp_path / "clip.ts", start=start)
    output = tmp_path / f"out{suffix}"
    restore(source, output, audio=audio)
    apart = []
    for path in (source, output):
        with VideoReader(path) as reader:
            first = float(next(reader).pts * reader.info.time_base)
        apart.append([time - first for time in heard_clicks(path)])
    assert apart[0] == pytest.approx(apart[1], abs=0.0012)
    assert apart[0][-1] == pytest.approx(0.9 + float(start), abs=0.0012)


def test_sound_can_be_encoded_or_dropped(tmp_path, caplog):
    source = write_film(tmp_path / "clip.mp4", "aac")
    restore(source, tmp_path / "encoded.mp4", audio="encode")
    restore(source, tmp_path / "dropped.mp4", audio="drop")
    assert audio_codecs(tmp_path / "encoded.mp4") == ["aac"]
    assert audio_packets(tmp_path / "encoded.mp4") != audio_packets(source)
    assert heard_clicks(tmp_path / "encoded.mp4") == pytest.approx(
        heard_clicks(source), abs=1e-4
    )
    assert audio_codecs(tmp_path / "dropped.mp4") == []
    assert caplog.messages == []
    with pytest.raises(ValueError, match="audio must be one of copy, encode, drop, got 'no'"):
        restore(source, tmp_path / "a.mp4", audio="no")


def unknown_sound(path):
    """Make the second sound of a film one that libav does not know, as iPhones do."""

    def second(container, _):
        stream = container.add_stream("aac", rate=48000, layout="mono")
        write_sound(container, stream, clicks(48000), "mono")

    source = write_film(path.with_name("two.mov"), more=second)
    data = bytearray(source.read_bytes())
    entry = data.rfind(b"stsd")
    for name, new in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        place = data.find(name, entry)
        data[place : place + 4] = new
    inner = data.find(b"mp4a", entry)
    if inner >= 0:
        data[inner : inner + 4] = b"apac"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("audio", ["copy", "encode"])
def test_a_sound_codec_that_is_not_known_is_named_and_left_out(audio, tmp_path, caplog):
    source = unknown_sound(tmp_path / "iphone.mov")
    with VideoReader(source) as reader:
        assert reader.info.audio_codecs == ("aac", "unknown")
    restore(source, tmp_path / "out.mov", audio=audio)
    (warning,) = caplog.messages
    assert "audio stream 2 (unknown) is left out" in warning
    assert audio_codecs(tmp_path / "out.mov") == ["aac"]
    assert heard_clicks(tmp_path / "out.mov") == pytest.approx([0.2, 0.9], abs=1e-3)


def repeat_stamp(path, source):
    """Copy a film, with one audio stamp repeated and two that jump back."""
    with av.open(str(source)) as before, av.open(str(path), "w") as after:
        copies = {
            each.index: after.add_stream_from_template(each, opaque=True)
            for each in before.streams
        }
        count, stamp = 0, 0
        for packet in before.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio":
                count += 1
                if count == 10:
                    packet.pts = packet.dts = stamp
                stamp = packet.dts
            packet.stream = copies[packet.stream.index]
            after.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_repeated_stamp_of_the_sound_costs_nothing(suffix, tmp_path, caplog):
    source = repeat_stamp(tmp_path / "dup.mkv", write_film(tmp_path / "clip.mkv"))
    output = tmp_path / f"out{suffix}"
    restore(source, output)
    assert num_frames(output) == 30
    assert audio_packets(output) == audio_packets(source)
    assert heard_clicks(output)[-1] == pytest.approx(0.9, abs=0.0012)
    if suffix == ".mp4":
        (warning,) = caplog.messages
        assert "audio stream 1 (aac) had time stamps that do not go forward" in warning


def times_of_two_films(path):
    """Check that each film keeps its sound; returns the times of all pictures in seconds."""
    assert num_frames(path) == 60
    with VideoReader(path) as reader:
        times = [float(frame.pts * reader.info.time_base) for frame in reader]
    heard = heard_clicks(path)
    assert [time - times[0] for time in heard[:2]] == pytest.approx([0.2, 0.9], abs=2e-3)
    assert [time - times[30] for time in heard[2:]] == pytest.approx([0.2, 0.9], abs=2e-3)
    return times


@pytest.mark.parametrize("audio", ["copy", "encode"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_joined_transport_streams_play_one_after_the_other(suffix, audio, tmp_path):
    part = write_film(tmp_path / "part.ts").read_bytes()
    source = tmp_path / "joined.ts"
    source.write_bytes(part + part)
    output = tmp_path / f"out{suffix}"
    restore(source, output, audio=audio)
    times = times_of_two_films(output)
    # The next part begins where the longer of sound and pictures ended.
    assert times[30] - times[29] == pytest.approx(0.04, abs=0.045)
    if audio == "copy":
        assert len(audio_packets(output)) == 2 * len(audio_packets(tmp_path / "part.ts"))


def test_flv_recordings_in_one_file_play_one_after_the_other(tmp_path):
    part = write_film(tmp_path / "part.flv", rate=44100).read_bytes()
    source, output = tmp_path / "joined.flv", tmp_path / "out.mp4"
    # Without the header of the second.
    source.write_bytes(part + part[13:])
    restore(source, output)
    times_of_two_films(output)


def test_damaged_sound_costs_neither_pictures_nor_the_rest(tmp_path, caplog):
    source = write_film(tmp_path / "clip.mkv", "mp2", rate=48000)
    data = bytearray(source.read_bytes())
    before = heard_clicks(source)
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        for packet in packets[20:26]:
            place = data.find(bytes(packet), packet.pos)
            data[place : place + packet.size] = b"U" * packet.size
    source.write_bytes(data)
    output = tmp_path / "out.mp4"
    restore(source, output, audio="encode")
    assert num_frames(output) == 30
    assert heard_clicks(output)[-1] == pytest.approx(before[-1], abs=0.0012)
    (warning,) = caplog.messages
    # Six packets of 24 ms, and what the decoder needs to find its way again.
    assert re.search(r"audio stream 1 \(mp2\) is damaged or has gaps, 0.1[4-9] s", warning)


def test_other_video_streams_are_named_and_copied(tmp_path, caplog):
    added = []

    def second(container, video):
        other = container.add_stream("mpeg4", rate=25)
        other.width, other.height = 32, 32
        container.start_encoding()
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9, np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            added.extend(other.encode(frame))
        added.extend(other.encode(None))
        container.mux(added)

    source = write_film(tmp_path / "clip.mkv", more=second)
    restore(source, tmp_path / "out.mp4")
    (warning,) = caplog.messages
    assert "video stream 2 (mpeg4) is copied as it is" in warning
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [each.codec_context.name for each in container.streams.video] == [
            "h264",
            "mpeg4",
        ]
        packets = [bytes(p) for p in container.demux(video=1) if p.size]
    assert len(packets) == 8


def test_the_container_that_keeps_more_sound_is_chosen():
    assert container_for(["aac"], "h264") == ".mp4"
    assert container_for(["pcm_s16le"], "h264") == ".mkv"
    assert container_for(["vorbis", "wmav2"], "h264") == ".mkv"
    # No container of ours holds it, so the usual one is taken and the sound encoded.
    assert container_for(["wmav2"], "h264") == ".mp4"
    assert container_for(["unknown"], "h265", ".mov") == ".mov"


def test_sound_ends_with_the_pictures_of_a_source_that_is_cut_short(tmp_path):
    source = write_film(tmp_path / "clip.mkv", "pcm_s16le", num_frames=10)
    for audio in ("copy", "encode"):
        output = tmp_path / f"{audio}.mp4"
        with (
            VideoReader(source) as reader,
            VideoWriter.like(output, reader.info, audio_from=source, audio=audio) as writer,
        ):
            for frame in reader:
                writer.write(frame.pixels, frame.pts, frame.duration)
            writer.end_early()
        assert end_of(output, "audio") <= end_of(output, "video") + 0.03
        assert end_of(output, "audio") > 0.35


@pytest.mark.parametrize(
    ("codecs", "held_by"),
    [
        (("aac", "mp3", "mp3float", "mp2", "ac3", "eac3", "alac"), ".mp4 .mov .mkv"),
        (("opus", "flac", "dca"), ".mp4 .mkv"),
        (("vorbis",), ".mkv"),
        (("pcm_s16le", "pcm_s24be", "pcm_f32le", "pcm_u8"), ".mov .mkv"),
        (("pcm_mulaw", "pcm_alaw", "pcm_s8", "adpcm_ima_qt"), ".mov"),
        (("wmav2", "adpcm_ima_wav", "aac_latm", "unknown"), ""),
    ],
)
def test_each_container_copies_the_sound_of_the_table_in_the_docs(codecs, held_by):
    for suffix in (".mp4", ".mov", ".mkv"):
        refused = [] if suffix in held_by.split() else list(codecs)
        assert unsupported_audio(suffix, codecs) == refused, suffix
