"""Motion, residual and validity of clips whose motion is known, by every way to get them."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest
from video_deblur.video import coding_priors
from video_deblur.video.coding_priors import (
    CodingPriors,
    check_belongs,
    encoded_priors,
    file_priors,
    gather_priors,
)
from video_deblur.video.frames import VideoFrame
from video_deblur.video.reader import VideoReader


def canvas(seed: int = 0, grain: float = 2.5) -> np.ndarray:
    """Return smooth noise `[480, 640, 3]`, uint8, that no block of fits two places."""
    noise = np.random.default_rng(seed).normal(size=(480, 640, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), grain)
    return np.clip(smooth / smooth.std() * 45 + 128, 0, 255).astype(np.uint8)


def moving(
    step: tuple[float, float], num_frames: int = 7, size: tuple[int, int] = (96, 128)
) -> list[np.ndarray]:
    """Return frames of a window that moves by `step` (x, y) over a canvas.

    What a pixel shows was `step` further on in the frame before: the motion of every frame.
    """
    big, (height, width) = canvas(), size
    frames = []
    for index in range(num_frames):
        x, y = 200 + index * step[0], 150 + index * step[1]
        move = np.array([[1, 0, -x], [0, 1, -y]], np.float64)
        flags = cv2.INTER_CUBIC
        frames.append(cv2.warpAffine(big, move, (width, height), flags=flags))
    return frames


def encoded(
    frames: list[np.ndarray],
    codec: str = "libx264",
    *,
    file_format: str = "mp4",
    pix_fmt: str = "yuv420p",
    matrix: bytes | None = None,
    **options: str,
) -> io.BytesIO:
    """Encode a clip into memory."""
    file = io.BytesIO()
    with av.open(file, "w", format=file_format) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    return file


def x264(frames: list[np.ndarray], params: str, **options: Any) -> io.BytesIO:
    options = {"qp": "12", **options}
    return encoded(frames, **options, **{"x264-params": f"threads=1:scenecut=0:{params}"})


def of_file(
    file: io.BytesIO, *, from_stream: bool = True, expect_vectors: bool = True
) -> tuple[list[VideoFrame], CodingPriors]:
    with VideoReader(file, vectors=True) as reader:
        assert reader.has_vectors == expect_vectors
        pairs = list(file_priors(reader, from_stream))
    return [frame for frame, _ in pairs], gather_priors(each for _, each in pairs)


def share_within(priors: CodingPriors, step: tuple[float, float], tolerance: float) -> float:
    """Return the share of valid pixels, after the first frame, whose motion is `step`."""
    error = np.abs(priors.motion[1:] - np.array(step).reshape(2, 1, 1)).max(axis=1)
    valid = priors.valid[1:, 0]
    assert valid.mean() > 0.7
    return float((error[valid] <= tolerance).mean())


def warped(before: np.ndarray, motion: np.ndarray) -> np.ndarray:
    height, width = before.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + motion[0], y + motion[1]
    return cv2.remap(before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def assert_warping_gains(
    frames: list[np.ndarray], priors: CodingPriors, factor: float = 0.5
) -> None:
    """Assert that motion makes frames out of those before far better than no motion does."""
    for index in range(1, len(frames)):
        valid, frame = priors.valid[index, 0], frames[index].astype(np.float32)
        before = frames[index - 1].astype(np.float32)
        still = np.abs(before - frame)[valid].mean()
        moved = np.abs(warped(before, priors.motion[index]) - frame)[valid].mean()
        assert moved < factor * still, index


def assert_empty(priors: CodingPriors, index: int) -> None:
    assert not priors.valid[index].any()
    assert not priors.motion[index].any()
    assert not priors.residual[index].any()


STREAMS = {
    "one reference": "bframes=0:ref=1:weightp=0",
    "three references": "bframes=0:ref=3",
    "two B-frames": "bframes=2:ref=3:b-adapt=0:b-pyramid=none",
    "a pyramid of B-frames": "bframes=3:ref=4:b-adapt=0:b-pyramid=normal",
}


@pytest.mark.parametrize("step", [(3, -2), (-5, 4), (0, 6), (1.25, -0.75)])
@pytest.mark.parametrize("kind", STREAMS)
def test_streams_give_motion_from_the_frame_before(kind, step):
    frames, priors = of_file(x264(moving(step, num_frames=10), STREAMS[kind]))
    # A vector to a frame k away is exact to a quarter of a pixel, and to less by k.
    assert share_within(priors, step, 0.26) > 0.9
    assert_warping_gains([frame.pixels for frame in frames], priors)
    assert_empty(priors, 0)


def test_quarters_of_a_pixel_are_exact_where_the_codec_has_them():
    _, priors = of_file(x264(moving((1.25, -0.75)), STREAMS["one reference"]))
    assert share_within(priors, (1.25, -0.75), 0.0) > 0.9


def test_a_stream_that_refers_to_one_frame_is_not_compared(monkeypatch):
    """Where the header says that there is one reference, its vectors are taken as they are."""

    def fail(*arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(coding_priors.MotionChoice, "_difference", fail)
    of_file(x264(moving((2, 1)), STREAMS["one reference"]))
    with pytest.raises(AssertionError):
        of_file(x264(moving((2, 1)), STREAMS["three references"]))


@pytest.mark.parametrize("file_format", ["matroska", "mpegts", "avi", "flv"])
def test_streams_in_other_files_give_the_same(file_format):
    step = (3, -2)
    kind = "one reference" if file_format == "avi" else "two B-frames"
    _, priors = of_file(x264(moving(step), STREAMS[kind], file_format=file_format))
    assert share_within(priors, step, 0.26) > 0.9


def test_b_frames_in_a_file_without_display_times_are_encoded_again():
    step = (4, 2)
    file = x264(moving(step), STREAMS["two B-frames"], file_format="avi")
    _, priors = of_file(file, expect_vectors=False)
    assert share_within(priors, step, 0.26) > 0.9


def test_a_bare_stream_has_no_times_and_is_encoded_again():
    step = (4, 2)
    file = x264(moving(step), STREAMS["one reference"], file_format="h264")
    _, priors = of_file(file, expect_vectors=False)
    assert share_within(priors, step, 0.26) > 0.9


def test_a_size_that_x264_refuses_is_told_in_one_line():
    with pytest.raises(ValueError, match=r"^motion vectors: x264 takes no frames of 33000x16 "):
        gather_priors(encoded_priors([np.zeros((16, 33000, 3), np.uint8)]))


def test_mpeg_4_part_2_gives_motion_from_the_frame_before():
    for step, options in (((3, -2), {}), ((1.5, 2.5), {}), ((1.25, -0.75), {"flags": "+qpel"})):
        clip = encoded(moving(step), "mpeg4", b="2000000", **options)
        frames, priors = of_file(clip)
        assert share_within(priors, step, 0.26) > 0.8
        assert_warping_gains([frame.pixels for frame in frames], priors)


def test_mpeg_4_part_2_with_b_frames_is_encoded_again():
    # Of these libav lists zeros.
    step = (3, -2)
    _, priors = of_file(encoded(moving(step), "mpeg4", bf="2"), expect_vectors=False)
    assert share_within(priors, step, 0.26) > 0.9


OTHER_CODECS = {
    "libx265": {"x265-params": "log-level=none", "crf": "12"},
    "libsvtav1": {"crf": "15", "svtav1-params": "lp=1", "preset": "10"},
    "libvpx-vp9": {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "8"},
    "mjpeg": {"pix_fmt": "yuvj420p"},
    "prores_ks": {"pix_fmt": "yuv422p10le"},
    "ffv1": {"pix_fmt": "bgr0"},
}


@pytest.mark.parametrize("codec", OTHER_CODECS)
def test_other_codecs_are_encoded_again(codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    step = (3, -2)
    clip = encoded(moving(step), codec, file_format="matroska", **OTHER_CODECS[codec])
    frames, priors = of_file(clip, expect_vectors=False)
    assert share_within(priors, step, 0.26) > 0.8
    assert_warping_gains([frame.pixels for frame in frames], priors)


@pytest.mark.parametrize("step", [(3, -2), (-5, 4), (20, 9), (1.25, -0.75)])
def test_frames_are_encoded_to_find_their_motion(step):
    small = moving(step, size=(96, 112))
    assert share_within(gather_priors(encoded_priors(small)), step, 0.01) > 0.7
    # Larger ones at half their size: vectors are exact to half a pixel.
    large = moving(step, size=(144, 160))
    priors = gather_priors(encoded_priors(large))
    assert share_within(priors, step, 0.51) > 0.8
    assert_warping_gains(large, priors)
    assert_empty(priors, 0)


def test_the_residual_is_the_frame_less_what_motion_makes_of_the_one_before():
    frames = moving((2, 1))
    for priors in (
        gather_priors(encoded_priors(frames)),
        of_file(
            encoded(frames, "ffv1", file_format="matroska", pix_fmt="bgr0"),
            expect_vectors=False,
        )[1],
    ):
        for index in range(1, len(frames)):
            before, frame = (
                cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
                for each in frames[index - 1 : index + 1]
            )
            expected = (frame - warped(before, priors.motion[index])) * priors.valid[index, 0]
            np.testing.assert_allclose(priors.residual[index, 0], expected, atol=1e-6)


def test_a_brighter_frame_has_a_positive_residual():
    frame = canvas()[:96, :128] // 2
    priors = gather_priors(encoded_priors([frame, frame, frame + 3]))
    # Some blocks find a brighter place.
    assert 1 / 255 < priors.residual[2][priors.valid[2]].mean() <= 3 / 255


def test_a_clip_that_stands_still_has_no_motion_and_no_residual():
    frames = [canvas()[:96, :128]] * 4
    stream, encoder = of_file(x264(frames, STREAMS["two B-frames"]))
    still = gather_priors(encoded_priors(frames))
    assert not still.motion.any()
    assert not still.residual.any()
    assert still.valid[1:].all()
    assert not encoder.motion.any()
    # Frames of a stream differ by what the encoder lost.
    assert np.abs(encoder.residual).max() < 0.03
    assert len(stream) == 4


def test_key_frames_inside_a_shot_are_valid_zeros():
    params = f"{STREAMS['one reference']}:keyint=3:min-keyint=3"
    _, priors = of_file(x264(moving((3, -2), num_frames=8), params))
    for index in range(8):
        if index % 3 == 0:
            assert_empty(priors, index)
        else:
            assert priors.valid[index].mean() > 0.9


def test_no_motion_leads_over_a_cut():
    one, other = moving((3, -2), 5), [255 - each[::-1] // 2 for each in moving((1, 1), 5)]
    clip = [*one, *[np.ascontiguousarray(each) for each in other]]
    for priors in (
        gather_priors(encoded_priors(clip)),
        of_file(x264(clip, f"{STREAMS['two B-frames']}:scenecut=40"))[1],
        of_file(x264(clip, f"{STREAMS['three references']}:scenecut=0"))[1],
    ):
        assert_empty(priors, 5)
        assert priors.valid[1:5].mean() > 0.9
        assert priors.valid[6:].mean() > 0.5


@pytest.mark.parametrize("size", [(97, 131), (33, 17), (15, 16), (129, 250), (1, 200), (8, 3)])
def test_any_size_keeps_its_size(size):
    frames = moving((1, 1), 3, size)
    priors = gather_priors(encoded_priors(frames))
    assert priors.motion.shape == (3, 2, *size)
    assert priors.residual.shape == priors.valid.shape == (3, 1, *size)
    assert priors.motion.dtype == priors.residual.dtype == np.float32
    assert priors.valid.dtype == bool
    assert np.abs(priors.residual).max() <= 1


def test_odd_sizes_of_a_stream_have_the_motion_of_even_ones():
    step = (3, -2)
    clip = x264(moving(step, size=(97, 131)), STREAMS["two B-frames"], pix_fmt="yuv444p")
    frames, priors = of_file(clip)
    assert priors.motion.shape[2:] == frames[0].pixels.shape[:2] == (97, 131)
    assert share_within(priors, step, 0.26) > 0.9


def test_one_frame_and_one_pixel_have_empty_priors():
    priors = gather_priors(encoded_priors([np.full((1, 1, 3), 128, np.uint8)] * 2))
    assert priors.motion.shape == (2, 2, 1, 1)
    assert not priors.residual.any()
    single = gather_priors(encoded_priors([canvas()]))
    assert single.motion.shape == (1, 2, 480, 640)
    assert_empty(single, 0)
    _, of_stream = of_file(x264([canvas()], STREAMS["one reference"]))
    assert_empty(of_stream, 0)


def test_no_frame_is_refused():
    with pytest.raises(ValueError, match="there is no frame"):
        gather_priors(encoded_priors([]))


def test_depth_of_colours_and_transparency_change_nothing():
    frames = moving((3, -2))
    expected = gather_priors(encoded_priors(frames))
    deep = gather_priors(encoded_priors([each.astype(np.uint16) * 257 for each in frames]))
    floats = gather_priors(encoded_priors([np.float32(each / 255) for each in frames]))
    clear = [np.dstack([each, each[..., :1]]) for each in frames]
    for priors in (deep, floats):
        # Luma is rounded to the depth of the frames, and that may decide a block.
        assert np.abs(priors.motion - expected.motion).mean() < 0.01
        assert np.abs(priors.residual - expected.residual).mean() < 0.003
    np.testing.assert_array_equal(gather_priors(encoded_priors(clear)).motion, expected.motion)


def test_streaming_equals_the_whole_and_holds_two_frames():
    frames = moving((3, -2), 9)
    whole = gather_priors(encoded_priors(frames))
    taken = 0

    def counted() -> Any:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    parts = []
    for index, each in enumerate(encoded_priors(counted())):
        parts.append(each)
        # One frame ahead, as a cut shows in the frame after it.
        assert taken <= index + 2
    again = gather_priors(parts)
    for name in ("motion", "residual", "valid", "marks"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))


def test_a_clip_gives_the_same_twice():
    clip = x264(moving((3, -2), 9), STREAMS["a pyramid of B-frames"])
    once, twice = of_file(clip)[1], of_file(clip)[1]
    np.testing.assert_array_equal(once.motion, twice.motion)
    np.testing.assert_array_equal(once.residual, twice.residual)


TURNS = {
    "90": ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    "180": ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    "270": ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
}


@pytest.mark.parametrize("turn", TURNS)
def test_turned_clips_have_motion_as_they_are_shown(turn):
    matrix, as_shown = TURNS[turn]
    coded = moving((3, -2))
    plain = x264(coded, STREAMS["two B-frames"])
    with VideoReader(plain, vectors=True) as reader:
        reader.matrix = matrix
        pairs = list(file_priors(reader))
    priors = gather_priors(each for _, each in pairs)
    shown = [frame.pixels for frame, _ in pairs]
    assert shown[0].shape == as_shown(coded[0]).shape
    assert priors.motion.shape[2:] == shown[0].shape[:2]
    assert_warping_gains(shown, priors)
    again = gather_priors(encoded_priors(shown))
    for index in range(1, len(shown)):
        by_stream = np.median(priors.motion[index], axis=(1, 2))
        np.testing.assert_allclose(by_stream, np.median(again.motion[index], axis=(1, 2)))
    check_belongs(priors, shown, len(shown))


def test_frames_of_a_window_of_time_have_the_priors_of_the_whole():
    clip = x264(moving((3, -2), 9), STREAMS["two B-frames"])
    frames, whole = of_file(clip)
    with VideoReader(clip, vectors=True) as reader:
        reader.start_at(frames[4].pts)
        pairs = list(file_priors(reader))
    part = gather_priors(each for _, each in pairs)
    assert [frame.pts for frame, _ in pairs] == [frame.pts for frame in frames[4:]]
    assert_empty(part, 0)
    np.testing.assert_array_equal(part.motion[1:], whole.motion[5:])
    np.testing.assert_array_equal(part.residual[1:], whole.residual[5:])


def test_a_frame_that_was_lost_stands_still():
    clip = x264(moving((3, -2), 9), STREAMS["one reference"], file_format="mpegts")
    data = bytearray(clip.getvalue())
    with av.open(io.BytesIO(data)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    hit = packets[4].pos
    for place in range(hit + 188, packets[5].pos, 188):
        data[place + 4 : place + 188] = bytes(184)
    frames, priors = of_file(io.BytesIO(data))
    assert len(priors.motion) == len(frames)
    for index, frame in enumerate(frames[1:], 1):
        if frame.is_repeat:
            assert priors.valid[index].all()
            assert not priors.motion[index].any()
            assert not priors.residual[index].any()


def test_interlaced_streams_are_encoded_again():
    frames = moving((3, -2))
    clip = x264(frames, "bframes=0:ref=1:tff=1", flags="+ildct")
    _, priors = of_file(clip, expect_vectors=False)
    assert priors.valid[1:].mean() > 0.5


def test_frames_of_which_all_are_key_frames_are_valid_zeros():
    _, priors = of_file(x264(moving((3, -2), 4), "keyint=1"))
    for index in range(4):
        assert_empty(priors, index)
    clip = x264(moving((3, -2), 4), "keyint=1")
    _, again = of_file(clip, from_stream=False)
    assert share_within(again, (3, -2), 0.26) > 0.9


def test_priors_of_another_clip_are_refused_in_one_line():
    frames = moving((3, -2))
    priors = gather_priors(encoded_priors(frames))
    check_belongs(priors, frames, len(frames))
    # As other readers decode them: another matrix, other rounding.
    near = [np.clip(each.astype(np.int16) + 5, 0, 255).astype(np.uint8) for each in frames]
    check_belongs(priors, near, len(near))
    with pytest.raises(ValueError, match=r"^coding priors: are of 7 frames .*has 6 frames\. "):
        check_belongs(priors, frames[:6], 6)
    with pytest.raises(ValueError, match=r"of 128x96 pixels, the clip of 64x96 pixels\. "):
        check_belongs(priors, [each[:, :64] for each in frames], 7)
    other = [*frames[:5], *[255 - each for each in frames[5:]]]
    with pytest.raises(
        ValueError, match=r"^coding priors: .* clip, frame [56] differs\. .*\.$"
    ):
        check_belongs(priors, other, 7)
