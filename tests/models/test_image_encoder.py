from __future__ import annotations

import numpy as np
import pytest
import torch
from video_deblur.models.config import ImageEncoderConfig
from video_deblur.models.image_encoder import (
    CLIP_MEAN,
    CLIP_STD,
    ImageEncoder,
    VisionTransformer,
)

CONFIG = ImageEncoderConfig(
    image_size=32,
    patch_size=8,
    width=64,
    layers=2,
    heads=4,
    embedding_dim=48,
    num_tokens=3,
    context_dim=20,
)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_the_tower_equals_that_of_open_clip(randomise, assert_same, dtype):
    from open_clip.transformer import VisionTransformer as Reference

    reference = Reference(
        image_size=32, patch_size=8, width=64, layers=2, heads=4, mlp_ratio=4.0, output_dim=48
    )
    randomise(reference, 0.1, add=True).eval()
    ours = VisionTransformer(CONFIG, dtype=dtype).eval()
    ours.load_state_dict(reference.state_dict(), strict=True)
    reference.load_state_dict(ours.state_dict())  # the rounded weights
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert_same(ours(images.to(dtype)), reference.double()(images), dtype)


@pytest.mark.parametrize("size", [(32, 32), (50, 37), (37, 50), (64, 33), (20, 45)])
def test_preprocessing_equals_that_of_open_clip(size):
    from open_clip.transform import image_transform
    from PIL import Image

    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    red, green = 128 + 90 * np.sin(x / 4), 128 + 90 * np.cos(y / 5)
    pixels = np.stack([red, green, (x + y) % 200], axis=-1).astype(np.uint8)
    reference = image_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)(
        Image.fromarray(pixels)
    )
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = ImageEncoder(CONFIG).preprocess(images)[0]
    # PIL rounds to 8 bits after each of its two passes: 1.5 levels of 255 at most, in units
    # of the standard deviation that both divide by.
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() < 1.5 / 255 / min(CLIP_STD)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (25, 90), (200, 33)])
def test_frames_of_any_size_give_tokens(size):
    encoder = ImageEncoder(CONFIG).eval().requires_grad_(False)
    tokens = encoder(torch.rand(2, 3, *size) * 2 - 1)
    assert tokens.shape == (2, 3, 20)
    assert tokens.isfinite().all()


def test_frames_are_encoded_one_by_one(assert_same):
    encoder = ImageEncoder(CONFIG).eval().requires_grad_(False)
    images = torch.rand(3, 3, 40, 36) * 2 - 1
    tokens = encoder(images)
    assert_same(encoder(images[1:2]), tokens[1:2])
    assert (tokens[0] - tokens[1]).abs().max() > 1e-5


def test_storage_precision_is_kept():
    encoder = ImageEncoder(CONFIG, dtype=torch.bfloat16).eval().requires_grad_(False)
    images = (torch.rand(1, 3, 40, 36) * 2 - 1).bfloat16()
    assert encoder.preprocess(images).dtype == torch.bfloat16
    assert encoder(images).dtype == torch.bfloat16
