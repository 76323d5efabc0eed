"""A first stage at work beside the checkpoint's network.

`mixed` stands in for fusion, so that these tests show what is handed to it.
"""

from __future__ import annotations

import dataclasses
from itertools import islice
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.feed_forward import FeedForward
from video_deblur.restoration.first_stage import stage
from video_deblur.restoration.first_stage.stage import FirstStage
from video_deblur.restoration.frames import TensorFrames, rounded
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import segments, stream
from video_deblur.restoration.streaming.segments import plan_segments, widened
from video_deblur.restoration.streaming.stream import (
    restore_segment,
    restore_segments,
    restore_stream,
)

from ...conftest import SMALL_CPGD_CONFIG
from ..borrowing.test_passes import texture

pytestmark = pytest.mark.usefixtures("any_first_stage")

SETTINGS = RestorationSettings(window=8, overlap=4, scene_cuts=False)
SMALL = DblrNetConfig(channels=8, num_units=2, head_channels=16)


class Inverted:
    """A network for single images; counts what it is given."""

    config = SimpleNamespace(num_frames=1)
    reach = None

    def __init__(self):
        self.seen = []

    def restore_frame(self, around):
        self.seen.append(around[0])
        return 1 - around[0]


@pytest.fixture
def networks(small_model, randomise):
    """Engines by name, each new."""
    return {
        "divd": lambda: Deblurrer(small_model),
        "dblrnet": lambda: FeedForward(
            randomise(DblrNet(SMALL).eval().requires_grad_(False), 0.15)
        ),
        "image": lambda: FeedForward(Inverted()),
    }


def with_first(main, first):
    """Return an engine with another one as its first stage."""
    main.first_stage = FirstStage(first, "other", "00")
    return main


@pytest.fixture
def panels(monkeypatch) -> list:
    """Hand out the mean of both results; returns the panels that fusion was given."""
    seen = []

    def mixed(panels, device, before, wanted=None, *, borrow=True, refused=None):
        def mean(panel):
            seen.append(panel)
            first = panel.restored if panel.first is None else panel.first
            return (panel.restored.clamp(0, 1) + first) / 2

        return islice(map(mean, panels), *(wanted or (0, None)))

    monkeypatch.setattr(stream, "fuse", mixed)
    return seen


@pytest.fixture
def _short_segments(monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)


def clip(num_frames: int, height: int = 16, width: int = 24) -> np.ndarray:
    rng = np.random.default_rng(0)
    wide = rng.integers(60, 200, (height, width + num_frames, 3), np.uint8)
    return np.stack([wide[:, index : index + width] for index in range(num_frames)])


def at_once(engine, frames, settings):
    return engine.restore(torch.from_numpy(frames).float() / 255, settings).numpy() * 255


@pytest.mark.usefixtures("_short_segments", "panels")
@pytest.mark.parametrize("borrow", [False, True])
@pytest.mark.parametrize(
    ("main", "first"),
    [
        ("divd", "image"),
        ("divd", "dblrnet"),
        ("divd", "divd"),
        ("dblrnet", "divd"),
        ("dblrnet", "image"),
        ("image", "dblrnet"),
    ],
)
def test_segments_equal_the_clip_at_once(networks, main, first, borrow):
    settings = RestorationSettings(window=8, overlap=4, borrow=borrow, scene_cuts=False)
    frames = clip(70)
    engine = with_first(networks[main](), networks[first]())
    whole = at_once(engine, frames, settings)
    streamed = list(restore_segments(frames, engine, settings))
    assert len(streamed) >= 3
    together = np.concatenate([np.stack(part.frames) for part in streamed])
    assert np.abs(together - whole).max() <= 0.501
    alone = at_once(networks[main](), frames, settings)
    assert np.abs(whole - alone).max() > 3, "the first stage shows"


@pytest.mark.usefixtures("_short_segments", "panels")
@pytest.mark.parametrize("first", ["image", "dblrnet", "divd"])
def test_segments_that_are_restored_alone_are_the_same_to_the_bit(networks, first):
    frames = clip(50)
    engine = with_first(networks["divd"](), networks[first]())
    streamed = np.stack(list(restore_stream(frames, engine, SETTINGS)))
    for segment in plan_segments(50, engine.joint_grid(SETTINGS, 16, 24)):
        context = frames[segment.context_start : segment.context_stop]
        engine = with_first(networks["divd"](), networks[first]())
        restored = restore_segment([*context], segment, engine, SETTINGS)
        assert np.array_equal(np.stack(restored), streamed[segment.start : segment.stop])


