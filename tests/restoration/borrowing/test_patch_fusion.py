from __future__ import annotations

import numpy as np
import pytest
import torch
from video_deblur.restoration.borrowing import patch_fusion
from video_deblur.restoration.borrowing.patch_fusion import MARGIN


def everywhere(height, width):
    counts = patch_fusion.num_patches(height), patch_fusion.num_patches(width)
    return patch_fusion.chosen_columns(np.ones(counts, bool), torch.device("cpu"))


def fused(stack, padding, columns, exponent=12):
    """Return what fusing `[K, 3, H, W]` adds to the first picture, without margins."""
    count, _, rows, width = stack.shape
    padded = patch_fusion.empty_stack(count, sum(padding) + rows, width, stack.device)
    inner = ..., slice(padding[0], padding[0] + rows), slice(MARGIN, MARGIN + width)
    padded[inner] = stack
    patch_fusion.repeat_edges_(padded, padding, width)
    return patch_fusion.aggregate(padded, columns, exponent)[inner]


def test_patches_add_up_to_the_picture():
    line = patch_fusion._window(torch.device("cpu")).square()
    hop, overlap = patch_fusion.HOP, MARGIN
    torch.testing.assert_close(
        line[overlap:hop, :overlap] + line[overlap:hop, hop:],
        torch.ones(hop - overlap, overlap),
    )


def test_equal_pictures_add_nothing_to_each_other():
    picture = torch.rand(1, 3, 200, 240, generator=torch.Generator().manual_seed(0))
    ((_, _, _, padding),) = patch_fusion.patch_bands(200, 240, 3)
    added = fused(picture.repeat(3, 1, 1, 1), padding, everywhere(200, 240))
    torch.testing.assert_close(added, torch.zeros_like(picture[0]), atol=1e-5, rtol=0)


def test_patches_that_are_not_chosen_add_nothing_and_change_no_other():
    pictures = torch.rand(2, 3, 100, 300, generator=torch.Generator().manual_seed(0))
    ((_, _, _, padding),) = patch_fusion.patch_bands(100, 300, 2)
    chosen = np.zeros((3, 7), bool)
    chosen[1, [1, 4]] = True
    some = fused(pictures, padding, patch_fusion.chosen_columns(chosen, torch.device("cpu")))
    others = fused(pictures, padding, patch_fusion.chosen_columns(~chosen, torch.device("cpu")))
    torch.testing.assert_close(
        some + others, fused(pictures, padding, everywhere(100, 300)), atol=1e-6, rtol=0
    )
    # Patch 1 begins at row or column 1 * 48 - 16.
    assert some[:, 32:96, 32:96].abs().max() > 0.1
    some[:, 32:96, 32:96] = some[:, 32:96, 176:240] = 0
    assert not some.any()


@pytest.mark.parametrize("size", [(192, 96), (190, 240), (200, 230)])
def test_what_neighbours_have_arrives_up_to_every_edge(size, monkeypatch):
    height, width = size
    stack = torch.zeros(2, 3, height, width)
    stack[1] += torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    # Nothing in the first picture: all of the second one is taken.
    monkeypatch.setattr(patch_fusion, "BAND_VALUES", 1)
    total = torch.zeros(3, height, width)
    columns = everywhere(height, width)
    for rows, first, last, padding in patch_fusion.patch_bands(height, width, 2):
        total[:, first:last] += fused(stack[:, :, first:last], padding, columns[rows])
    torch.testing.assert_close(total, stack[1], atol=1e-5, rtol=0)
