from __future__ import annotations

import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

from .footage import clicks, restore, write_film, write_sound

TAGS = {
    "title": "My film",
    "artist": "Me",
    "comment": "hello",
    "creation_time": "2020-05-06T07:08:09.000000Z",
}
CHAPTERS = [(Fraction(0), Fraction(1, 2), "One"), (Fraction(1, 2), Fraction(6, 5), "Two")]


def describe(container, video):
    container.metadata.update(TAGS)
    container.metadata["location"] = "+48.8500+002.3500/"
    container.set_chapters(
        [
            {
                "id": index,
                "start": int(start * 1000),
                "end": int(end * 1000),
                "time_base": Fraction(1, 1000),
                "metadata": {"title": title},
            }
            for index, (start, end, title) in enumerate(CHAPTERS)
        ]
    )
    video.metadata["timecode"] = "01:00:00:00"
    if container.format.name == "matroska":
        container.metadata["timecode"] = "01:00:00:00"
    other = container.add_stream("aac", rate=48000, layout="mono")
    other.metadata.update({"language": "fra", "title": "Comments"})
    other.disposition = av.stream.Disposition.default | av.stream.Disposition.comment
    write_sound(container, other, clicks(48000), "mono")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("source_suffix", [".mp4", ".mov", ".mkv"])
def test_titles_chapters_times_places_and_flags_stay(source_suffix, suffix, tmp_path, caplog):
    source = write_film(tmp_path / f"clip{source_suffix}", more=describe)
    output = tmp_path / f"out{suffix}"
    restore(source, output)
    assert caplog.messages == []
    with av.open(str(output)) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
        chapters = [
            (each["start"] * each["time_base"], each["end"] * each["time_base"])
            for each in container.chapters()
        ]
        titles = [each["metadata"]["title"] for each in container.chapters()]
        # As values: a stream must not be asked after its file is closed.
        tags = [{k.lower(): v for k, v in s.metadata.items()} for s in container.streams]
        heard = [
            ({**s.metadata}, int(s.disposition)) for s in container.streams if s.type == "audio"
        ]
    assert {key: found[key] for key in TAGS} == TAGS
    assert found["location"].startswith("+48.85")
    assert titles == ["One", "Two"]
    assert chapters == [(start, end) for start, end, _ in CHAPTERS]
    assert "01:00:00:00" in [each.get("timecode") for each in (found, *tags)]
    (_, first_flags), (second, flags) = heard
    assert second["language"] == "fra"
    assert "Comments" in second.values()
    assert flags & av.stream.Disposition.default
    assert not first_flags & av.stream.Disposition.default
    if suffix != ".mov" and source_suffix != ".mov":
        assert flags & av.stream.Disposition.comment