@pytest.mark.usefixtures("_short_segments", "panels")
def test_a_network_for_single_images_restores_every_frame_once(networks):
    engine = with_first(networks["divd"](), networks["image"]())
    list(restore_stream(clip(50), engine, SETTINGS))
    assert len(engine.first_stage.engine.model.seen) == 50


def test_it_looks_once_where_the_network_looks_in_several_orientations(networks):
    engine = with_first(networks["image"](), networks["image"]())
    chosen = dataclasses.replace(SETTINGS, self_ensemble=4)
    list(restore_stream(clip(5), engine, chosen))
    assert len(engine.first_stage.engine.model.seen) == 5
    assert len(engine.model.seen) == 20


@pytest.mark.parametrize("main", ["divd", "image"])
def test_fusion_gets_all_there_is_of_a_frame(networks, panels, main):
    frames = clip(5)
    engine = with_first(networks[main](), networks["image"]())
    at_once(engine, frames, SETTINGS)
    assert len(panels) == 5
    colors = torch.from_numpy(frames).float() / 255
    for panel, blurry in zip(panels, colors, strict=True):
        assert torch.equal(panel.blurry, blurry)
        torch.testing.assert_close(panel.first, 1 - blurry, atol=1e-5, rtol=0)
        assert panel.restored.shape == blurry.shape


def test_sharp_frames_are_not_run_through_it(networks, panels, monkeypatch):
    blur = iter([1.0] + [0.0] * 9)
    monkeypatch.setattr(
        "video_deblur.restoration.streaming.footage.measure_blur", lambda frame: next(blur)
    )
    settings = RestorationSettings(window=8, overlap=4, skip_sharp=True, scene_cuts=False)
    engine = with_first(networks["divd"](), networks["image"]())
    at_once(engine, clip(10), settings)
    assert len(engine.first_stage.engine.model.seen) == 4
    assert [panel.first is None for panel in panels] == [False] * 4 + [True] * 6


@pytest.mark.usefixtures("_short_segments")
def test_frames_that_come_out_broken_have_no_candidate(networks, panels, caplog):
    frames = clip(40)
    frames[[3, 4, 30]] = 0
    first = networks["image"]()
    first.model.restore_frame = lambda around: around[0] / around[0].amax()
    engine = with_first(networks["divd"](), first)
    restored = np.stack(list(restore_stream(frames, engine, SETTINGS)))
    assert restored.shape == frames.shape
    assert sum(panel.first is None for panel in panels) >= 3
    for panel in panels:
        assert (panel.first is None) == (panel.blurry.amax() == 0)
    (record,) = caplog.records
    assert "first stage other was not trusted" in record.message


@pytest.mark.usefixtures("panels")
def test_a_broken_video_network_leaves_the_checkpoint_alone(networks, caplog, monkeypatch):
    frames = clip(20)
    alone = at_once(networks["divd"](), frames, SETTINGS)
    first = networks["divd"]()
    calls = []

    def broken(*inputs):
        calls.append(inputs)
        raise FloatingPointError

    monkeypatch.setattr(first, "predict", broken)
    engine = with_first(networks["divd"](), first)
    assert np.array_equal(at_once(engine, frames, SETTINGS), alone)
    assert len(calls) == 1, "it is not tried again for each frame"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("first", ["image", "dblrnet", "divd"])
def test_progress_rises_to_its_total(networks, first):
    calls = []
    engine = with_first(networks["divd"](), networks[first]())
    engine.restore(torch.rand(20, 16, 24, 3), SETTINGS, lambda *call: calls.append(call))
    total = calls[-1][1]
    assert [done for done, _ in calls] == list(range(total + 1))


@pytest.mark.usefixtures("panels")
def test_the_network_may_see_what_the_first_stage_made(networks, monkeypatch):
    monkeypatch.setattr(stage, "followed", lambda panel: panel.first)
    settings = RestorationSettings(
        window=8, overlap=4, scene_cuts=False, network_input="first_stage"
    )
    frames = clip(20)
    engine = with_first(networks["divd"](), networks["image"]())
    seen = 1 - torch.from_numpy(frames).float() / 255
    alone = networks["divd"]().restore(seen, SETTINGS).numpy() * 255
    expected = (alone + seen.numpy() * 255) / 2
    assert np.abs(at_once(engine, frames, settings) - expected).max() < 0.05


