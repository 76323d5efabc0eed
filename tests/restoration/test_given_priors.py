"""Coding priors that were made beforehand, in place of those of windows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_config import CpcConfig
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.clip_priors import GivenPriors
from video_deblur.restoration.streaming import segments
from video_deblur.restoration.streaming.stream import restore_stream
from video_deblur.video.coding_priors import CodingPriors, encoded_priors, gather_priors

from ..conftest import KL_CONFIG, SMALL_CPGD_CONFIG
from .test_clip import Recorded, moving_frames, settings


def given(frames: np.ndarray) -> GivenPriors:
    return GivenPriors(gather_priors(encoded_priors(frames)))


def of_noise(frames: np.ndarray) -> CodingPriors:
    """Return priors that belong to frames, and that no codec would find."""
    generator = np.random.default_rng(5)
    num_frames, height, width = frames.shape[:3]
    marks = gather_priors(encoded_priors(frames)).marks
    motion = generator.normal(size=(num_frames, 2, height, width)).astype(np.float32)
    residual = generator.uniform(-1, 1, (num_frames, 1, height, width)).astype(np.float32)
    return CodingPriors(motion, residual, np.ones_like(residual, dtype=bool), marks)


def images(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).float() / 255


def test_one_window_gets_what_it_would_find_itself():
    frames, network = moving_frames(6), Recorded()
    engine = ClipRestorer(network)
    engine.restore(images(frames), settings())
    engine.priors = given(frames)
    engine.restore(images(frames), settings())
    (_, found), (_, taken) = network.seen
    for theirs, ours in zip(found, taken, strict=True):
        assert torch.equal(theirs, ours)


def test_windows_get_those_of_their_frames_and_none_at_their_start():
    frames, network = moving_frames(14, 40, 52), Recorded()
    engine = ClipRestorer(network)
    engine.priors = GivenPriors(priors := of_noise(frames))
    engine.restore(images(frames), settings(scene_cuts=False))
    for start, (video, seen) in zip((0, 6), network.seen, strict=True):
        assert seen.motion.shape == (1, 2, 8, 10, 13)
        assert video.shape[3:] == (40, 52)
        mean = priors.motion[start + 3, :, 4:8, 8:12].mean(axis=(1, 2)) / 4
        np.testing.assert_allclose(seen.motion[0, :, 3, 1, 2], mean, atol=1e-5)
        for part in seen:
            assert not part[:, :, 0].any()
            assert part[:, :, 1:].any()


def test_frames_that_are_padded_have_the_priors_of_their_border(randomise):
    frames = moving_frames(3, 33, 50)
    # Latents that are coarser than priors.
    config = dataclasses.replace(SMALL_CPGD_CONFIG, cpc=CpcConfig(divd=KL_CONFIG))
    engine = ClipRestorer(randomise(Cpgd(config), 0.05, add=True).eval().requires_grad_(False))
    assert engine.model.cpc.divd.downscale == 8
    engine.priors = GivenPriors(of_noise(frames))
    window = engine.priors.of_window(0, list(frames), (40, 56))
    assert window.motion.shape == (1, 2, 3, 10, 14)
    assert torch.equal(window.motion[..., 9, :], window.motion[..., 8, :])
    assert torch.equal(window.motion[..., 13], window.motion[..., 12])
    restored = engine.restore(images(frames), settings())
    assert restored.isfinite().all()
    engine.priors = None
    assert not torch.allclose(engine.restore(images(frames), settings()), restored, atol=1e-4)


@pytest.mark.parametrize("num_frames", [7, 23])
def test_segments_equal_the_clip_at_once(randomise, monkeypatch, num_frames):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    network = Cpgd(SMALL_CPGD_CONFIG).eval().requires_grad_(False)
    engine = ClipRestorer(randomise(network, 0.1, add=True))
    frames, chosen = moving_frames(num_frames, 40, 48, speed=1), settings(scene_cuts=False)
    by_itself = engine.restore(images(frames), chosen)
    engine.priors = GivenPriors(of_noise(frames))
    at_once = engine.restore(images(frames), chosen)
    streamed = np.stack(list(restore_stream(frames, engine, chosen)))
    assert np.abs(streamed - at_once.numpy() * 255).max() <= 0.501
    assert (at_once - by_itself).abs().max() > 1e-3, "priors count"


def test_shots_get_those_of_their_place():
    first, second = moving_frames(6) // 4, 190 + moving_frames(5) // 4
    frames, network = np.concatenate([first, second]), Recorded()
    engine = ClipRestorer(network)
    engine.priors = GivenPriors(priors := of_noise(frames))
    engine.restore(images(frames), settings())
    for (_, seen), start, count in zip(network.seen, (0, 6), (6, 5), strict=True):
        assert seen.motion.shape[2] == count
        mean = priors.motion[start + 2, :, 4:8, 8:12].mean(axis=(1, 2)) / 4
        np.testing.assert_allclose(seen.motion[0, :, 2, 1, 2], mean, atol=1e-5)


def test_priors_of_another_clip_are_refused_in_one_line():
    frames = moving_frames(14)
    for other, message in (
        (255 - frames, r"^coding priors: are of another clip, frame \d differs\. Make"),
        (
            frames[:10],
            r"^coding priors: are of 10 frames of 64x48 pixels, the clip has more\. ",
        ),
        (frames[:, :40], r"^coding priors: are of .* of 64x40 pixels, the clip of 64x48 pix"),
    ):
        engine = ClipRestorer(Recorded())
        engine.priors = given(other)
        with pytest.raises(ValueError, match=message):
            engine.restore(images(frames), settings())
    # Which frame is told of as the clip counts.
    late = np.concatenate([frames[:10], 255 - frames[10:]])
    engine.priors = given(late)
    with pytest.raises(ValueError, match=r"another clip, frame 1\d differs"):
        engine.restore(images(frames), settings(scene_cuts=False))


def test_what_they_are_is_known_by_their_values():
    frames = moving_frames(4)
    one, same, other = (given(each) for each in (frames, frames, moving_frames(4, speed=1)))
    assert one.identity == same.identity
    assert one.identity != other.identity
    assert len(one) == 4
