"""CODING_PRIORS that are given to the Deblur nodes: what takes them, and what refuses them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch

from .checkpoints import NAME, STAGES, blurry_clip, every_stage
from .test_deblur_video import read, write_clip
from .test_edited_videos import trimmed

FRAMES, VIDEO, PRIORS = (f"VideoDeblur_{n}" for n in ("Deblur", "DeblurVideo", "CodingPriors"))


@pytest.fixture(autouse=True)
def files(cpgd_files):
    return cpgd_files


@pytest.fixture
def priors_module(our_module):
    return our_module("video.coding_priors")


@pytest.fixture
def frames():
    return blurry_clip(11, 45, 70)


@pytest.fixture
def clip(frames, tmp_path):
    return write_clip(tmp_path / "clip.mp4", frames[:, :44], Fraction(25))


def motionless(priors):
    """Return the priors of the same clip, as if nothing moved."""
    return dataclasses.replace(priors, motion=np.zeros_like(priors.motion))


@every_stage
def test_given_priors_take_the_place_of_those_it_would_find(
    call_node, files, priors_module, name
):
    # Of one window, and sides that need no padding.
    pixels = (blurry_clip(7, 48, 64) * 255).round().byte()
    frames = pixels.float() / 255
    inputs = {"frames": frames, "checkpoint": name, "borrow": False}
    # In 8 bits, as it finds them.
    priors = priors_module.gather_priors(priors_module.encoded_priors(pixels.numpy()))
    plain, given, other = (
        call_node(FRAMES, **inputs, **more)[0]
        for more in (
            {},
            {"coding_priors": priors},
            {"coding_priors": motionless(priors)},
        )
    )
    torch.testing.assert_close(given, plain, atol=1e-6, rtol=0)
    assert (other - plain).abs().max() > 1e-3


def test_priors_of_the_stream_go_with_its_video(comfy, call_node, files, clip):
    video = comfy.api.InputImpl.VideoFromFile(str(clip))
    inputs = {"video": video, "checkpoint": STAGES[1], "crf": 0}
    of_stream = call_node(PRIORS, video=video, source="stream")[2]
    made = [
        call_node(VIDEO, **inputs, **more)[0]
        for more in ({}, {"coding_priors": of_stream}, {"coding_priors": of_stream})
    ]
    plain, given, again = (read(video.get_stream_source()) for video in made)
    assert torch.equal(given, again)
    assert not torch.equal(given, plain)
    images = video.get_components().images
    (frames,) = call_node(FRAMES, frames=images, checkpoint=STAGES[1], coding_priors=of_stream)
    assert frames.shape == images.shape


def test_priors_of_a_trimmed_video_go_with_it(comfy, call_node, files, clip):
    video = trimmed(comfy, str(clip), 0.12, 0.2)
    priors = call_node(PRIORS, video=video)[2]
    inputs = {"video": video, "checkpoint": STAGES[1], "crf": 0}
    (result,) = call_node(VIDEO, **inputs, coding_priors=priors)
    assert len(read(result.get_stream_source())) == len(priors.motion) == 5
    whole = call_node(PRIORS, video=comfy.api.InputImpl.VideoFromFile(str(clip)))[2]
    with pytest.raises(ValueError, match=r"^coding priors: are of another clip, frame"):
        call_node(VIDEO, **inputs, coding_priors=dataclasses.replace(whole))


def test_a_run_that_was_stopped_does_not_go_on_with_other_priors(
    comfy, call_node, files, load_in_nodes, monkeypatch, tmp_path
):
    path = write_clip(tmp_path / "long.mp4", blurry_clip(40, 44, 70), Fraction(25))
    video = comfy.api.InputImpl.VideoFromFile(str(path))
    priors = call_node(PRIORS, video=video)[2]
    inputs = {"video": video, "checkpoint": STAGES[1], "crf": 0}
    (expected,) = call_node(VIDEO, **inputs, coding_priors=priors)
    network = load_in_nodes(STAGES[1]).network.model
    forward, calls = network.forward, []

    def interrupt(*args, **options):
        calls.append(1)
        if len(calls) == 5:
            comfy.model_management.interrupt_current_processing(True)
        return forward(*args, **options)

    monkeypatch.setattr(network, "forward", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        call_node(VIDEO, **inputs, coding_priors=motionless(priors))
    monkeypatch.setattr(network, "forward", forward)
    (result,) = call_node(VIDEO, **inputs, coding_priors=priors)
    paths = (result.get_stream_source(), expected.get_stream_source())
    assert torch.equal(*map(read, paths))


def test_priors_of_another_clip_are_refused_in_one_line(comfy, call_node, files, frames, clip):
    priors = call_node(PRIORS, frames=frames)[2]
    for other, message in (
        (
            frames[:9],
            r"^coding priors: are of 11 frames of 70x45 pixels, the clip has 9 frames",
        ),
        (
            frames[:, :40],
            r"^coding priors: are of .* of 70x45 pixels, the clip of 70x40 pixels",
        ),
        (1 - frames, r"^coding priors: are of another clip, frame \d+ differs\. Make them of"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call_node(FRAMES, frames=other, checkpoint=STAGES[1], coding_priors=priors)
        assert "\n" not in str(caught.value)
        (created,) = call_node("CreateVideo", images=other, fps=25.0)
        with pytest.raises(ValueError, match=message):
            call_node(VIDEO, video=created, checkpoint=STAGES[1], coding_priors=priors)
    video = comfy.api.InputImpl.VideoFromFile(str(clip))
    with pytest.raises(ValueError, match="the clip of 70x44 pixels"):
        call_node(VIDEO, video=video, checkpoint=STAGES[1], coding_priors=priors)
    few = call_node(PRIORS, frames=video.get_components().images[:9])[2]
    with pytest.raises(ValueError, match=r"of 9 frames of 70x44 pixels, the clip has more"):
        call_node(VIDEO, video=video, checkpoint=STAGES[1], coding_priors=few)


def test_a_file_that_is_shorter_than_its_priors_is_told_of(
    comfy, call_node, files, frames, clip, caplog
):
    video = comfy.api.InputImpl.VideoFromFile(str(clip))
    images = video.get_components().images
    more = call_node(PRIORS, frames=torch.cat([images, images[-1:]]))[2]
    call_node(VIDEO, video=video, checkpoint=STAGES[1], coding_priors=more)
    assert "coding_priors: are of 12 frames, the video had 11" in caplog.text


def test_what_is_no_coding_priors_is_refused(call_node, files, frames):
    with pytest.raises(ValueError, match=r"^coding_priors must come from Coding Priors$"):
        call_node(FRAMES, frames=frames, checkpoint=STAGES[1], coding_priors={"motion": 1})


@pytest.mark.parametrize("node", [FRAMES, VIDEO])
def test_checkpoints_that_do_not_read_priors_restore_without(
    call_node, files, frames, node, caplog
):
    caplog.set_level("INFO")
    priors = call_node(PRIORS, frames=frames[:3])[2]
    (video,) = call_node("CreateVideo", images=frames[:5], fps=25.0)
    given = {"frames": frames[:5]} if node == FRAMES else {"video": video}
    call_node(node, checkpoint=NAME, coding_priors=priors, **given)
    line = f"coding_priors: {NAME} does not read them and restores without"
    assert caplog.text.count(line) == 1
