"""Motion, residual and validity of clips whose motion is known."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError
from video_deblur.video import vector_encoder
from video_deblur.video.coding_priors import (
    check_frames,
    check_number,
    encoded_priors,
    gather_priors,
)

from .moving_clips import (
    STREAMS,
    assert_empty,
    assert_warping_gains,
    canvas,
    encoded,
    moving,
    of_file,
    share_within,
    warped,
    x264,
)


def test_a_size_that_x264_refuses_is_told_in_one_line():
    with pytest.raises(ValueError, match=r"^motion vectors: x264 takes no frames of 33000x16 "):
        gather_priors(encoded_priors([np.zeros((16, 33000, 3), np.uint8)]))


def test_a_pyav_without_x264_is_told_in_one_line(monkeypatch):
    class WithoutX264:
        @staticmethod
        def create(name, mode):
            raise UnknownCodecError(name)

    # The module's own name of it: PyAV's class takes no other methods.
    monkeypatch.setattr(vector_encoder.av, "CodecContext", WithoutX264)
    with pytest.raises(ValueError, match=r"this build of PyAV has no encoder libx264; install"):
        list(encoded_priors([np.zeros((16, 16, 3), np.uint8)] * 2))


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


def test_priors_of_another_clip_are_refused_in_one_line():
    frames = moving((3, -2))
    priors = gather_priors(encoded_priors(frames))
    check_number(priors, len(frames))
    check_frames(priors, frames)
    check_frames(priors, frames[2:5], 2)
    # As other readers decode them: another matrix, other rounding.
    near = [np.clip(each.astype(np.int16) + 5, 0, 255).astype(np.uint8) for each in frames]
    check_frames(priors, near)
    with pytest.raises(ValueError, match=r"^coding priors: are of 7 frames .*has 6 frames\. "):
        check_number(priors, 6)
    with pytest.raises(ValueError, match=r"of 128x96 pixels, the clip of 64x96 pixels\. "):
        check_frames(priors, [each[:, :64] for each in frames])
    other = [*frames[:5], *[255 - each for each in frames[5:]]]
    with pytest.raises(
        ValueError, match=r"^coding priors: .* clip, frame [56] differs\. .*\.$"
    ):
        check_frames(priors, other)
