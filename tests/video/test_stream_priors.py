"""Motion that streams bring along: B-frames, references, turned and damaged clips."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from video_deblur.video import coding_priors
from video_deblur.video.coding_priors import (
    check_frames,
    encoded_priors,
    file_priors,
    gather_priors,
)
from video_deblur.video.reader import VideoReader

from .moving_clips import (
    STREAMS,
    assert_empty,
    assert_warping_gains,
    encoded,
    moving,
    of_file,
    share_within,
    x264,
)


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


def test_vectors_to_the_frame_before_the_last_are_halved():
    # Every other frame is darker: x264 takes blocks from two frames back.
    step = (3, -2)
    frames = [frame // 2 if index % 2 else frame for index, frame in enumerate(moving(step, 9))]
    _, priors = of_file(x264(frames, f"{STREAMS['three references']}:weightp=0"))
    late = slice(2, None)
    error = np.abs(priors.motion[late] - np.array(step).reshape(2, 1, 1)).max(axis=1)
    assert (error[priors.valid[late, 0]] <= 0.26).mean() > 0.85


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


def test_key_frames_inside_a_shot_are_valid_zeros():
    params = f"{STREAMS['one reference']}:keyint=3:min-keyint=3"
    _, priors = of_file(x264(moving((3, -2), num_frames=8), params))
    for index in range(8):
        if index % 3 == 0:
            assert_empty(priors, index)
        else:
            assert priors.valid[index].mean() > 0.9


def test_odd_sizes_of_a_stream_have_the_motion_of_even_ones():
    step = (3, -2)
    clip = x264(moving(step, size=(97, 131)), STREAMS["two B-frames"], pix_fmt="yuv444p")
    frames, priors = of_file(clip)
    assert priors.motion.shape[2:] == frames[0].pixels.shape[:2] == (97, 131)
    assert share_within(priors, step, 0.26) > 0.9


def test_a_clip_gives_the_same_every_time():
    # Of this one threads of whole frames listed a part of the vectors every other time.
    clip = encoded(moving((3, 0), 9, (240, 320)), crf="5")
    once = of_file(clip)[1]
    for _ in range(12):
        again = of_file(clip)[1]
        np.testing.assert_array_equal(once.valid, again.valid)
        np.testing.assert_array_equal(once.motion, again.motion)
        np.testing.assert_array_equal(once.residual, again.residual)


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
    check_frames(priors, shown)


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


@pytest.mark.parametrize("file_format", ["mp4", "matroska"])
def test_a_frame_that_was_lost_stands_still(file_format):
    clip = x264(moving((3, -2), 9), STREAMS["one reference"], file_format=file_format)
    with av.open(clip) as container:
        lost = bytes([p for p in container.demux(video=0) if p.size][4])
    clip = io.BytesIO(clip.getvalue().replace(lost, b"\xff" * len(lost)))
    frames, priors = of_file(clip)
    assert [index for index, frame in enumerate(frames) if frame.is_repeat] == [4]
    assert priors.valid[4].all()
    assert not priors.motion[4].any()
    assert not priors.residual[4].any()
    assert_empty(priors, 5)
    assert priors.valid[6].mean() > 0.9


def test_a_frame_that_is_damaged_has_no_motion():
    clip = x264(moving((3, -2), 9), STREAMS["one reference"], file_format="mpegts")
    with av.open(clip) as container:
        places = [p.pos for p in container.demux(video=0) if p.size]
    data = bytearray(clip.getvalue())
    for place in range(places[4] + 188, places[5], 188):
        data[place + 4 : place + 188] = bytes(184)
    _, priors = of_file(io.BytesIO(data))
    assert_empty(priors, 4)
    assert priors.valid[3].mean() > 0.9


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
