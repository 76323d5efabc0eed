"""Encoding and decoding in tiles against whole frames."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.config import AutoencoderConfig
from video_deblur.models.divd import Divd
from video_deblur.restoration.denoising import coding
from video_deblur.restoration.denoising.coding import (
    coding_tiles,
    decode_tiled,
    encode_tiled,
    encoder_reach,
    frames_at_once,
    frames_to_video,
    pixels_at_once,
    video_to_frames,
)

LAYERS = [((8, 8), (1, 2)), ((8,), (3,)), ((8, 8, 8), (1, 0, 1))]
"""Channels and blocks."""


@pytest.fixture(params=LAYERS, ids=str)
def model(request, small_config, randomise) -> Divd:
    channels, blocks = request.param
    autoencoder = dataclasses.replace(
        small_config.autoencoder, channels=channels, blocks=blocks, detail_skip=True
    )
    config = dataclasses.replace(small_config, autoencoder=autoencoder)
    return randomise(Divd(config).eval().requires_grad_(False), 0.1)


def encoded(model: Divd, frames: torch.Tensor) -> torch.Tensor:
    return encode_tiled(model.encode_blur, frames, model.config.autoencoder)


def decoded(model: Divd, latents: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    return decode_tiled(model.decode_restored, latents, frames, model.config.autoencoder)


def test_tiles_code_as_the_whole_frame_does(model, make_frames, monkeypatch):
    frames = make_frames(2, 301, 333)
    latents = encoded(model, frames)
    whole = decoded(model, latents, frames)
    assert (whole - frames).abs().max() > 1e-3
    config = model.config.autoencoder
    monkeypatch.setattr(coding, "_MOST_VALUES", 192**2 * config.values_per_pixel)
    height, width = latents.shape[3:]
    assert len(coding_tiles(config, height, width, encoder_reach(config))) > 1
    torch.testing.assert_close(encoded(model, frames), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded(model, latents, frames), whole, atol=1e-5, rtol=0)


def test_the_margin_is_little_more_than_is_needed(model, make_frames, monkeypatch):
    frames = make_frames(1, 300, 332)
    latents = encoded(model, frames)
    whole = decoded(model, latents, frames)
    config = model.config.autoencoder
    monkeypatch.setattr(coding, "_MOST_VALUES", 192**2 * config.values_per_pixel)
    monkeypatch.setattr(coding, "encoder_reach", lambda config: encoder_reach(config) // 2)
    assert (decoded(model, latents, frames) - whole).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("size", "most"),
    [((540, 960), 1.0), ((180, 320), 1.0), ((25000, 4), 1.0), ((4, 25000), 1.0)],
)
def test_tiles_cover_the_frame_within_their_budget(size, most):
    config = AutoencoderConfig(channels=(32, 64), blocks=(1, 2))
    reach = 2 * encoder_reach(config)
    seen = torch.zeros(size, dtype=torch.int32)
    for tile in coding_tiles(config, *size, reach):
        seen[tile.kept()] += 1
        rows, columns = tile.seen()
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start) * 16
        assert pixels <= most * 1280 * 720
    assert seen.min() == seen.max() == 1


def test_an_autoencoder_with_attention_sees_whole_frames():
    config = AutoencoderConfig(kind="kl", channels=(128,) * 4, blocks=(2,) * 4)
    assert len(coding_tiles(config, 270, 480, 1)) == 1
    assert pixels_at_once(config, 3, 2160, 3840) == 2160 * 3840


@pytest.mark.parametrize("size", [(2, 8, 12), (1, 25, 19), (3, 1, 1)])
def test_padding_is_undone(size, make_frames):
    frames = make_frames(*size)
    video = frames_to_video(frames, 4)
    assert [extent % 4 for extent in video.shape[3:]] == [0, 0]
    assert video.min() >= -1
    torch.testing.assert_close(video_to_frames(video, *size[1:]), frames)
    assert torch.equal(
        video[..., size[2] :], video[..., [size[2] - 1]].expand_as(video[..., size[2] :])
    )


@pytest.mark.parametrize(
    ("kind", "width", "size", "expected"),
    [
        ("local", 32, (720, 1280), 1),
        ("local", 32, (360, 640), 4),
        ("local", 32, (1080, 1920), 1),
        ("kl", 128, (128, 128), 3),
        ("kl", 128, (720, 1280), 1),
        ("kl", 128, (2160, 3840), 1),
    ],
)
def test_frames_are_encoded_as_many_at_once_as_memory_allows(kind, width, size, expected):
    config = AutoencoderConfig(kind=kind, channels=(width,) * 3, blocks=(1, 1, 1))
    assert frames_at_once(config, *size) == expected


def test_memory_to_ask_for_does_not_grow_with_frames_that_are_tiled():
    config = AutoencoderConfig(channels=(32, 64), blocks=(1, 2))
    assert pixels_at_once(config, 16, 2160, 3840) == pixels_at_once(config, 16, 720, 1280)
    assert pixels_at_once(config, 1, 64, 64) == 64 * 64