def test_the_network_sees_a_first_stage_as_far_as_it_is_trusted():
    sharp = torch.from_numpy(texture(seed=3, size=(96, 128)).astype(np.float32))
    blurry = torch.from_numpy(cv2.blur(sharp.numpy(), (11, 1)))
    frames = TensorFrames(blurry.expand(3, -1, -1, -1), torch.device("cpu"))
    candidates = [rounded(each, np.dtype(np.uint16)) for each in (sharp, 1 - sharp)]
    seen = stage.SeenFrames(frames, [*candidates, None]).colors(0, 3)
    assert (seen[0] - sharp).square().mean() < 0.3 * (blurry - sharp).square().mean()
    assert (seen[1] - blurry).abs().max() < 1e-4
    assert torch.equal(seen[2], blurry)


@pytest.mark.usefixtures("_short_segments", "panels")
def test_segments_equal_the_clip_when_the_network_sees_the_first_stage(networks):
    settings = RestorationSettings(
        window=8, overlap=4, scene_cuts=False, network_input="first_stage"
    )
    frames = clip(50)
    engine = with_first(networks["divd"](), networks["image"]())
    whole = at_once(engine, frames, settings)
    engine.first_stage.engine.model.seen.clear()
    streamed = np.stack(list(restore_stream(frames, engine, settings)))
    assert np.abs(streamed - whole).max() <= 0.501
    assert len(engine.first_stage.engine.model.seen) == 50


@pytest.mark.parametrize(
    ("first", "message"),
    [(None, "there is none"), ("dblrnet", "together with their neighbours")],
)
def test_what_no_first_stage_can_give_is_refused(networks, first, message):
    settings = RestorationSettings(network_input="first_stage")
    engine = networks["divd"]()
    if first is not None:
        engine = with_first(engine, networks[first]())
    with pytest.raises(ValueError, match=message):
        engine.restore(torch.rand(2, 16, 16, 3), settings)


def test_an_unknown_network_input_is_refused():
    with pytest.raises(ValueError, match="network input must be one of blurry, first_stage"):
        RestorationSettings(network_input="sharp")


@pytest.mark.parametrize("near", [0, 1, 2, 5])
@pytest.mark.parametrize(("window", "overlap"), [(2, 0), (2, 1), (8, 4), (16, 8), (7, 2)])
def test_a_widened_grid_holds_frames_around_all_that_is_restored(near, window, overlap):
    settings = RestorationSettings(window=window, overlap=overlap)
    plain = segments.segment_grid(settings, 64, 64)
    grid = widened(plain, near)
    assert (plain == grid) or near > 0
    plan = plan_segments(400, grid)
    assert len(plan) >= 2
    for segment in plan:
        first, last = grid.restored(segment)
        assert segment.context_start == 0 or first - segment.context_start >= near
        assert segment.context_stop == 400 or segment.context_stop - last >= near
        assert segment.context_start % plain.hop == 0
    assert [segment.start for segment in plan[1:]] == [segment.stop for segment in plan[:-1]]


@pytest.mark.parametrize("first", ["cpgd", "divd"])
def test_networks_of_windows_cut_the_same_with_what_each_needs_around(networks, first):
    networks["cpgd"] = lambda: ClipRestorer(Cpgd(SMALL_CPGD_CONFIG))
    (main,) = {"cpgd", "divd"} - {first}
    engine = with_first(networks[main](), networks[first]())
    sampled = dataclasses.replace(SETTINGS, steps=4)
    alone = networks["divd"]().joint_grid(sampled, 16, 24)
    assert alone.context > networks["cpgd"]().joint_grid(sampled, 16, 24).context
    assert engine.joint_grid(sampled, 16, 24) == alone
    wide = dataclasses.replace(SETTINGS, window=16)
    large = engine.joint_grid(wide, 2160, 3840)
    assert large.window == 6
    restorer = stream.SegmentRestorer(engine, wide, 2160, 3840)
    assert restorer._settings.window == 6


def test_without_one_fusion_gets_no_candidate(networks, panels):
    at_once(networks["divd"](), clip(3), SETTINGS)
    assert [panel.first for panel in panels] == [None] * 3
