"""Deblur Frames with a mask: restored inside, untouched bit by bit outside."""

from __future__ import annotations

import pytest
import torch

from .checkpoints import NAME, blurry_clip

pytestmark = pytest.mark.comfyui

NUM_FRAMES, HEIGHT, WIDTH = 3, 40, 56


@pytest.fixture(scope="module")
def frames():
    alpha = torch.rand(NUM_FRAMES, HEIGHT, WIDTH, 1)
    return torch.cat([blurry_clip(NUM_FRAMES, HEIGHT, WIDTH), alpha], dim=-1)


@pytest.fixture(scope="module")
def deblur(call_node, random_checkpoint, frames):
    def run(**inputs):
        (result,) = call_node("VideoDeblur_Deblur", frames=frames, checkpoint=NAME, **inputs)
        return result

    return run


@pytest.fixture(scope="module")
def restored(deblur, frames):
    result = deblur()
    assert (result - frames)[..., :3].abs().mean() > 0.01
    return result


def box() -> torch.Tensor:
    """Return one mask `[H, W]` with a rectangle."""
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[10:30, 12:40] = 1
    return mask


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (1, HEIGHT, WIDTH)])
def test_one_mask_serves_all_frames(deblur, frames, restored, shape):
    mixed = deblur(mask=box().view(shape), feather=0)
    inside = box().bool()
    assert torch.equal(mixed[:, inside], restored[:, inside])
    assert torch.equal(mixed[:, ~inside], frames[:, ~inside])


def test_a_mask_per_frame_restores_each_frame_where_its_mask_says(deblur, frames, restored):
    masks = torch.stack([box(), torch.zeros(HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH)])
    mixed = deblur(mask=masks, feather=8)
    assert torch.equal(mixed[1], frames[1])
    assert torch.equal(mixed[2], restored[2])
    assert torch.equal(mixed[0][:9], frames[0][:9])
    assert not torch.equal(mixed[0], frames[0])


def test_grey_values_mix(deblur, frames, restored):
    mixed = deblur(mask=torch.full((1, HEIGHT, WIDTH), 0.25), feather=0)
    assert torch.allclose(mixed, 0.75 * frames + 0.25 * restored, atol=1e-6)


def test_the_edge_is_soft_inside_the_mask_only(deblur, frames, restored):
    mixed = deblur(mask=box()[None], feather=6)
    assert torch.equal(mixed[:, ~box().bool()], frames[:, ~box().bool()])
    # From seven pixels in, everything is restored.
    assert torch.equal(mixed[:, 16:24, 18:34], restored[:, 16:24, 18:34])
    shares = (mixed - frames)[0, 20, 12:19, :3] / (restored - frames)[0, 20, 12:19, :3]
    profile = shares.nanmedian(dim=-1).values
    assert (profile.diff() > 0).all()
    assert 0 < profile[0] < 0.1
    assert profile[-1] == 1


def test_a_thin_mask_does_not_vanish_in_a_wide_edge(deblur, frames, restored):
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 20:23] = 1
    mixed = deblur(mask=mask, feather=8)
    assert (mixed - frames)[:, 21].abs().max() > 0.1 * (restored - frames)[:, 21].abs().max()


@pytest.mark.parametrize("feather", [0, 8, 512])
def test_a_full_mask_is_the_same_as_none(deblur, restored, feather):
    assert torch.equal(deblur(mask=torch.ones(1, HEIGHT, WIDTH), feather=feather), restored)


def test_an_empty_mask_returns_the_frames_without_work(deblur, frames, monkeypatch, comfy):
    def refuse(*args, **kwargs):
        raise AssertionError("sampled for an empty mask")

    monkeypatch.setattr(comfy.sample, "sample", refuse)
    assert torch.equal(deblur(mask=torch.zeros(1, HEIGHT, WIDTH)), frames)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 64, 64), "mask is 64x64 pixels but the frames are 56x40"),
        ((1, WIDTH, HEIGHT), "mask is 40x56 pixels but the frames are 56x40"),
        ((2, HEIGHT, WIDTH), "mask has 2 frames but the clip has 3"),
        ((0, HEIGHT, WIDTH), "mask has 0 frames but the clip has 3"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_in_one_line(deblur, shape, message):
    with pytest.raises(ValueError, match=message) as caught:
        deblur(mask=torch.ones(shape))
    assert "\n" not in str(caught.value)


def test_a_mask_with_nan_is_refused(deblur):
    with pytest.raises(ValueError, match="mask: values that are not numbers"):
        deblur(mask=torch.full((1, HEIGHT, WIDTH), torch.nan))
