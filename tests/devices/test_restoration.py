"""Clips restored on devices that are not there: they come out as on the CPU.

On pretended devices, from frames on the host and on the device. Covered: that
no operation mixes devices and nothing needs what Apple's GPUs lack. Not covered: the devices'
own kernels and streams, half precision, memory, files, nodes.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.models.divd import Divd
from video_deblur.restoration.borrowing.passes import borrow_stream
from video_deblur.restoration.color import match_color
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.feed_forward import FeedForward
from video_deblur.restoration.first_stage.stage import FirstStage
from video_deblur.restoration.phases import blend
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming.stream import restore_stream

KINDS = ["cuda", "mps"]
PLAIN = RestorationSettings(borrow=False, scene_cuts=False)
SETTINGS = {
    "one step": PLAIN,
    "steps, guidance": RestorationSettings(
        borrow=False, steps=3, solver="dpmpp_2m", guidance_scale=2.0, window=4, overlap=2
    ),
    "matched colours": RestorationSettings(borrow=False, color_match=True, strength=0.5),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_clip_is_restored_as_on_the_cpu(small_model, make_frames, name, where, kind):
    frames = make_frames(5, 18, 22, 4)
    with sdpa_kernel(SDPBackend.MATH):
        expected = Deblurrer(copy.deepcopy(small_model)).restore(frames, SETTINGS[name])
    with PretendedDevice(kind) as pretended:
        engine = Deblurrer(small_model.to(pretended.device), pretended.device)
        given = frames.to(pretended.device) if where == "device" else frames
        restored = engine.restore(given, SETTINGS[name])
        assert restored.device == given.device
        torch.testing.assert_close(restored.cpu(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_autoencoder_of_public_weights_restores_too(kl_model: Divd, make_frames, kind):
    frames = make_frames(2, 20, 28)
    with sdpa_kernel(SDPBackend.MATH):
        expected = Deblurrer(copy.deepcopy(kl_model)).restore(frames, PLAIN)
    with PretendedDevice(kind) as pretended:
        engine = Deblurrer(kl_model.to(pretended.device), pretended.device)
        restored = engine.restore(frames, PLAIN)
        torch.testing.assert_close(restored, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_feed_forward_network_restores_as_on_the_cpu(randomise, make_frames, kind):
    config = DblrNetConfig(channels=4, num_units=1, head_channels=4)
    network = randomise(DblrNet(config), 0.1, add=True).eval().requires_grad_(False)
    frames = make_frames(3, 20, 28)
    expected = FeedForward(copy.deepcopy(network)).restore(frames, PLAIN)
    with PretendedDevice(kind) as pretended:
        engine = FeedForward(network.to(pretended.device), pretended.device)
        assert torch.equal(engine.restore(frames, PLAIN), expected)


class Contrast(nn.Module):
    """A network for single images that looks at all of a tile."""

    config = SimpleNamespace(num_frames=1)
    reach = None

    def restore_frame(self, around):
        return around[0] * 1.5 - around[0].mean() * 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_are_blended_as_on_the_cpu(make_frames, kind):
    frames, settings = make_frames(1, 80, 150), RestorationSettings(borrow=False, tile=64)
    expected = FeedForward(Contrast()).restore(frames, settings)
    with PretendedDevice(kind) as pretended:
        engine = FeedForward(Contrast(), pretended.device)
        torch.testing.assert_close(engine.restore(frames, settings), expected)


@pytest.mark.usefixtures("any_first_stage")
@pytest.mark.parametrize("kind", KINDS)
def test_a_first_stage_restores_as_on_the_cpu(small_model, make_frames, kind):
    frames = make_frames(3, 66, 70)
    settings = RestorationSettings(network_input="first_stage")

    def engine(model, device):
        made = Deblurrer(model, device)
        made.first_stage = FirstStage(FeedForward(Contrast(), device), "contrast", "00")
        return made

    with sdpa_kernel(SDPBackend.MATH):
        expected = engine(copy.deepcopy(small_model), "cpu").restore(frames, settings)
    pixels = (frames * 255).round().byte().numpy()
    with PretendedDevice(kind) as pretended:
        there = engine(small_model.to(pretended.device), pretended.device)
        torch.testing.assert_close(there.restore(frames, settings), expected, atol=1e-4, rtol=0)
        streamed = list(restore_stream(list(pixels), there, settings))
    assert np.abs(np.stack(streamed) / 255 - expected.numpy()).max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_frames_borrow_as_on_the_cpu(make_frames, kind):
    frames = make_frames(5, 80, 96)
    # A blurred frame between sharp ones: it has something to take.
    frames[2] = frames[2].roll(3, 1) * 0.5 + frames[2] * 0.5
    expected = torch.stack(list(borrow_stream(frames)))
    assert not torch.equal(expected, frames)
    with PretendedDevice(kind) as pretended:
        for given in (frames, frames.to(pretended.device)):
            borrowed = list(borrow_stream(given, pretended.device))
            # Apple's GPUs cannot read between pixels as this needs it.
            where = "cpu" if kind == "mps" else kind
            assert {frame.device.type for frame in borrowed} == {where}
            found = torch.stack([frame.cpu() for frame in borrowed])
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_clip_and_stream_are_restored_with_borrowing(small_model, make_frames, kind):
    # Of 8 bits, as the stream gets them.
    frames = (make_frames(5, 80, 96) * 255).round() / 255
    settings = RestorationSettings()
    with sdpa_kernel(SDPBackend.MATH):
        expected = Deblurrer(copy.deepcopy(small_model)).restore(frames, settings)
    pixels = (frames * 255).round().byte().numpy()
    with PretendedDevice(kind) as pretended:
        engine = Deblurrer(small_model.to(pretended.device), pretended.device)
        torch.testing.assert_close(
            engine.restore(frames, settings), expected, atol=1e-4, rtol=0
        )
        streamed = list(restore_stream(list(pixels), engine, settings))
    assert np.abs(np.stack(streamed) / 255 - expected.numpy()).max() < 0.003


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("color_match", [False, True])
def test_frames_are_blended_where_they_are(make_frames, color_match, kind):
    frames = make_frames(2, 40, 36)
    restored = frames.flip(2)
    expected = blend(frames, restored, 0.7, color_match)
    with PretendedDevice(kind) as pretended:
        here, there = frames, frames.to(pretended.device)
        for colors in (here, there):
            for other in (restored, restored.to(pretended.device)):
                mixed = blend(colors, other, 0.7, color_match)
                assert mixed.device == colors.device
                assert torch.equal(mixed.cpu(), expected)
        matched = match_color(restored.to(pretended.device), there)
        assert torch.equal(matched.cpu(), match_color(restored, frames))