def test_what_phones_say_is_kept_by_its_full_name(tmp_path, caplog):
    says = {
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.location.ISO6709": "+48.85+002.35/",
    }
    source = write_film(
        tmp_path / "phone.mov",
        more=lambda container, _: container.metadata.update(says),
        options={"movflags": "use_metadata_tags"},
    )
    for name in ("out.mov", "out.mp4"):
        restore(source, tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            assert says.items() <= container.metadata.items()
    assert caplog.messages == []


def test_what_a_file_cannot_say_is_named(tmp_path, caplog):
    tags = {"mytag": "hello", "title": "My film"}
    source = write_film(
        tmp_path / "clip.mkv", more=lambda container, _: container.metadata.update(tags)
    )
    restore(source, tmp_path / "out.mp4")
    (warning,) = caplog.messages
    assert "clip.mkv: its tags mytag are left out: .mp4 cannot hold them" in warning


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_titles_in_another_alphabet_are_kept_as_far_as_they_are_utf8(tmp_path, caplog, suffix):
    tags = {"title": "Café", "mytag": "über"}
    source = write_film(
        tmp_path / "clip.mkv", more=lambda container, _: container.metadata.update(tags)
    )
    data = source.read_bytes()
    changed = data.replace("Café".encode(), b"Caf\xe9 ").replace("über".encode(), b" \xfcber")
    assert len(changed) == len(data)
    assert changed.count(b"\xe9 ") == 1
    source.write_bytes(changed)
    restore(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
    assert found["title"].rstrip() == "Caf\ufffd"
    assert found.get("mytag") == (" \ufffdber" if suffix == ".mkv" else None)
    assert len(caplog.messages) == (suffix != ".mkv")


def test_no_date_is_none(tmp_path, caplog):
    # What libav reads from a WMV file without one.
    tags = {"creation_time": "1970-01-01T00:00:00.000000Z"}
    source = write_film(
        tmp_path / "clip.mkv", more=lambda container, _: container.metadata.update(tags)
    )
    restore(source, tmp_path / "out.mp4")
    assert caplog.messages == []


def test_files_within_a_file_are_kept_or_named(tmp_path, caplog):
    source = write_film(
        tmp_path / "clip.mkv",
        more=lambda container, _: container.add_attachment("f.ttf", "font/ttf", b"font"),
    )
    restore(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        (attachment,) = container.streams.attachments
        assert (attachment.name, attachment.data) == ("f.ttf", b"font")
    assert caplog.messages == []
    restore(source, tmp_path / "out.mp4")
    (warning,) = caplog.messages
    assert "attachment stream 2 (f.ttf) is left out: .mp4 cannot hold it" in warning


def make_png():
    encoder = av.CodecContext.create("png", "w")
    encoder.width = encoder.height = 16
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1, 25)
    pixels = np.arange(16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    (png,) = [bytes(p) for p in encoder.encode(av.VideoFrame.from_ndarray(pixels, "rgb24"))]
    return png


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_cover_stays_a_cover(suffix, tmp_path, caplog):
    png = make_png()
    source = write_film(
        tmp_path / "clip.mkv",
        more=lambda container, _: container.add_attachment("cover.png", "image/png", png),
    )
    output = tmp_path / f"out{suffix}"
    restore(source, output)
    with VideoReader(output) as reader:
        assert sum(1 for _ in reader) == 30
    with av.open(str(output)) as container:
        flag = av.stream.Disposition.attached_pic
        covers = [s for s in container.streams.video if s.disposition & flag]
        found = [bytes(p) for s in covers for p in container.demux(s) if p.size]
    if suffix == ".mov":
        (warning,) = caplog.messages
        assert "video stream 2 (cover.png) is left out: .mov cannot hold it" in warning
    else:
        assert found == [png]
        assert caplog.messages == []


def test_a_cover_that_is_no_picture_is_left_out(tmp_path, caplog):
    source = write_film(
        tmp_path / "clip.mkv",
        more=lambda container, _: container.add_attachment("c.jpg", "image/jpeg", b"none"),
    )
    restore(source, tmp_path / "out.mp4")
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert sum(1 for _ in reader) == 30
    (warning,) = caplog.messages
    assert "video stream 2 (c.jpg) is left out: .mp4 cannot hold it" in warning


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_names_in_another_alphabet_are_kept_as_far_as_they_are_utf8(suffix, tmp_path, caplog):
    def describe(container, _):
        container.add_attachment("Café.png", "image/png", make_png())
        container.add_attachment("Café.ttf", "font/ttf", b"font")
        chapter = {"id": 0, "start": 0, "end": 1000, "time_base": Fraction(1, 1000)}
        container.set_chapters([{**chapter, "metadata": {"title": "Café"}}])

    source = write_film(tmp_path / "clip.mkv", more=describe)
    data = source.read_bytes()
    assert data.count("Café".encode()) == 3
    source.write_bytes(data.replace("Café".encode(), b"Caf\xe9 "))
    output = tmp_path / f"out{suffix}"
    restore(source, output)
    with av.open(str(output)) as container:
        (chapter,) = container.chapters()
        assert chapter["metadata"]["title"].rstrip() == "Caf\ufffd"
        names = [s.metadata["filename"] for s in container.streams if "filename" in s.metadata]
    if suffix == ".mkv":
        # From PyAV 19 on a stream that is copied keeps the very bytes.
        assert [name.replace("\udce9", "\ufffd") for name in names] == [
            "Caf\ufffd .png",
            "Caf\ufffd .ttf",
        ]
        assert caplog.messages == []
    else:
        (warning,) = caplog.messages
        assert "attachment stream 3 (Caf\ufffd .ttf) is left out" in warning


def data_packets(path):
    with av.open(str(path)) as container:
        return [
            bytes(packet)
            for stream in container.streams.data
            for packet in container.demux(stream)
            if packet.size
        ]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_telemetry_is_kept_or_named(suffix, tmp_path, caplog):
    timed = write_film(
        tmp_path / "timed.mov",
        more=lambda _, video: video.metadata.update(timecode="01:00:00:00"),
    )
    # As an action camera calls it.
    source = tmp_path / "gopro.mov"
    source.write_bytes(timed.read_bytes().replace(b"tmcd", b"gpmd"))
    assert len(data_packets(source)) == 1
    output = tmp_path / f"out{suffix}"
    restore(source, output)
    if suffix == ".mkv":
        (warning,) = caplog.messages
        assert "data stream 2" in warning
        assert "is left out: .mkv cannot hold it" in warning
    else:
        assert data_packets(output) == data_packets(source)
        assert caplog.messages == []


@pytest.mark.parametrize(("count", "expected"), [(1, "01:00:00:12"), (2, "01:00:00:24")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_time_code_counts_the_pictures_of_the_output(count, expected, suffix, tmp_path):
    source = write_film(
        tmp_path / "clip.mov",
        more=lambda _, video: video.metadata.update(timecode="01:00:00:12"),
    )
    output = tmp_path / f"out{suffix}"
    with VideoReader(source) as reader:
        # As with a frame for every field.
        info = dataclasses.replace(
            reader.info,
            average_rate=count * reader.info.average_rate,
            time_base=reader.info.time_base / count,
        )
        with VideoWriter.like(output, info, audio_from=source) as writer:
            for frame in reader:
                writer.write(frame.pixels, frame.pts * count)
    with av.open(str(output)) as container:
        tags = [container.metadata, *(dict(each.metadata) for each in container.streams)]
        found = {
            value for each in tags for key, value in each.items() if key.lower() == "timecode"
        }
    assert found == {expected}
