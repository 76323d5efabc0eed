from __future__ import annotations

import torch
from video_deblur.restoration.adaptation.kernels import RADIUS, blur_kernels, blurred


def texture(num_frames: int, side: int = 96) -> torch.Tensor:
    """Random patches of some pixels, `[T, H, W, 3]`."""
    generator = torch.Generator().manual_seed(5)
    small = torch.rand(num_frames, side // 3, side // 3, 1, generator=generator)
    return small.repeat_interleave(3, 1).repeat_interleave(3, 2).expand(-1, -1, -1, 3)


def motion(dy: int, dx: int) -> torch.Tensor:
    """Motion from the middle to an offset, `[31, 31]`."""
    kernel = torch.zeros(2 * RADIUS + 1, 2 * RADIUS + 1)
    for step in torch.linspace(0, 1, 40):
        kernel[RADIUS + round(float(step) * dy), RADIUS + round(float(step) * dx)] += 1
    return kernel / kernel.sum()


def test_kernels_are_found_with_their_direction():
    kernels = torch.stack([motion(0, 8), motion(6, -6), motion(0, 0)])
    sharp = texture(3)
    found = blur_kernels(sharp, blurred(sharp, kernels))
    assert torch.allclose(found.sum((1, 2)), torch.ones(3), atol=1e-5)
    for mine, true in zip(found, kernels, strict=True):
        # Of what was found, nearly all lies within a pixel of the true path.
        near = torch.nn.functional.max_pool2d(true[None, None], 3, 1, 1)[0, 0] > 0
        assert float(mine[near].sum()) > 0.9


def test_frames_blurred_again_are_like_the_blurry_ones():
    kernels = torch.stack([motion(3, 9), motion(-7, 2)])
    sharp = texture(2)
    blurry = blurred(sharp, kernels)
    again = blurred(sharp, blur_kernels(sharp, blurry))
    inner = (slice(None), slice(16, -16), slice(16, -16))
    left = (again - blurry)[inner].square().mean()
    assert float(left) < 0.05 * float((sharp - blurry)[inner].square().mean())


def test_a_flat_picture_gives_a_kernel_that_changes_nothing():
    flat = torch.full((1, 64, 64, 3), 0.5)
    kernel = blur_kernels(flat, flat)
    assert float(kernel[0, RADIUS, RADIUS]) == 1.0
    assert torch.allclose(blurred(texture(1), kernel), texture(1), atol=1e-6)
