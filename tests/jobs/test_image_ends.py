"""Folders, photos, animations and videos into each other, whole and after a stop."""

from __future__ import annotations

import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from video_deblur.images.folders import FrameFolder
from video_deblur.images.reading import read_image
from video_deblur.jobs.files import restore_ends
from video_deblur.jobs.kinds import make_ends
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

from ..images import image_files
from ..video.footage import write_film
from .footage import SETTINGS, StoppedError, decoded, hidden, pictures, resumable, stop_after

AS_IT_IS = RestorationSettings(window=4, overlap=2, borrow=False, strength=0.0)


def restore(deblurrer, source, output, settings=AS_IT_IS, *, keep=False, **options):
    ends = make_ends(source, output, **options)
    chosen = resumable(ends.output) if keep else None
    return restore_ends(ends, deblurrer, settings, resumable=chosen)


def restore_after_a_stop(deblurrer, source, output, **options) -> None:
    ends = make_ends(source, output, **options)
    chosen = resumable(ends.output)
    with pytest.raises(StoppedError):
        restore_ends(ends, deblurrer, SETTINGS, resumable=chosen, callback=stop_after(16))
    assert not ends.output.exists()
    restore(deblurrer, source, output, SETTINGS, keep=True, **options)


def write_folder(folder, frames, write=image_files.png, suffix=".png"):
    folder.mkdir()
    for index, pixels in enumerate(frames):
        (folder / f"{index}{suffix}").write_bytes(write(pixels))
    return folder


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_folder_becomes_a_video_of_the_same_pixels(alpha, dtype, deblurrer, tmp_path):
    frames = pictures(6).astype(dtype) * (257 if dtype == np.uint16 else 1)
    if alpha:
        frames = np.concatenate([frames, frames[..., :1]], axis=-1)
    source = write_folder(tmp_path / "in", frames)
    output = tmp_path / "out.mkv"
    rate = Fraction(30000, 1001)
    restore(deblurrer, source, output, codec="ffv1", fps=rate)
    with VideoReader(output) as reader:
        assert reader.info.average_rate == rate
        assert reader.info.has_alpha is alpha
    assert np.array_equal(decoded(output), frames)


def test_a_rate_that_was_not_given_is_named(deblurrer, tmp_path, caplog):
    source, output = write_folder(tmp_path / "in", pictures(3)), tmp_path / "out.mp4"
    restore(deblurrer, source, output)
    assert "taken as 25 frames per second" in caplog.text
    with VideoReader(output) as reader:
        assert reader.info.average_rate == 25


def test_a_video_becomes_a_folder_and_says_that_its_sound_does_not(
    clip, deblurrer, tmp_path, caplog
):
    output = tmp_path / "new" / "frames"
    restore(deblurrer, clip, output)
    assert "sound is left out" in caplog.text
    folder = FrameFolder(output)
    assert folder.names[0] == "frame_000001.png"
    assert np.array_equal(np.stack([f.pixels for f in folder]), decoded(clip))


def test_ten_bits_of_a_video_are_kept_in_a_folder(deblurrer, tmp_path):
    clip = tmp_path / "clip.mkv"
    with VideoWriter(
        clip,
        width=64,
        height=48,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        codec="ffv1",
        bit_depth=16,
        sample_aspect_ratio=Fraction(4, 3),
    ) as writer:
        for index, pixels in enumerate(pictures(3).astype(np.uint16) * 257 + 9):
            writer.write(pixels, index)
    restore(deblurrer, clip, tmp_path / "out")
    png = tmp_path / "out" / "frame_000002.png"
    assert np.array_equal(read_image(png), decoded(clip)[1])
    assert image_files.chunks_of(png.read_bytes())[b"pHYs"] == bytes(
        [0, 0, 0, 3, 0, 0, 0, 4, 0]
    )


@pytest.mark.parametrize("kind", ["folder to video", "video to folder", "folder", "webp"])
def test_after_a_stop_the_result_is_the_same(kind, clip, deblurrer, tmp_path):
    frames = pictures(30)
    if kind == "webp":
        source = tmp_path / "a.webp"
        opaque = np.full_like(frames[..., :1], 255)
        whole = np.concatenate([frames, opaque], axis=-1)
        source.write_bytes(
            image_files.webp_animation((48, 64), [(f, 0, 0, 40, 0) for f in whole])
        )
    else:
        source = clip if kind == "video to folder" else write_folder(tmp_path / "in", frames)
    suffix = ".mkv" if kind in ("folder to video", "webp") else ""
    options = {"codec": "ffv1"} if suffix else {}
    outputs = [tmp_path / f"{name}{suffix}" for name in ("whole", "parts")]
    restore(deblurrer, source, outputs[0], SETTINGS, **options)
    restore_after_a_stop(deblurrer, source, outputs[1], **options)
    if suffix:
        assert np.array_equal(*map(decoded, outputs))
    else:
        one, other = map(FrameFolder, outputs)
        assert one.names == other.names
        for name in one.names:
            assert (one.path / name).read_bytes() == (other.path / name).read_bytes()
    assert hidden(tmp_path) == []


