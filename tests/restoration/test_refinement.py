"""Sampling of CPGD-Net's second stage, alone and in its engine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_config import CpcConfig
from video_deblur.models.cpgd_control import Cpc
from video_deblur.models.schedule import clean_from_velocity
from video_deblur.restoration import refinement
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.color import match_color
from video_deblur.restoration.refinement import refine
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import segments
from video_deblur.restoration.streaming.stream import restore_stream

from ..conftest import KL_CONFIG, SMALL_CONFIG, SMALL_CPGD_CONFIG


def settings(**values) -> RestorationSettings:
    return RestorationSettings(**{"borrow": False, "window": 8, "overlap": 2, **values})


def network(randomise, divd=SMALL_CONFIG):
    cpc = CpcConfig(divd=divd, control_channels=(8, 16))
    config = dataclasses.replace(SMALL_CPGD_CONFIG, cpc=cpc)
    return randomise(Cpgd(config), 0.05, add=True).eval().requires_grad_(False)


def piece(num_frames=3, height=16, width=24):
    blurry, first = torch.rand(2, 1, 3, num_frames, height, width) * 1.6 - 0.8
    prior = torch.rand(1, 3, num_frames, height // 4, width // 4)
    noise = torch.randn(1, 4, num_frames, height // 4, width // 4)
    return blurry, first, prior, noise


def refined(cpc, parts, **values):
    calls = []
    result = refine(cpc, *parts, settings(**values), torch.float32, lambda: calls.append(1))
    return result, len(calls)


def test_one_step_is_what_the_unet_makes_of_noise_on_top_of_the_first_stage(randomise):
    # A branch that is fresh: the diffusion model alone.
    cpc = Cpc(CpcConfig(divd=SMALL_CONFIG)).eval().requires_grad_(False)
    divd = randomise(cpc.divd, 0.05, add=True)
    _, first, _, noise = parts = piece()
    result, calls = refined(cpc, parts)
    assert calls == 1
    timesteps = torch.tensor([999])
    known = torch.cat([noise, divd.encode_blur(first)], dim=1)
    v = divd.unet(known, timesteps, divd.encode_tokens(first[:, :, 1]))
    latents = clean_from_velocity(divd.config.schedule, noise, v, timesteps)
    whole = first + divd.decode(latents) - divd.decode(divd.encode_sharp(first))
    images = [clip[0].movedim(0, -1) for clip in (whole, first)]
    expected = match_color(*images).movedim(-1, 0)[None]
    torch.testing.assert_close(result, expected)
    assert (result - first).std() > 0.01


def test_low_frequencies_are_those_of_the_first_stage(randomise, monkeypatch):
    cpc = network(randomise).cpc
    # Latents, and with them colours, that are off everywhere.
    torch.nn.init.constant_(cpc.divd.unet.conv_out.bias, 6.0)
    parts = piece(2, 160, 160)
    result, _ = refined(cpc, parts)
    monkeypatch.setattr(refinement, "_with_low_frequencies", lambda refined, first: refined)
    plain, _ = refined(cpc, parts)
    off, kept = (abs(float((clip - parts[1]).mean())) for clip in (plain, result))
    assert off > 0.02
    assert kept < 0.1 * off


def test_steps_and_guidance_are_heeded(randomise):
    cpc, parts = network(randomise).cpc, piece()
    one, _ = refined(cpc, parts)
    four, calls = refined(cpc, parts, steps=4)
    assert calls == 4
    guided, calls = refined(cpc, parts, steps=4, guidance_scale=3.0)
    assert calls == 8
    assert not torch.allclose(one, four, atol=1e-3)
    assert not torch.allclose(four, guided, atol=1e-3)


def test_values_that_are_not_finite_end_the_run(randomise):
    cpc = network(randomise).cpc
    torch.nn.init.constant_(cpc.divd.unet.conv_out.bias, float("inf"))
    with pytest.raises(FloatingPointError, match="not finite"):
        refined(cpc, piece())


@pytest.fixture
def engine(randomise) -> ClipRestorer:
    return ClipRestorer(network(randomise))


def moving(num_frames, height, width):
    generator = np.random.default_rng(1)
    wide = generator.integers(0, 255, (height, width + num_frames, 3), np.uint8)
    return np.stack([wide[:, i : i + width] for i in range(num_frames)])


def test_segments_equal_the_clip_at_once(engine, monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    frames, chosen = moving(23, 24, 32), settings(scene_cuts=False, seed=3)
    at_once = engine.restore(torch.from_numpy(frames).float() / 255, chosen).numpy() * 255
    streamed = np.stack(list(restore_stream(frames, engine, chosen)))
    assert np.abs(streamed - at_once).max() <= 0.501
    other = engine.restore(
        torch.from_numpy(frames).float() / 255, dataclasses.replace(chosen, seed=4)
    )
    assert np.abs(other.numpy() * 255 - at_once).max() > 1, "noise is drawn by the seed"


@pytest.mark.parametrize("divd", [SMALL_CONFIG, KL_CONFIG])
@pytest.mark.parametrize(("height", "width"), [(5, 9), (70, 90)])
def test_frames_of_any_size_are_refined_tile_by_tile(randomise, divd, height, width):
    frames = torch.from_numpy(moving(3, height, width)).float() / 255
    engine = ClipRestorer(network(randomise, divd))
    calls = []
    restored = engine.restore(frames, settings(tile=64), lambda *call: calls.append(call))
    assert restored.shape == frames.shape
    assert restored.isfinite().all()
    tiles = 1 if height < 64 else 4
    # Priors, then the first stage and one step for each.
    assert calls == [(done, 1 + 2 * tiles) for done in range(2 * tiles + 2)]
