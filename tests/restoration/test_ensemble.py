"""Restoring in several orientations: how pictures and motion are laid, and who does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_priors import ClipPriors
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.restoration import clip as clip_engine
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.clip_priors import laid_priors, priors_of_frames
from video_deblur.restoration.ensemble import Orientation, averaged
from video_deblur.restoration.feed_forward import FeedForward
from video_deblur.restoration.settings import RestorationSettings, preset_settings
from video_deblur.restoration.streaming import segments
from video_deblur.restoration.streaming.stream import restore_stream

from ..conftest import SMALL_CPGD_CONFIG
from .test_clip import moving_frames, settings

MIRRORED = [(), (-1,), (-2,), (-2, -1)]


@pytest.fixture(autouse=True)
def every_change_counts(monkeypatch):
    monkeypatch.setattr(clip_engine, "cored", lambda restored, frame: restored)


@pytest.fixture
def engine(randomise) -> ClipRestorer:
    network = Cpgd(SMALL_CPGD_CONFIG).eval().requires_grad_(False)
    return ClipRestorer(randomise(network, 0.1, add=True))


def seen_by(count):
    """What a network sees of the numbers 0 to 5 in two rows, in order."""
    seen = []
    picture = torch.arange(6.0).view(1, 2, 3)
    averaged(lambda orientation: seen.append(orientation.laid(picture)) or seen[-1], count)
    return [maps[0].tolist() for maps in seen]


def test_every_orientation_is_another():
    flips = [
        [[0, 1, 2], [3, 4, 5]],
        [[2, 1, 0], [5, 4, 3]],
        [[3, 4, 5], [0, 1, 2]],
        [[5, 4, 3], [2, 1, 0]],
    ]
    for count in (1, 2, 4):
        assert seen_by(count) == flips[:count]
    assert seen_by(8)[:4] == flips
    assert seen_by(8)[4] == [[0, 3], [1, 4], [2, 5]]
    assert len({str(seen) for seen in seen_by(8)}) == 8


def test_results_are_laid_back_and_averaged():
    picture, called = torch.rand(3, 5, 7), []
    # What adds its own column's number is one half of it everywhere, seen from both sides.
    restored = averaged(
        lambda orientation: orientation.laid(picture) + torch.arange(7.0),
        2,
        lambda: called.append(1),
    )
    torch.testing.assert_close(restored, picture + 3)
    assert len(called) == 1, "before each but the first"
    assert torch.equal(averaged(lambda orientation: picture, 1), picture)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mirrored", MIRRORED)
def test_motion_is_that_of_the_frames_as_they_lie(transposed, mirrored):
    orientation = Orientation(transposed, mirrored)
    frames = moving_frames(4, 64, 64, speed=4)
    laid = orientation.laid(torch.from_numpy(frames).movedim(-1, 1)).movedim(1, -1)
    expected = priors_of_frames(laid.contiguous().numpy())
    found = laid_priors(priors_of_frames(frames), orientation)
    inner = (0, slice(None), slice(1, None), slice(3, -3), slice(3, -3))
    # An encoder does not decide quite alike; the direction and size of what moves is the same.
    for ours, theirs in zip(found[:1], expected[:1], strict=True):
        axis = 1 if transposed else 0
        assert abs(theirs[inner][axis].median()) == 1
        assert ours[inner][axis].median() == theirs[inner][axis].median()
        assert ours[inner][1 - axis].median() == theirs[inner][1 - axis].median() == 0
    for ours, theirs in zip(found[1:], priors_of_frames(frames)[1:], strict=True):
        assert torch.equal(orientation.laid_back(ours), theirs)


class Reader(nn.Module):
    """Adds what its priors say moves to the right."""

    config, cpc = SMALL_CPGD_CONFIG, None

    def forward(self, video, priors):
        moved = priors.motion[:, :1].repeat_interleave(4, 3).repeat_interleave(4, 4)
        return video + 0.1 * moved


def test_each_orientation_is_restored_with_priors_that_fit():
    frames = torch.from_numpy(moving_frames(4, 64, 96, speed=4)) / 255 * 0.5 + 0.2
    once = ClipRestorer(Reader()).restore(frames, settings())
    assert (once - frames)[1:, 16:-16, 16:-16].abs().median() > 0.01
    # Mirrored, what moved right moves left: the mean is what went in.
    restored = ClipRestorer(Reader()).restore(frames, settings(self_ensemble=2))
    torch.testing.assert_close(restored, frames, atol=1e-5, rtol=0)


def test_a_clip_is_the_mean_of_its_orientations(engine, make_frames, monkeypatch):
    empty = [torch.zeros(1, c, 3, 8, 12) for c in (2, 1, 1)]
    monkeypatch.setattr(clip_engine, "priors_of_frames", lambda frames: ClipPriors(*empty))
    frames, expected = make_frames(3, 32, 48), []
    for mirrored in MIRRORED:
        laid = [axis - 1 for axis in mirrored]
        part = engine.restore(frames.flip(laid), settings())
        expected.append(part.flip(laid))
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    restored = engine.restore(frames, settings(self_ensemble=4))
    unclamped = torch.stack(expected)
    inside = ((unclamped > 0) & (unclamped < 1)).all(0)
    torch.testing.assert_close(
        restored[inside], unclamped.mean(0)[inside], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("count", [1, 4])
def test_the_bar_counts_every_orientation(engine, make_frames, count):
    seen = []
    chosen = settings(self_ensemble=count)
    engine.restore(make_frames(10, 32, 48), chosen, lambda *call: seen.append(call))
    # Two windows of one tile, and one for the priors of each.
    assert seen[-1] == (2 + 2 * count, 2 + 2 * count)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_segments_equal_the_clip_at_once(engine, monkeypatch):
    frames, chosen = moving_frames(20, 32, 40, speed=1), settings(self_ensemble=8)
    whole = engine.restore(torch.from_numpy(frames).float() / 255, chosen)
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    parts = np.stack(list(restore_stream(frames, engine, chosen)))
    assert np.array_equal(parts, (whole * 255).round().numpy().astype(np.uint8))


def test_networks_of_single_frames_do_so_too(randomise, make_frames):
    network = DblrNet(DblrNetConfig(channels=8, num_units=1, head_channels=8)).eval()
    engine = FeedForward(randomise(network.requires_grad_(False), 0.1))
    frames = 0.5 + 0.2 * (make_frames(6, 30, 42) - 0.5)
    mirrored = engine.restore(frames.flip(2), settings()).flip(2)
    parts = [engine.restore(frames, settings()), mirrored]
    restored = engine.restore(frames, settings(self_ensemble=2))
    assert (parts[0] - parts[1]).abs().max() > 1e-3
    both = torch.stack(parts)
    inside = ((both > 0) & (both < 1)).all(0)
    torch.testing.assert_close(restored[inside], both.mean(0)[inside], atol=1e-5, rtol=1e-5)
    tiled = engine.restore(frames, settings(self_ensemble=2, tile=64))
    assert torch.equal(tiled, restored)


def test_detailed_is_four_orientations_where_there_are_no_steps(small_config):
    assert preset_settings(SMALL_CPGD_CONFIG, "detailed").self_ensemble == 4
    assert preset_settings(SMALL_CPGD_CONFIG, "detailed", self_ensemble=8).self_ensemble == 8
    for preset in ("fast", "paper"):
        assert preset_settings(SMALL_CPGD_CONFIG, preset).self_ensemble == 1
    assert preset_settings(small_config, "detailed").self_ensemble == 1
    with pytest.raises(ValueError, match="self ensemble must be one of 1, 2, 4, 8, got 3"):
        RestorationSettings(self_ensemble=3)