def test_every_frame_of_a_folder_keeps_its_own_profile_and_date(deblurrer, tmp_path):
    icc, turned = image_files.profile(), image_files.exif(6)
    source = write_folder(
        tmp_path / "in", pictures(3), lambda p: image_files.jpeg(p, turned, icc), ".jpg"
    )
    for keep in (False, True):
        output = tmp_path / f"out {keep}"
        restore(deblurrer, source, output, keep=keep)
        for index in range(3):
            chunks = image_files.chunks_of((output / f"{index}.png").read_bytes())
            assert zlib.decompress(chunks[b"iCCP"].partition(b"\0")[2][1:]) == icc
            assert b"Tester" in chunks[b"eXIf"]
            assert read_image(output / f"{index}.png").shape == (64, 48, 3)


def test_what_is_wrong_in_a_folder_is_found_before_the_work(deblurrer, tmp_path):
    def refused(name: str, data: bytes, text: str) -> None:
        whole = (source / name).read_bytes()
        (source / name).write_bytes(data)
        for output in ("out", "out.mp4"):
            with pytest.raises(ValueError, match=text), make_ends(source, tmp_path / output):
                pass
        (source / name).write_bytes(whole)

    frames = pictures(30)
    source = write_folder(tmp_path / "in", frames)
    good = image_files.png(frames[0])
    refused("29.png", image_files.png(frames[0][:40]), r"29\.png: is 64x40 .* 0\.png is 64x48")
    refused("28.png", good[:-30], r"28\.png: is damaged")
    refused("27.png", b"", r"27\.png: is empty")
    refused("9.png", image_files.jpeg(frames[0])[:-9], r"9\.png: is damaged")
    several = image_files.tiff([frames[0]] * 2)
    refused("8.png", several, r"8\.png: holds 2 pictures")
    deep = image_files.png(frames[0].astype(np.uint16))
    refused("7.png", deep, r"7\.png: is 64x48 with 3 channels of 16 bits")
    deep = image_files.tiff([frames[0].astype(np.uint16)])
    refused("6.png", deep, r"6\.png: is 64x48 with 3 channels of 16 bits")
    clear = np.concatenate([frames[0], frames[0][..., :1]], axis=-1)
    refused("5.png", image_files.tiff([clear]), r"5\.png: is 64x48 with 4 channels of 8 bits")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("source", "output", "fps", "text"),
    [
        ("a.webp", "out.png", None, r"out\.png: .*a\.webp holds 2 pictures; name a video"),
        ("a.webp", "out.gif", None, r"out\.gif: .* name a video .* or a folder"),
        ("a.webp", "out.mp4", 30, r"a\.webp: --fps is for"),
        ("pages.tif", "out.jpg", None, r"pages\.tif holds 2 pictures"),
        ("clip.mp4", "out.png", None, r"clip\.mp4 is a video; name a video"),
        ("in", "out.webm", None, r"in is a folder; name a video"),
        ("in", "out", 30, r"in: --fps is for"),
        ("in", "out.mp4", 0, r"fps must be above 0"),
        ("photo.jpg", "out.mp4", None, r"an image is written as PNG"),
        ("photo.jpg", "in", None, r"in: is a folder, name a \.png file in it"),
        ("clip.mp4", "in", None, r"in: is not empty"),
    ],
)
def test_outputs_that_do_not_go_with_an_input_are_refused(
    source, output, fps, text, clip, tmp_path
):
    pixels = pictures(2)
    opaque = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    animation = image_files.webp_animation((48, 64), [(p, 0, 0, 40, 0) for p in opaque])
    (tmp_path / "a.webp").write_bytes(animation)
    (tmp_path / "pages.tif").write_bytes(image_files.tiff(list(pixels)))
    (tmp_path / "photo.jpg").write_bytes(image_files.jpeg(pixels[0]))
    write_folder(tmp_path / "in", pixels)
    before = sorted(tmp_path.iterdir())
    rate = None if fps is None else Fraction(fps)
    with (
        pytest.raises(ValueError, match=text),
        make_ends(tmp_path / source, tmp_path / output, fps=rate),
    ):
        pass
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["out.mkv", "out"])
def test_a_clip_that_does_not_say_it_is_interlaced_is_named(name, tmp_path, caplog):
    source = write_film(tmp_path / "in.mp4", None, num_frames=3)
    for choice in ("off", "frame"):
        with make_ends(source, tmp_path / name, deinterlace=choice):
            pass
    (message,) = caplog.messages
    assert "in.mp4: does not say that it is interlaced, --deinterlace frame leaves" in message


def test_pictures_of_a_matrix_that_is_not_known_are_named(tmp_path, caplog):
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.codec_context.colorspace = 8
        frame = av.VideoFrame.from_ndarray(np.zeros((3, 48, 64), np.uint8), "yuv444p")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with make_ends(tmp_path / "in.mkv", tmp_path / "out"):
        pass
    (message,) = caplog.messages
    assert "its colours will be wrong" in message
