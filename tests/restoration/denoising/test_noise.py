from __future__ import annotations

import pytest
import torch
from video_deblur.restoration.denoising.noise import FrameNoise, IndexedNoise


def test_the_noise_of_a_frame_is_its_draw_in_order():
    noise = FrameNoise(7).draw(5, 3, 4, 6)
    generator = torch.Generator().manual_seed(7)
    assert noise.shape == (1, 3, 5, 4, 6)
    for index in range(5):
        frame = torch.randn(1, 3, 4, 6, generator=generator)
        assert torch.equal(noise[:, :, index], frame)


@pytest.mark.parametrize("size", [(4, 8, 8), (3, 5, 7), (1, 1, 1)])
def test_longer_clips_and_segments_see_the_same_noise(size):
    long = FrameNoise(1).draw(9, *size)
    assert torch.equal(FrameNoise(1).draw(4, *size), long[:, :, :4])
    segments = FrameNoise(1)
    parts = [segments.draw(count, *size) for count in (2, 3, 4)]
    assert torch.equal(torch.cat(parts, dim=2), long)


def test_noise_equals_one_draw_where_comfyui_draws_at_once():
    # C * h * w is a multiple of 16, frames as batch.
    at_once = torch.randn(6, 4, 4, 5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(FrameNoise(3).draw(6, 4, 4, 5)[0].movedim(1, 0), at_once)


def test_seeds_matter_and_the_global_generator_does_not():
    first = FrameNoise(2**64 - 1).draw(1, 4, 4, 4)
    torch.manual_seed(99)
    assert torch.equal(FrameNoise(2**64 - 1).draw(1, 4, 4, 4), first)
    assert not torch.equal(FrameNoise(0).draw(1, 4, 4, 4), first)


@pytest.mark.parametrize("size", [(4, 8, 8), (3, 5, 7)])
def test_skipping_and_going_back_lead_to_the_same_noise(size):
    long = FrameNoise(1).draw(9, *size)
    noise = FrameNoise(1)
    noise.skip(4, *size)
    state = noise.state
    assert torch.equal(noise.draw(5, *size), long[:, :, 4:])
    other = FrameNoise(99)
    other.restore(state)
    assert torch.equal(other.draw(5, *size), long[:, :, 4:])
    with pytest.raises(ValueError, match="not the state of a noise generator"):
        other.restore(b"damaged")


def test_indexed_noise_begins_anywhere():
    size = (2, 3, 5)
    whole = IndexedNoise(7, 0).draw(9, *size)
    assert torch.equal(IndexedNoise(7, 4).draw(5, *size), whole[:, :, 4:])
    noise = IndexedNoise(7, 0)
    noise.skip(3, *size)
    state = noise.state
    assert torch.equal(noise.draw(2, *size), whole[:, :, 3:5])
    noise.restore(state)
    assert torch.equal(noise.draw(6, *size), whole[:, :, 3:])
    assert noise.draw(0, *size).shape == (1, 2, 0, 3, 5)
    assert not torch.equal(IndexedNoise(8, 0).draw(9, *size), whole)
    assert len({float(frame.sum()) for frame in whole.unbind(2)}) == 9
